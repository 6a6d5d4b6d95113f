//! A child process that undoes a pause if nobody else does.
//!
//! *Does*: before a guest is paused, a child is forked that waits on a pipe; when the pipe closes without a word (this
//! process was killed) or the lease runs out (it hangs), the child lets the guest go on. The child has a session of its own and
//! all signals blocked, so that what ends this process does not end it too.
//! *Trusts*: the host kernel to run the child. Both killed by SIGKILL at one time (a whole cgroup) leave the guest paused.
//!
//! This process may have threads: the child makes only async-signal-safe calls between `fork` and `_exit`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The child, as its parent sees it.
pub(crate) struct Watchdog {
    pid: libc::pid_t,
    /// Closing it without a word wakes the child.
    pipe: Option<OwnedFd>,
}

impl Watchdog {
    /// Forks the child. It keeps `keep` open and calls `undo` if it is not called off before the lease runs out: with the pipe, and
    /// whether the pipe closed rather than the lease running out.
    ///
    /// # Safety
    /// `undo` makes only async-signal-safe calls (signal-safety(7)): no allocation, no locks, no panic.
    pub(crate) unsafe fn start(
        keep: RawFd,
        lease: Duration,
        undo: impl Fn(RawFd, bool),
    ) -> io::Result<Watchdog> {
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
                watch(read.as_raw_fd(), write.as_raw_fd(), keep, lease_ms, undo);
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
    pub(crate) fn call_off(mut self) -> bool {
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
unsafe fn watch(pipe: RawFd, other_end: RawFd, keep: RawFd, lease_ms: i32, undo: impl Fn(RawFd, bool)) -> ! {
    // SAFETY: all calls take this process's own descriptors and stack.
    unsafe {
        libc::setsid();
        libc::close(other_end);
        close_all_but(pipe, keep);
        let woken = wait(pipe, lease_ms);
        if woken && was_called_off(pipe) {
            libc::_exit(0);
        }
        undo(pipe, woken);
        libc::_exit(1)
    }
}

/// Whether the parent wrote its word. Only for a pipe that is readable or closed.
///
/// # Safety
/// Async-signal-safe.
pub(crate) unsafe fn was_called_off(pipe: RawFd) -> bool {
    let mut word = 0u8;
    // SAFETY: one byte of the stack.
    unsafe { libc::read(pipe, (&raw mut word).cast(), 1) == 1 }
}

/// Waits for a descriptor to be readable or closed.
///
/// # Safety
/// Async-signal-safe.
pub(crate) unsafe fn wait(fd: RawFd, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, timeout_ms) > 0 }
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
