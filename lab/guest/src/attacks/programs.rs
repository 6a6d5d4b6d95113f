//! BPF programs that see and change what is not their loader's.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::again;
use crate::actors::Held;
use crate::{bpf, sys};

/// Sees packets before the firewall does, for a program that any user may have put there; another program is held by what others jump by.
pub(super) fn at_device(second: bool) -> io::Result<Held> {
    if !second {
        return again("/tmp/attack-xdp", "attack-xdp");
    }
    Ok(Box::new((bpf::at_loopback()?, bpf::in_array()?)))
}

/// Runs in the kernel now and then, held by nothing but a perf event.
pub(super) fn at_clock(second: bool) -> io::Result<Held> {
    if second { Ok(Box::new(bpf::at_clock()?)) } else { again("/tmp/attack-perf", "attack-perf") }
}

/// Where BPF objects outlive their loader, as any system has it.
const PINS: &str = "/sys/fs/bpf";
const FOLDER: &str = "/sys/fs/bpf/lab";
const PIN: &CStr = c"/sys/fs/bpf/lab/attack";

/// Sees packets, and no process holds it.
pub(super) fn alone() -> io::Result<Held> {
    sys::mount("bpf", PINS, "bpf", 0, "")?;
    std::fs::create_dir(FOLDER)?;
    bpf::pin(&bpf::at_loopback()?, PIN)?;
    Ok(Box::new(()))
}

/// Takes it away.
pub(super) fn take_away() -> io::Result<()> {
    std::fs::remove_file(OsStr::from_bytes(PIN.to_bytes()))?;
    sys::unmount(PINS)
}

/// Writes to the memory of processes.
pub(super) fn writing() -> io::Result<Held> {
    Ok(Box::new(bpf::at_processes()?))
}
