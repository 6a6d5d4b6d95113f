//! Debian as it is installed, with its own systemd, on a disk: what plays a host.
//!
//! *Does*: has mmdebstrap install a suite into a folder, puts the suite's kernel modules and the lab's line beside it, and makes a file system of it, once. A guest writes
//! to a copy of its own, which is gone with it. What a test brings along is on a second disk, mounted at `/luggage`.
//! *Never*: starts anything that a minimal installation of Debian's does not, but the lab's line.

use crate::initramfs::{self, Cpio};
use crate::kernels::{Kernel, mirror, run};
use crate::luggage::Luggage;
use crate::{deb, folder, packages};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Beside what is essential: what a host of VMs has in any case, and the appliance's package depends on.
const PACKAGES: &str = "systemd-sysv,dbus,iproute2,kmod,netbase,nftables";
/// Nobody reads these there.
const WITHOUT: &[&str] =
    &["usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists"];
/// What would ask for a password on the console, or begin by itself in the middle of a test.
const MASKED: &[&str] = &[
    "getty.target",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
];
/// What the kernel needs to find the disks.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"];
const LINE: &str = "[Unit]\nDescription=The lab's line\n[Service]\nExecStart=/luggage/lynceus-lab-serve\n\
     [Install]\nWantedBy=multi-user.target\n";
const INIT: &str = "#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
for name in $(busybox cat /luggage/order); do busybox insmod /luggage/$name.ko; done
busybox mount -t ext4 /dev/vda /root && busybox mount -t ext4 -o ro /dev/vdb /root/luggage || busybox poweroff -f
exec busybox switch_root /root /sbin/init
";
/// Raised by whoever changes what is installed, and how: the disk is made once.
const RECIPE: u32 = 1;
/// Room for what is installed later.
const DISK: &str = "1500M";

/// The disk of a kernel's suite, as it is before the first boot.
pub(crate) fn disk(kernel: &Kernel) -> Result<PathBuf> {
    let name = format!("debian/{}-{RECIPE}", kernel.release);
    let folder = folder::once(&name, |folder| {
        println!("installing Debian's {} for the lab", kernel.version.suite());
        install(kernel, folder)
    })?;
    Ok(folder.join("disk"))
}

fn install(kernel: &Kernel, folder: &Path) -> Result<()> {
    packages::ensure(&packages::INSTALLER)?;
    let root = folder.join("root");
    let mut install = Command::new("mmdebstrap");
    install.args(["--quiet", "--variant=essential", "--include", PACKAGES]);
    run(install.arg(kernel.version.suite()).arg(&root).arg(mirror())).context("root installs a Debian")?;
    let modules = root.join("usr/lib/modules");
    fs::create_dir_all(&modules)?;
    run(Command::new("cp").arg("-a").arg(&kernel.modules).arg(&modules))?;
    run(Command::new("chroot").arg(&root).args(["depmod", &kernel.release]))?;
    for folder in WITHOUT {
        fs::remove_dir_all(root.join(folder))?;
    }
    // It was booted before, and nothing was installed since: what systemd does at a first boot takes an emulated machine half a minute.
    fs::write(root.join("etc/machine-id"), "6c796e6365757300000000000000006c\n")?;
    for folder in ["etc", "var"] {
        fs::write(root.join(folder).join(".updated"), "")?;
    }
    let units = root.join("etc/systemd/system");
    fs::write(units.join("lab.service"), LINE)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    symlink("../lab.service", units.join("multi-user.target.wants/lab.service"))?;
    for unit in MASKED {
        let _ = fs::remove_file(units.join(unit));
        symlink("/dev/null", units.join(unit))?;
    }
    fs::create_dir_all(root.join("luggage"))?;
    file_system(&root, &folder.join("disk"), DISK)?;
    Ok(fs::remove_dir_all(&root)?)
}

/// A disk with a folder on it.
fn file_system(folder: &Path, disk: &Path, size: &str) -> Result<()> {
    let mut make = Command::new("mke2fs");
    run(make.args(["-q", "-F", "-t", "ext4", "-d"]).arg(folder).arg(disk).arg(size))
}

/// A disk with files, and with what the lab's line takes.
pub(crate) fn luggage(files: &[PathBuf], folder: &Path) -> Result<PathBuf> {
    packages::ensure(&packages::INSTALLER)?;
    let packed = folder.join("luggage");
    fs::create_dir_all(&packed)?;
    let mut copy = Command::new("cp");
    run(copy.args(["-rL", "--sparse=always", "--reflink=auto"]).args(files).arg(&packed))?;
    fs::copy(initramfs::guest_program()?, packed.join("lynceus-lab-serve"))?;
    let disk = folder.join("luggage.disk");
    let bytes = deb::kib(&packed)? << 10;
    // What the file system itself takes is much less than that.
    file_system(&packed, &disk, &format!("{}M", (bytes >> 20) * 5 / 4 + 32))?;
    fs::remove_dir_all(&packed)?;
    Ok(disk)
}

/// Finds the disks and hands over to systemd.
pub(crate) fn initramfs(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for folder in ["bin", "dev", "root"] {
        cpio.folder(folder);
    }
    cpio.device("dev/console", 5, 1);
    cpio.file("init", 0o755, INIT.as_bytes());
    cpio.file("bin/busybox", 0o755, &fs::read("/bin/busybox").context("package busybox-static")?);
    let modules = Luggage { modules: MODULES.to_vec(), ..Luggage::default() };
    Ok([cpio.finish(), modules.pack(kernel)?].concat())
}
