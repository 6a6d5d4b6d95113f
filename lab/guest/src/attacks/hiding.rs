//! Mounts that lie over what others would see.

use std::fs;
use std::io;
use std::path::Path;

use super::again;
use crate::actors::Held;
use crate::sys;

/// Where the program lies that is covered.
const FOLDER: &str = "/run/attack-covered";
const PROGRAM: &str = "/run/attack-covered/program";

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
        fs::copy("/init", PROGRAM)?;
        return again(Path::new(PROGRAM), "attack-covered");
    }
    sys::mount("nothing", FOLDER, "tmpfs", 0, "size=64k")?;
    Ok(Box::new(()))
}

/// Takes the mount away, and what it covered.
pub(super) fn uncover() -> io::Result<()> {
    let folder = sys::cstr(FOLDER)?;
    // SAFETY: a NUL-terminated path that outlives the call.
    sys::check(unsafe { libc::umount2(folder.as_ptr(), 0) })?;
    fs::remove_dir_all(FOLDER)
}
