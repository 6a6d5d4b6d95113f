//! Packages that are unpacked, upgraded and removed, and a service that goes on while its program is replaced.

use std::fs;
use std::io;
use std::process::Command;

use crate::boot;

const SERVICE: &str = "/usr/bin/load-daemon";

/// Unpacks an archive, puts its files in place as `dpkg` and as `tar` do, and takes some away.
pub(super) fn upgrade() -> io::Result<()> {
    boot::shell(
        "mkdir -p /run/pkg/usr/share/doc && cd /run/pkg \
         && for n in 1 2 3 4 5; do echo \"file $n of $$\" > usr/share/doc/$n; done \
         && tar -cf /tmp/pkg.tar usr && mkdir -p /usr/share && tar -xf /tmp/pkg.tar -C / \
         && rm -r /run/pkg /tmp/pkg.tar /usr/share/doc/3",
    )?;
    if fs::exists(SERVICE)? {
        let new = format!("{SERVICE}.dpkg-new");
        fs::copy("/bin/busybox", &new)?;
        fs::rename(&new, SERVICE)?;
    }
    Ok(())
}

/// Starts the service, and starts it again when it has run on an old program for a while.
pub(super) fn service() -> ! {
    let _ = fs::copy("/bin/busybox", SERVICE);
    super::for_ever(1, || {
        let mut daemon = Command::new(SERVICE);
        std::os::unix::process::CommandExt::arg0(&mut daemon, "sleep");
        super::in_child(|| {
            let mut child = daemon.arg("2").env("LD_PRELOAD", "libjemalloc.so.2").spawn()?;
            child.wait().map(drop)
        })
    })
}
