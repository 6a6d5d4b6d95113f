//! What memory rules and policies take, by the kernel's own account.

use std::fs;
use std::time::Duration;

/// What the kernel gives up only some time after the rules are gone, it has given up by then.
const SETTLED: Duration = Duration::from_secs(2);

/// Bytes that the kernel keeps for itself: its objects, those that each processor has, and what it maps from single pages.
pub(crate) fn of_the_kernel() -> u64 {
    std::thread::sleep(SETTLED);
    bytes("/proc/meminfo", &["SUnreclaim:", "Percpu:", "VmallocUsed:"])
}

/// Bytes of this process's own memory.
pub(crate) fn own() -> u64 {
    bytes("/proc/self/status", &["RssAnon:"])
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
