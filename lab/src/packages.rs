//! The Debian packages that tests, demo and benchmarks need on the host.

use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// A package, and a program of it that shows whether it is there.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    name: &'static str,
    program: &'static str,
}

/// A just-in-time compiler, which control guests run.
pub const COMPILER: Package = Package { name: "luajit", program: "/usr/bin/luajit" };

/// What installs a Debian on a disk.
pub const INSTALLER: [Package; 2] = [
    Package { name: "mmdebstrap", program: "/usr/bin/mmdebstrap" },
    Package { name: "e2fsprogs", program: "/usr/sbin/mke2fs" },
];

/// All of them but [`COMPILER`] and [`INSTALLER`].
pub const ALL: &[Package] = &[
    Package { name: "qemu-system-x86", program: "/usr/bin/qemu-system-x86_64" },
    Package { name: "busybox-static", program: "/bin/busybox" },
    Package { name: "gcc", program: "/usr/bin/gcc" },
    Package { name: "libc6-dev", program: "/usr/include/stdio.h" },
    Package { name: "makedumpfile", program: "/usr/bin/makedumpfile" },
    Package { name: "debian-archive-keyring", program: "/usr/share/keyrings/debian-archive-keyring.gpg" },
    // Volatility 3 loads it by itself, for AVML.
    Package { name: "libsnappy1v5", program: "/usr/lib/x86_64-linux-gnu/libsnappy.so.1" },
    Package { name: "python3-venv", program: "/usr/lib/python3.11/ensurepip/__init__.py" },
    Package { name: "nfdump", program: "/usr/bin/nfcapd" },
    Package { name: "nftables", program: "/usr/sbin/nft" },
    Package { name: "dnsmasq-base", program: "/usr/sbin/dnsmasq" },
    Package { name: "iproute2", program: "/usr/sbin/ip" },
    Package { name: "python3-minimal", program: "/usr/bin/python3" },
    Package { name: "rsyslog", program: "/usr/sbin/rsyslogd" },
    Package { name: "rsyslog-gnutls", program: "/usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_gtls.so" },
    Package { name: "systemd", program: "/lib/systemd/systemd-journald" },
    Package { name: "openssl", program: "/usr/bin/openssl" },
    Package { name: "liblognorm-utils", program: "/usr/bin/lognormalizer" },
    Package { name: "util-linux", program: "/usr/bin/setpriv" },
];

/// Installs what is missing as root, saying so; otherwise says exactly what to install.
pub fn ensure(wanted: &[Package]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|package| !Path::new(package.program).exists())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --no-install-recommends -y {}", missing.join(" "));
    if !is_root() {
        bail!("these Debian packages are missing; install them as root with:\n  {install}");
    }
    println!("installing Debian packages: {}", missing.join(" "));
    let run = |args: &[&str]| -> Result<bool> {
        Ok(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(args).status()?.success())
    };
    let mut args = vec!["install", "--no-install-recommends", "-y", "-q"];
    args.extend(&missing);
    // A fresh machine's lists may be missing or old.
    let installed = run(&args)? || (run(&["update", "-q"])? && run(&args)?);
    if !installed {
        bail!("apt-get could not install {}; try: apt-get update && {install}", missing.join(" "));
    }
    Ok(())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
