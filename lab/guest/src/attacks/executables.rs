//! Programs that run from where no program belongs, or under a name that is not theirs.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::again;
use crate::actors::{Held, people};

/// From memory that any user may write to and no disk keeps.
pub(super) fn shared_memory(second: bool) -> io::Result<Held> {
    const COPY: &str = "/dev/shm/attack-shm";
    if !second {
        return again(COPY, "attack-shm");
    }
    Ok(Box::new(()))
}

/// From a file that is gone as soon as it runs.
pub(super) fn deleted(second: bool) -> io::Result<Held> {
    const COPY: &str = "/run/attack-deleted";
    if !second {
        return again(COPY, "attack-deleted");
    }
    fs::remove_file(COPY)?;
    Ok(Box::new(()))
}

/// From memory that never had a name.
pub(super) fn memfd(second: bool) -> io::Result<Held> {
    if second { Ok(Box::new(())) } else { people::run_from_memory("attack", "attack-memfd", super::SECOND) }
}

/// Under the name of a thread of the kernel.
pub(super) fn masked() -> io::Result<Held> {
    // A name that nobody plays: it only sleeps.
    Err(Command::new("/lab/attack-masked").arg0("[kworker/0:1]").exec())
}
