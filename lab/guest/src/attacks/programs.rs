//! BPF programs that see and change what is not their loader's.

use std::io;

use super::again;
use crate::actors::Held;
use crate::bpf;

/// Sees packets before the firewall does, for a program that any user may have put there.
pub(super) fn at_device(second: bool) -> io::Result<Held> {
    if second { Ok(Box::new(bpf::at_loopback()?)) } else { again("/tmp/attack-xdp", "attack-xdp") }
}

/// Runs in the kernel now and then, held by nothing but a perf event.
pub(super) fn at_clock(second: bool) -> io::Result<Held> {
    if second { Ok(Box::new(bpf::at_clock()?)) } else { again("/tmp/attack-perf", "attack-perf") }
}

/// Writes to the memory of processes.
pub(super) fn writing() -> io::Result<Held> {
    Ok(Box::new(bpf::at_processes()?))
}
