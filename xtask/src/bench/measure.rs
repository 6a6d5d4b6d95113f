//! Whole processes: how long they take, and how much memory they hold at their peak.
//!
//! Linux counts into a child's peak what its parent held when it started it, so this program must stay small itself:
//! what takes memory is done by a process of its own (`cargo xtask bench --prepare`).

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wait4::Wait4;

/// What a command cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Wall time of the median run.
    pub(crate) time: Duration,
    /// Processor time in user mode of that run.
    pub(crate) user: Duration,
    /// Largest resident set of any run, in bytes.
    pub(crate) peak_bytes: u64,
    /// Lines that it printed.
    pub(crate) lines: usize,
}

/// A figure, or why there is none.
pub(crate) type Measured = Result<Sample, String>;

/// Runs what `make` builds `runs` times, after once to warm the host's page cache when `warm_up`.
pub(crate) fn whole_process(
    runs: usize,
    warm_up: bool,
    mut make: impl FnMut() -> Result<Command, String>,
) -> Measured {
    median(runs, warm_up, || output(&mut make()?).map(|(_, sample)| sample))
}

/// The same for a program whose exit code 1 says that it found something.
pub(crate) fn whole_look(runs: usize, mut make: impl FnMut() -> Result<Command, String>) -> Measured {
    median(runs, true, || ended_with(&mut make()?, &[0, 1]).map(|(_, sample)| sample))
}

fn median(runs: usize, warm_up: bool, mut once: impl FnMut() -> Measured) -> Measured {
    if warm_up {
        once()?;
    }
    let mut samples = (0..runs.max(1)).map(|_| once()).collect::<Result<Vec<_>, String>>()?;
    samples.sort_by_key(|sample| sample.time);
    let peak_bytes = samples.iter().map(|sample| sample.peak_bytes).max().unwrap_or(0);
    let middle = samples.get(samples.len() / 2).copied().ok_or("no run")?;
    Ok(Sample { peak_bytes, ..middle })
}

/// What a command printed, and its cost.
pub(crate) fn output(command: &mut Command) -> Result<(Vec<u8>, Sample), String> {
    ended_with(command, &[0])
}

fn ended_with(command: &mut Command, codes: &[i32]) -> Result<(Vec<u8>, Sample), String> {
    let failed = |error: std::io::Error| error.to_string();
    let started = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(failed)?;
    let mut text = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut text).map_err(failed)?;
    }
    let ended = child.wait4().map_err(failed)?;
    let time = started.elapsed();
    if !ended.status.code().is_some_and(|code| codes.contains(&code)) {
        return Err(ended.status.to_string());
    }
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    let sample = Sample { time, user: ended.rusage.utime, peak_bytes: ended.rusage.maxrss, lines };
    Ok((text, sample))
}

/// The most memory that this process held so far, in bytes: no child's peak can come out below it.
pub(crate) fn own_peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Command, String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Ok(command)
    }

    #[test]
    fn counts_lines_and_memory() {
        let sample = whole_process(3, false, || shell("echo one; echo two")).unwrap();
        assert_eq!(sample.lines, 2);
        assert!(sample.peak_bytes > 100 << 10, "{}", sample.peak_bytes);
        assert!(own_peak_bytes() > 100 << 10);
    }

    #[test]
    fn a_failed_run_is_no_figure() {
        assert!(whole_process(1, false, || shell("exit 3")).is_err());
        assert!(whole_process(1, false, || Err("missing".to_owned())).is_err());
    }
}
