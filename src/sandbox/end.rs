//! How a worker ended, as its parent tells it.
//!
//! *Trusts*: the wait status, which is the kernel's. What stands on standard error is the worker's own word, and that of whoever
//! took it over: it is a hint to people, and nothing is decided by it.

use super::raw::STOPPED;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a worker ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// By itself, with a code.
    Exited(i32),
    /// Its filter stopped a system call, by number as far as it could still be written.
    Stopped(Option<u32>),
    /// By a signal.
    Killed(i32),
}

impl End {
    /// What the wait status and the end of its standard error say.
    pub(crate) fn of(status: ExitStatus, stderr: &str) -> End {
        match (status.code(), status.signal()) {
            (Some(code), _) => End::Exited(code),
            (None, Some(libc::SIGSYS)) => End::Stopped(call(stderr)),
            (None, signal) => End::Killed(signal.unwrap_or(0)),
        }
    }
}

/// The name of the system call that was stopped.
pub(crate) fn syscall_name(number: u32) -> String {
    let named = usize::try_from(number).ok().and_then(syscalls::Sysno::new);
    named.map_or_else(|| format!("system call {number}"), |call| call.name().to_owned())
}

fn call(stderr: &str) -> Option<u32> {
    stderr.lines().rev().find_map(|line| line.split_once(STOPPED)?.1.trim().parse().ok())
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(code) => write!(f, "ended with exit code {code}"),
            End::Stopped(Some(number)) => write!(f, "killed by its filter at {}", syscall_name(*number)),
            End::Stopped(None) => f.write_str("killed by its filter, at a call that it could not name"),
            End::Killed(libc::SIGABRT) => f.write_str("aborted: out of memory, or a panic in a panic"),
            End::Killed(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_is_named_where_the_kernel_says_that_there_was_one() {
        let stopped = ExitStatus::from_raw(libc::SIGSYS);
        let said = format!("something\n{STOPPED}59\n");
        assert_eq!(End::of(stopped, &said).to_string(), "killed by its filter at execve");
        assert_eq!(End::of(stopped, "nothing"), End::Stopped(None));
        assert_eq!(End::of(ExitStatus::from_raw(3 << 8), &said), End::Exited(3));
        assert_eq!(End::of(ExitStatus::from_raw(libc::SIGSEGV), &said), End::Killed(libc::SIGSEGV));
        assert_eq!(syscall_name(9999), "system call 9999");
    }
}
