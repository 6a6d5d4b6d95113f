//! The engines' own speed, on the same bytes in one flat buffer.

use boreal::compiler::{CompilerBuilder, CompilerParams};
use boreal::scanner::ScanParams;
use std::path::{Path, PathBuf};

const EXTERNALS: [&str; 5] = ["filename", "filepath", "extension", "filetype", "owner"];

/// A scan of the buffer.
pub(crate) type Scan<'b> = Box<dyn FnMut() + 'b>;

/// Scans of the buffer by each engine that there is, with their names.
pub(crate) fn flat<'b>(
    rules: &Path,
    bytes: &'b [u8],
    line: &impl Fn(&str, f64),
) -> Vec<(&'static str, Scan<'b>)> {
    let mut compiler = CompilerBuilder::new().build();
    compiler.set_params(CompilerParams::default().disable_unknown_escape_warning(true));
    EXTERNALS.iter().for_each(|name| _ = compiler.define_symbol(name, ""));
    for (number, file) in files(rules).iter().enumerate() {
        compiler.add_rules_str_in_namespace(text(file), number.to_string()).expect("rules that compile");
    }
    let mut scanner = compiler.finalize();
    scanner.set_scan_params(ScanParams::default().compute_full_matches(true).process_memory(true));
    let boreal = move || drop(std::hint::black_box(scanner.scan_mem(bytes)));
    let mut scans: Vec<(&str, Scan<'b>)> = vec![("boreal, flat buffer", Box::new(boreal))];
    scans.extend(libyara(rules, bytes, line));
    scans
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

#[cfg(not(feature = "libyara"))]
fn libyara<'b>(_: &Path, _: &'b [u8], _: &impl Fn(&str, f64)) -> Option<(&'static str, Scan<'b>)> {
    None
}

#[cfg(feature = "libyara")]
fn libyara<'b>(rules: &Path, bytes: &'b [u8], line: &impl Fn(&str, f64)) -> Option<(&'static str, Scan<'b>)> {
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
    line("libyara, files refused", f64::from(refused));
    let scan = move || {
        let mut scanner = rules.scanner().expect("a scanner");
        scanner.set_flags(yara::ScanFlags::REPORT_RULES_MATCHING | yara::ScanFlags::PROCESS_MEMORY);
        drop(std::hint::black_box(scanner.scan_mem(bytes)));
    };
    Some(("libyara, flat buffer", Box::new(scan)))
}
