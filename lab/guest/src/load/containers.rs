//! Containers that come, run something and go.

use std::io;

use super::in_child;
use crate::{boot, sys};

/// One container, from its start to its end.
pub(super) fn once() -> io::Result<()> {
    in_child(|| {
        let all = libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWNET;
        sys::unshare(all)?;
        in_child(|| {
            sys::mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, "")?;
            sys::mount("container", "/mnt", "tmpfs", 0, "size=2m")?;
            sys::mount("proc", "/proc", "proc", 0, "")?;
            sys::set_hostname("load")?;
            boot::shell("cp /bin/busybox /mnt/app && ip link set lo up && ps && /mnt/app sleep 0.5")
        })
    })?;
    // Root of its own user namespace, as rootless containers are.
    in_child(|| {
        sys::become_user(1000, 1000, &[1000])?;
        sys::unshare(libc::CLONE_NEWUSER)?;
        boot::shell("id; sleep 0.3")
    })
}
