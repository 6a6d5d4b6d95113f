//! Mounts that lie over what others would see.

use std::fs;
use std::io;

use super::again;
use crate::actors::Held;
use crate::sys;

/// Where the program lies that is covered.
const FOLDER: &str = "/run/attack-covered";
const PROGRAM: &str = "/run/attack-covered/program";
/// A program that another file is mounted over.
const ALONE: &str = "/run/attack-overlaid";

/// Mounts an empty folder over its own in `/proc`, as is done to be left out of `ps`. Ends with the process.
pub(super) fn process() -> io::Result<Held> {
    const EMPTY: &str = "/run/attack-nothing";
    fs::create_dir_all(EMPTY)?;
    sys::mount(EMPTY, &format!("/proc/{}", std::process::id()), "", libc::MS_BIND, "")?;
    Ok(Box::new(()))
}

/// Mounts an empty file system over the folder of its own program.
pub(super) fn program(second: bool) -> io::Result<Held> {
    if !second {
        fs::create_dir_all(FOLDER)?;
        return again(PROGRAM, "attack-covered");
    }
    sys::mount("nothing", FOLDER, "tmpfs", 0, "size=64k")?;
    Ok(Box::new(()))
}

/// Mounts an ordinary program over its own, and no other file: who looks there sees that one.
pub(super) fn program_alone(second: bool) -> io::Result<Held> {
    if !second {
        return again(ALONE, "attack-overlaid");
    }
    sys::mount("/bin/busybox", ALONE, "", libc::MS_BIND, "")?;
    Ok(Box::new(()))
}

/// Takes the mount away, and what it covered.
pub(super) fn uncover() -> io::Result<()> {
    sys::unmount(FOLDER)?;
    fs::remove_dir_all(FOLDER)
}

/// The same for the one file.
pub(super) fn uncover_alone() -> io::Result<()> {
    sys::unmount(ALONE)?;
    fs::remove_file(ALONE)
}
