//! Brings the guest up: file systems, kernel modules, host name, network.
//!
//! Trusts the initramfs (`/bin/busybox`, `/modules/*.ko` in the order of `/modules/order`). Never gives up: what
//! a kernel lacks becomes a note.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::sys;

/// (source, target, type, flags, data) of what a Linux system usually has mounted.
const MOUNTS: &[(&str, &str, &str, libc::c_ulong, &str)] = &[
    ("proc", "/proc", "proc", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, ""),
    ("sysfs", "/sys", "sysfs", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, ""),
    ("devtmpfs", "/dev", "devtmpfs", libc::MS_NOSUID, "mode=0755"),
    ("devpts", "/dev/pts", "devpts", libc::MS_NOSUID | libc::MS_NOEXEC, "mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, ""),
    ("tmpfs", "/tmp", "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777"),
    ("tmpfs", "/run", "tmpfs", libc::MS_NOSUID | libc::MS_RELATIME, "size=16m"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, ""),
    ("bpf", "/sys/fs/bpf", "bpf", libc::MS_NOSUID, ""),
    ("debugfs", "/sys/kernel/debug", "debugfs", 0, ""),
    ("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""),
    ("hugetlbfs", "/dev/hugepages", "hugetlbfs", 0, ""),
    ("lab-ramfs", "/mnt/ramfs", "ramfs", libc::MS_NOATIME, ""),
];

/// Interfaces with addresses that never change once they are up (no duplicate address detection).
const NETWORK: &[(&str, &str)] = &[
    ("lo", "ip link set lo up"),
    ("lo", "ip addr add 127.0.0.2/8 dev lo"),
    ("dummy", "ip link add lab-dummy0 type dummy"),
    ("dummy", "ip link set lab-dummy0 address 02:4c:41:42:00:01"),
    ("dummy", "ip addr add 192.0.2.7/24 dev lab-dummy0"),
    ("dummy", "ip link set lab-dummy0 up"),
    ("dummy", "ip -6 addr add 2001:db8::7/64 dev lab-dummy0"),
];

/// Everything before the scenery.
pub(crate) fn prepare(notes: &mut Vec<String>) {
    note(notes, "switch root", leave_rootfs());
    for &(source, target, fstype, flags, data) in MOUNTS {
        let made = fs::create_dir_all(target).and_then(|()| sys::mount(source, target, fstype, flags, data));
        note(notes, &format!("mount {target}"), made);
    }
    for (name, to) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        // Some security modules refuse to run a memfd when /dev/fd is missing.
        note(notes, name, symlink(format!("/proc/self/fd{to}"), format!("/dev/{name}")));
    }
    note(notes, "odd mounts", odd_mounts());
    note(notes, "busybox links", shell("/bin/busybox --install -s /bin"));
    note(notes, "host name", sys::set_hostname("lab-guest"));
    // Addresses must not pass through "tentative" while the truth is taken; the log must not reach the console.
    for conf in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/accept_dad"), "0");
    }
    let _ = fs::write("/proc/sys/vm/nr_hugepages", "2");
    load_modules(notes);
    for (what, command) in NETWORK {
        note(notes, &format!("network {what}: {command}"), shell(command));
    }
}

/// Records what failed; the guest goes on without it.
pub(crate) fn note(notes: &mut Vec<String>, what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        notes.push(format!("{what}: {error}"));
    }
}

/// Runs a shell command line quietly; its output is the error text if it fails.
pub(crate) fn shell(line: &str) -> io::Result<()> {
    let output = Command::new("/bin/busybox")
        .args(["sh", "-c", line])
        .env("PATH", "/bin")
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(io::Error::other(String::from_utf8_lossy(&text).trim().replace('\n', "; ")))
}

/// The initial rootfs has no parent mount, so `pivot_root` refuses to leave it: put a bind mount of it on top,
/// as every booted system has another file system there.
fn leave_rootfs() -> io::Result<()> {
    fs::create_dir_all("/mnt/root")?;
    sys::mount("/", "/mnt/root", "", libc::MS_BIND, "")?;
    sys::chdir("/mnt/root")?;
    sys::mount(".", "/", "", libc::MS_MOVE, "")?;
    sys::chroot(".")?;
    sys::mount("", "/", "", libc::MS_SHARED | libc::MS_REC, "")
}

/// Mounts that are awkward to describe: a read-only bind of a subdirectory, a path with spaces, one on top of another.
fn odd_mounts() -> io::Result<()> {
    for path in ["/run/lab-data/deep", "/mnt/bound", "/mnt/with two spaces", "/mnt/stacked"] {
        fs::create_dir_all(path)?;
    }
    fs::write("/run/lab-data/deep/file", "planted\n")?;
    sys::mount("/run/lab-data/deep", "/mnt/bound", "", libc::MS_BIND, "")?;
    sys::mount("", "/mnt/bound", "", libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY, "")?;
    sys::mount("lab spaced", "/mnt/with two spaces", "tmpfs", 0, "size=64k")?;
    sys::mount("lower", "/mnt/stacked", "tmpfs", 0, "size=64k")?;
    sys::mount("upper", "/mnt/stacked", "tmpfs", libc::MS_RDONLY, "size=64k")
}

fn load_modules(notes: &mut Vec<String>) {
    let order = fs::read_to_string("/modules/order").unwrap_or_default();
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        note(notes, &format!("module {name}"), sys::load_module(&format!("/modules/{name}"), ""));
    }
}
