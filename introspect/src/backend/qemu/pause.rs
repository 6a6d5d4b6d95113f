//! Pausing a guest so that it always goes on.
//!
//! *Does*: `stop` and `cont` over QMP. Before the `stop`, a child process is forked that shares the connection and waits on a
//! pipe; when the pipe closes without a word (this process was killed) or the lease runs out (it hangs), the child sends
//! `cont`. The child has a session of its own and all signals blocked, so that what ends this process does not end it too.
//! *Trusts*: the host kernel to run the child. Both killed by SIGKILL at one time (a whole cgroup) leave the guest paused.
//! *Never*: resumes a guest that was paused before, by its admin or by QEMU itself.
//!
//! This process may have threads: the child makes only async-signal-safe calls between `fork` and `_exit`.
#![allow(unsafe_code)]

use super::Qemu;
use super::qmp::{Qmp, QmpError};
use crate::{Pause, PauseError, Paused};
use serde_json::json;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// What the child says, and how it knows that QEMU has heard it.
const CONT: &[u8] = b"{\"execute\":\"cont\",\"id\":\"watchdog\"}\n";
const HEARD: &[u8] = b"watchdog";
/// Longest wait of the child for QEMU to answer, in milliseconds.
const LINGER_MS: i32 = 5000;

impl Pause for Qemu {
    fn pause(&self) -> Result<Paused<'_>, PauseError> {
        let mut qmp = self.control()?;
        if qmp.run_state()? != "running" {
            // Stands still already. The connection is kept: QEMU admits nobody else who could resume it there.
            return Ok(Paused::new(move || {
                drop(qmp);
                Ok(())
            }));
        }
        let watchdog = Watchdog::start(qmp.stream().as_raw_fd(), self.lease)
            .map_err(|error| PauseError::Unavailable(format!("no process to guard the pause: {error}")))?;
        match qmp.execute("stop", json!({})) {
            Ok(_) => Ok(Paused::new(move || resume(&mut qmp, watchdog))),
            Err(error) => {
                // It may have stopped all the same.
                let _ = resume(&mut qmp, watchdog);
                Err(error.into())
            }
        }
    }
}

/// The watchdog goes last: if this fails or is killed on the way, it still does its work.
fn resume(qmp: &mut Qmp, watchdog: Watchdog) -> Result<(), PauseError> {
    qmp.execute("cont", json!({}))?;
    if watchdog.call_off() {
        Ok(())
    } else {
        Err(PauseError::Refused(
            "the pause lasted longer than allowed, and the guest was resumed before its end".to_owned(),
        ))
    }
}

impl From<QmpError> for PauseError {
    fn from(error: QmpError) -> PauseError {
        match error {
            QmpError::Timeout(_) => PauseError::Timeout,
            QmpError::Refused { .. } => PauseError::Refused(error.to_string()),
            _ => PauseError::Unavailable(error.to_string()),
        }
    }
}

/// The child, as its parent sees it.
struct Watchdog {
    pid: libc::pid_t,
    /// Closing it without a word wakes the child.
    pipe: Option<OwnedFd>,
}

impl Watchdog {
    fn start(qmp: RawFd, lease: Duration) -> io::Result<Watchdog> {
        let lease_ms = i32::try_from(lease.as_millis()).unwrap_or(i32::MAX);
        let mut ends = [-1; 2];
        // SAFETY: room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: two fresh descriptors that nobody else owns.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        // SAFETY: sigset_t is plain data; the calls fill and apply our own sets. The child starts with all signals
        // blocked, so that no handler of this program can run in it; this thread gets its own mask back.
        let pid = unsafe {
            let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
                (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let pid = libc::fork();
            if pid == 0 {
                watch(read.as_raw_fd(), write.as_raw_fd(), qmp, lease_ms);
            }
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            if pid < 0 {
                return Err(error);
            }
            pid
        };
        Ok(Watchdog { pid, pipe: Some(write) })
    }

    /// Ends the child. Whether the lease still held.
    fn call_off(mut self) -> bool {
        let Some(pipe) = self.pipe.take() else { return false };
        // SAFETY: one byte of a constant. A child that is gone makes it fail (Rust programs ignore SIGPIPE; send would
        // not work on a pipe), and its exit code tells the rest.
        unsafe { libc::write(pipe.as_raw_fd(), b"x".as_ptr().cast(), 1) };
        self.reap() == Some(0)
    }

    fn reap(&self) -> Option<i32> {
        let mut status = 0;
        loop {
            // SAFETY: this value's own child, waited for once.
            let done = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
            if done == self.pid {
                return libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            }
            if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                return None;
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Not called off: closing the pipe makes the child resume the guest.
        if self.pipe.take().is_some() {
            self.reap();
        }
    }
}

/// The child. Only async-signal-safe calls (signal-safety(7)): no allocation, no locks, no panic.
///
/// # Safety
/// To be called right after `fork`, in the child.
unsafe fn watch(pipe: RawFd, other_end: RawFd, qmp: RawFd, lease_ms: i32) -> ! {
    // SAFETY: all calls take this process's own descriptors and stack.
    unsafe {
        libc::setsid();
        libc::close(other_end);
        close_all_but(pipe, qmp);
        let woken = wait(pipe, lease_ms);
        let mut word = 0u8;
        if woken && libc::read(pipe, (&raw mut word).cast(), 1) == 1 {
            libc::_exit(0);
        }
        libc::send(qmp, CONT.as_ptr().cast(), CONT.len(), libc::MSG_NOSIGNAL);
        if !woken {
            // The lease ran out and the parent, if it lives, reads the answers. QEMU reads as long as one holds on.
            wait(pipe, LINGER_MS);
        }
        if !woken && libc::read(pipe, (&raw mut word).cast(), 1) == 1 {
            libc::_exit(1);
        }
        await_answer(qmp);
        libc::_exit(1)
    }
}

/// Waits for a descriptor to be readable or closed.
///
/// # Safety
/// Async-signal-safe.
unsafe fn wait(fd: RawFd, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, timeout_ms) > 0 }
}

/// Reads until QEMU has answered, so that it does not see the end of the connection before the command.
///
/// # Safety
/// Async-signal-safe.
unsafe fn await_answer(qmp: RawFd) {
    let mut matched = 0usize;
    let mut byte = 0u8;
    // SAFETY: `wait` and one byte of the stack.
    while unsafe { wait(qmp, LINGER_MS) && libc::recv(qmp, (&raw mut byte).cast(), 1, 0) == 1 } {
        // The word's first letter comes once in it, so a mismatch starts over at most with this byte.
        matched = match HEARD.get(matched) {
            Some(wanted) if *wanted == byte => matched.wrapping_add(1),
            _ => usize::from(HEARD.first() == Some(&byte)),
        };
        if matched == HEARD.len() {
            return;
        }
    }
}

/// Closes what was inherited: a pipe to a pager must not stay open, nor another watchdog's.
///
/// # Safety
/// Async-signal-safe, in a process that uses no other descriptor.
unsafe fn close_all_but(one: RawFd, two: RawFd) {
    let (low, high) = (one.min(two).unsigned_abs(), one.max(two).unsigned_abs());
    for (first, last) in [
        (0, low.wrapping_sub(1)),
        (low.wrapping_add(1), high.wrapping_sub(1)),
        (high.wrapping_add(1), u32::MAX),
    ] {
        if first <= last && last != u32::MAX || first > high {
            // SAFETY: the caller's promise.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}
