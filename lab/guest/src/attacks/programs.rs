//! BPF programs that see and change what is not their loader's.

use std::fs;
use std::io;
use std::path::Path;

use super::again;
use crate::actors::Held;
use crate::bpf;

/// Sees packets before the firewall does, for a program that any user may have put there.
pub(super) fn at_device(second: bool) -> io::Result<Held> {
    if second { Ok(Box::new(bpf::at_loopback()?)) } else { from_anywhere("attack-xdp") }
}

/// Runs in the kernel now and then, held by nothing but a perf event.
pub(super) fn at_clock(second: bool) -> io::Result<Held> {
    if second { Ok(Box::new(bpf::at_clock()?)) } else { from_anywhere("attack-perf") }
}

fn from_anywhere(name: &str) -> io::Result<Held> {
    let copy = Path::new("/tmp").join(name);
    fs::copy("/init", &copy)?;
    again(&copy, name)
}

/// Writes to the memory of processes.
pub(super) fn writing() -> io::Result<Held> {
    Ok(Box::new(bpf::at_processes()?))
}
