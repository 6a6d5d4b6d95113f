//! Steering others, and keeping system calls from the kernel.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::actors::Held;
use crate::scenery::READY_FD;
use crate::sys;

/// `PR_SET_SYSCALL_USER_DISPATCH` and `PR_SYS_DISPATCH_ON` (include/uapi/linux/prctl.h).
const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
const PR_SYS_DISPATCH_ON: usize = 1;
/// `SYSCALL_DISPATCH_FILTER_ALLOW`: every call goes to the kernel after all.
static SELECTOR: AtomicU8 = AtomicU8::new(0);

/// Attaches to a child of its own.
pub(super) fn child() -> io::Result<Held> {
    let victim = sys::fork()?;
    if victim == 0 {
        // SAFETY: the copy of a descriptor that only the parent reports on.
        unsafe { libc::close(READY_FD) };
        sys::sleep_for_ever();
    }
    attach(victim)
}

/// Attaches to a process that somebody else started.
pub(super) fn other() -> io::Result<Held> {
    let victim = std::fs::read_dir("/proc")?.flatten().find_map(|entry| {
        let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        if comm.trim() == "lab-plain" { entry.file_name().to_str()?.parse().ok() } else { None }
    });
    attach(victim.ok_or_else(|| io::Error::other("nobody to trace"))?)
}

/// Attaches, and lets the other run on.
fn attach(victim: libc::pid_t) -> io::Result<Held> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes no addresses; nothing here stops the other process.
    sys::check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, victim, none, none) })?;
    Ok(Box::new(()))
}

/// Has system calls from outside of one page handed back to this process; the selector lets all of them pass.
pub(super) fn dispatch() -> io::Result<Held> {
    SELECTOR.store(0, Ordering::SeqCst);
    let range = sys::map_anonymous(4096, libc::PROT_READ, libc::MAP_PRIVATE)?;
    // SAFETY: the selector lives as long as the process.
    sys::check(unsafe {
        libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, range, 4096usize, SELECTOR.as_ptr())
    })?;
    Ok(Box::new(()))
}
