//! What memory rules and policies take, by the kernel's own account.

use std::fs;
use std::time::Duration;

/// What the kernel gives up only some time after the rules are gone, it has given up by then.
const SETTLED: Duration = Duration::from_secs(2);

/// Bytes that the kernel keeps for itself: its objects, those that each processor has, and what it maps from single pages.
pub(crate) fn of_the_kernel() -> u64 {
    std::thread::sleep(SETTLED);
    let text = fs::read_to_string("/proc/meminfo").expect("proc is mounted");
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
    };
    ["SUnreclaim:", "Percpu:", "VmallocUsed:"].iter().map(|name| kib(name)).sum::<u64>() * 1024
}

/// Bytes of this process's own memory.
pub(crate) fn own() -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}
