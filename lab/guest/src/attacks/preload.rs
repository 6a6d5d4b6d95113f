//! Libraries that are loaded into every program before its own. Nothing here is a library: no program of the guest loads any.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::actors::Held;

/// What the dynamic linker reads at every start of a program.
pub(super) const FILE: &str = "/etc/ld.so.preload";

/// In one program's environment.
pub(super) fn in_environment(second: bool, variable: &str) -> io::Result<Held> {
    if second {
        return Ok(Box::new(()));
    }
    let name = if variable == "LD_AUDIT" { "attack-audit" } else { "attack-preload" };
    let path = format!("/lab/{name}");
    Err(Command::new(path)
        .arg0(name)
        .arg(super::SECOND)
        .env(variable, "libm.so.6 /dev/shm/.cache/libattack.so")
        .exec())
}

/// In all of them.
pub(super) fn for_everybody() -> io::Result<Held> {
    fs::create_dir_all("/etc")?;
    fs::write(FILE, "/usr/lib/libattack.so\n")?;
    Ok(Box::new(()))
}
