//! What memory rules and policies take, by the kernel's own account.

use lynceus_firewall::state;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What the kernel gives up only some time after the rules are gone, it has given up by then.
const SETTLED: Duration = Duration::from_secs(2);

/// Bytes that the kernel keeps for itself: its objects, those that each processor has, and what it maps from single pages.
pub(crate) fn of_the_kernel() -> u64 {
    std::thread::sleep(SETTLED);
    bytes("/proc/meminfo", &["SUnreclaim:", "Percpu:", "VmallocUsed:"])
}

/// Where a second process of this program finds the state that it reads.
const READS: &str = "LYNCEUS_BENCH_READS";

/// Bytes that the state in a folder takes of a process that reads it, and has had no other use for memory before.
pub(crate) fn of_reading(folder: &Path) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).env(READS, folder).output().expect("this program starts");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("it says how many")
}

/// The second process; false in the first.
pub(crate) fn is_reader() -> bool {
    let Some(folder) = std::env::var_os(READS) else { return false };
    let own = || bytes("/proc/self/status", &["RssAnon:"]);
    let before = own();
    let known = state::peek(Path::new(&folder)).expect("a state");
    println!("{}", own().saturating_sub(before));
    drop(known);
    true
}

/// What lines of these names say together, in KiB there.
fn bytes(file: &str, names: &[&str]) -> u64 {
    let text = fs::read_to_string(file).expect("proc is mounted");
    let kib = |name: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(*name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
    };
    names.iter().map(kib).sum::<u64>() * 1024
}
