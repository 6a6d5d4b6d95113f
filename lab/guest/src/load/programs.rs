//! Programs that do by their nature what others must not: a compiler of code at run time, a debugger, those that take packets.

use std::fs;
use std::io;
use std::time::Duration;

use super::{BIN, become_program};
use crate::actors::Held;
use crate::scenery::READY_FD;
use crate::sys;

const PAGE: usize = 4096;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const EXECUTE: i32 = libc::PROT_READ | libc::PROT_EXEC;
/// `ret`.
const CODE: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa, 0xc3];
/// Names under which this program is installed.
const NAMES: &[&str] = &["node", "strace", "dhclient", "tcpdump"];

/// Puts them in place.
pub(super) fn install() -> io::Result<()> {
    NAMES.iter().try_for_each(|name| fs::copy("/init", format!("{BIN}/{name}")).map(drop))
}

/// As `node`: makes code, throws it away and makes more, in memory that may be written and run, and in memory that may first be the
/// one and then the other.
pub(super) fn compiler(args: &[String]) -> io::Result<Held> {
    if args.is_empty() {
        return become_program("node", &["server.js"]);
    }
    let both = sys::map_anonymous(16 * PAGE, WRITE | libc::PROT_EXEC, libc::MAP_PRIVATE)?;
    std::thread::spawn(move || -> io::Result<()> {
        for round in 0usize.. {
            sys::poke(both + round % 16 * PAGE, CODE);
            let later = sys::map_anonymous(4 * PAGE, WRITE, libc::MAP_PRIVATE)?;
            sys::poke(later, CODE);
            sys::protect(later, 4 * PAGE, EXECUTE)?;
            std::thread::sleep(Duration::from_millis(50));
            // SAFETY: a mapping of this length that was just made and that nothing points into.
            unsafe { libc::munmap(later as *mut libc::c_void, 4 * PAGE) };
        }
        Ok(())
    });
    Ok(Box::new(()))
}

/// As `strace`: starts a program and traces it.
pub(super) fn debugger(args: &[String]) -> io::Result<Held> {
    if args.is_empty() {
        return become_program("strace", &["sleep"]);
    }
    let child = sys::fork()?;
    if child == 0 {
        // SAFETY: the copy of a descriptor that only the parent reports on.
        unsafe { libc::close(READY_FD) };
        sys::sleep_for_ever();
    }
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes no addresses.
    sys::check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, child, none, none) })?;
    Ok(Box::new(()))
}

/// As `dhclient` or `tcpdump`: waits for packets that a filter lets pass.
pub(super) fn capture(name: &str, args: &[String]) -> io::Result<Held> {
    if args.is_empty() {
        return become_program(name, &["eth0"]);
    }
    Ok(Box::new(sys::packet_filter()?))
}
