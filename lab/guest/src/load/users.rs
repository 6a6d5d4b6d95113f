//! Users that log in, run programs, and become root by a set-uid program, as `doas` and `sudo` are.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::in_child;
use crate::{boot, sys};

const SUDO: &str = "/usr/bin/load-sudo";

/// Puts the set-uid program in place.
pub(super) fn install() -> io::Result<()> {
    fs::copy("/init", SUDO)?;
    fs::set_permissions(SUDO, fs::Permissions::from_mode(0o4755))
}

/// A session from its login to its end.
pub(super) fn once() -> io::Result<()> {
    in_child(|| {
        sys::become_user(1000, 1000, &[1000])?;
        boot::shell("id; sleep 0.2; /usr/bin/load-sudo sleep 0.3; /usr/bin/load-sudo sh -c 'id; sleep 0.3'")
    })
}

/// As `doas`: takes root's groups and becomes the program that it is told.
pub(super) fn become_root(args: &[String]) -> ! {
    let error = sys::become_user(0, 0, &[0]).and_then(|()| {
        let (program, args) = args.split_first().ok_or_else(|| io::Error::other("which program?"))?;
        Err::<(), _>(Command::new("/bin/busybox").arg0(program).args(args).exec())
    });
    sys::exit_now(i32::from(error.is_err()))
}
