//! The engines' own speed, on the same bytes in one flat buffer.

use boreal::compiler::{CompilerBuilder, CompilerParams};
use boreal::scanner::ScanParams;
use std::path::{Path, PathBuf};

const EXTERNALS: [&str; 5] = ["filename", "filepath", "extension", "filetype", "owner"];
const ROUNDS: usize = 5;

/// Scans the buffer with each engine that there is.
pub(crate) fn flat(rules: &Path, bytes: &[u8], line: &impl Fn(&str, f64)) {
    let mut compiler = CompilerBuilder::new().build();
    compiler.set_params(CompilerParams::default().disable_unknown_escape_warning(true));
    EXTERNALS.iter().for_each(|name| _ = compiler.define_symbol(name, ""));
    for (number, file) in files(rules).iter().enumerate() {
        compiler.add_rules_str_in_namespace(text(file), number.to_string()).expect("rules that compile");
    }
    let mut scanner = compiler.finalize();
    scanner.set_scan_params(ScanParams::default().compute_full_matches(true).process_memory(true));
    #[cfg(feature = "libyara")]
    libyara(rules, bytes, line);
    line("boreal, flat buffer", fastest(ROUNDS, || drop(std::hint::black_box(scanner.scan_mem(bytes)))));
}

fn fastest(rounds: usize, mut work: impl FnMut()) -> f64 {
    (0..rounds).map(|_| busy(&mut work)).fold(f64::MAX, f64::min)
}

/// Nanoseconds for which this thread was on a processor: other work on the machine is not counted.
pub(crate) fn busy(work: impl FnOnce()) -> f64 {
    let nanos = || {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel that counts");
        stat.split(' ').next().and_then(|first| first.parse::<u64>().ok()).expect("nanoseconds")
    };
    let before = nanos();
    work();
    (nanos() - before) as f64
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).expect("a rule file")).into_owned()
}

/// Rule files, of a folder all those below it.
fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    let is_rules =
        |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|e| e == "yar" || e == "yara");
    entries.iter().filter(|path| is_rules(path)).flat_map(|path| files(path)).collect()
}

#[cfg(feature = "libyara")]
fn libyara(rules: &Path, bytes: &[u8], line: &impl Fn(&str, f64)) {
    let fresh = || {
        let mut compiler = yara::Compiler::new().expect("a compiler");
        EXTERNALS.iter().for_each(|name| compiler.define_variable(name, "").expect("a variable"));
        compiler
    };
    let mut all = fresh();
    let mut refused = 0;
    for (number, file) in files(rules).iter().enumerate() {
        let (text, namespace) = (text(file), number.to_string());
        match fresh().add_rules_str_with_namespace(&text, &namespace) {
            Ok(_) => all = all.add_rules_str_with_namespace(&text, &namespace).expect("it did compile"),
            Err(_) => refused += 1,
        }
    }
    let rules = all.compile_rules().expect("rules");
    let mut scanner = rules.scanner().expect("a scanner");
    scanner.set_flags(yara::ScanFlags::REPORT_RULES_MATCHING | yara::ScanFlags::PROCESS_MEMORY);
    line("libyara, files refused", f64::from(refused));
    // It takes seconds: three rounds are enough.
    let once = || drop(std::hint::black_box(scanner.scan_mem(bytes)));
    line("libyara, flat buffer", fastest(3, once));
}
