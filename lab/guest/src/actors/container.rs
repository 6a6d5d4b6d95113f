//! A container, made as container runtimes make them: a runtime process outside (`lab-runtime`), inside it
//! `lab-container` as PID 1 of new PID, mount, network, UTS, IPC and cgroup namespaces with a root of its own, and its
//! child `lab-inner`.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::{Held, or_report};
use crate::scenery::{spawn_reporting, wait_ready};
use crate::{boot, sys};

/// The cgroup, named as Docker names one.
pub(crate) const CGROUP: &str =
    "/sys/fs/cgroup/docker/4c61624c796e636575734c61624c796e636575734c61624c796e636575730001";
const ROOT: &str = "/run/lab-root";

/// Makes the cgroup and the namespaces, starts the container and gives it a network interface.
pub(super) fn runtime() -> io::Result<Held> {
    or_report("cgroup", fs::create_dir_all(CGROUP));
    fs::create_dir_all(ROOT)?;
    sys::unshare(libc::CLONE_NEWPID)?;
    let (ours, theirs) = sys::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("lab-container").arg("setup").stdin(Stdio::null());
    // SAFETY: between fork and exec the closure only makes system calls on its own process.
    unsafe {
        command.pre_exec(|| {
            let _ = fs::write(format!("{CGROUP}/cgroup.procs"), "0");
            sys::unshare(
                libc::CLONE_NEWNS
                    | libc::CLONE_NEWNET
                    | libc::CLONE_NEWUTS
                    | libc::CLONE_NEWIPC
                    | libc::CLONE_NEWCGROUP,
            )
        });
    }
    let child = spawn_reporting(&mut command, theirs.as_raw_fd())?;
    drop(theirs);
    for line in wait_ready("lab-container", ours) {
        super::report(&line);
    }
    or_report("veth", join_network(child.id()));
    Ok(Box::new(child))
}

/// A virtual cable from this network namespace to the container's.
fn join_network(pid: u32) -> io::Result<()> {
    // busybox cannot name the peer: the kernel calls it veth0.
    boot::shell("ip link add lab-veth0 type veth && ip link set veth0 name lab-veth1")?;
    // This process's children live in the container's PID namespace, where its first process is 1.
    boot::shell("ip link set lab-veth1 netns 1")?;
    boot::shell("ip addr add 198.51.100.1/24 dev lab-veth0 && ip link set lab-veth0 up")?;
    let (own, inner) = (File::open("/proc/self/ns/net")?, File::open(format!("/proc/{pid}/ns/net"))?);
    sys::setns(&inner, libc::CLONE_NEWNET)?;
    let set = boot::shell("ip addr add 198.51.100.2/24 dev lab-veth1 && ip link set lab-veth1 up");
    sys::setns(&own, libc::CLONE_NEWNET)?;
    set
}

/// First stage: builds the root and moves into it. Second stage: what then runs in the container.
pub(super) fn container(args: &[String]) -> io::Result<Held> {
    if args.first().map(String::as_str) == Some("setup") {
        build_root()?;
        return Err(Command::new("/bin/lab-container").arg0("lab-container").args(["--serve", "80"]).exec());
    }
    let listener = or_report("container listener", TcpListener::bind("0.0.0.0:10080"));
    let mut child = Command::new("/bin/lab-inner");
    child.arg0("lab-inner").arg("inside").env_clear().env("IN_CONTAINER", "yes").stdin(Stdio::null());
    let (ours, theirs) = sys::pipe()?;
    let child = spawn_reporting(&mut child, theirs.as_raw_fd())?;
    drop(theirs);
    wait_ready("lab-inner", ours);
    Ok(Box::new((listener, child)))
}

fn build_root() -> io::Result<()> {
    sys::set_hostname("lab-container")?;
    // Settings of this network namespace: as in boot, addresses must not pass through "tentative".
    for conf in ["all", "default"] {
        or_report("accept_dad", fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/accept_dad"), "0"));
    }
    or_report("container lo", boot::shell("ip link set lo up"));
    sys::mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, "")?;
    sys::mount("container-root", ROOT, "tmpfs", 0, "size=8m,mode=0755")?;
    for directory in ["bin", "proc", "sys", "data", "tmp", "dev"] {
        fs::create_dir(format!("{ROOT}/{directory}"))?;
    }
    fs::copy("/init", format!("{ROOT}/bin/lab-container"))?;
    fs::hard_link(format!("{ROOT}/bin/lab-container"), format!("{ROOT}/bin/lab-inner"))?;
    sys::mount("/run/lab-data", &format!("{ROOT}/data"), "", libc::MS_BIND, "")?;
    or_report(
        "container /dev",
        sys::mount("devtmpfs", &format!("{ROOT}/dev"), "devtmpfs", libc::MS_NOEXEC, ""),
    );
    or_report("container proc", sys::mount("proc", &format!("{ROOT}/proc"), "proc", 0, ""));
    or_report("container sysfs", sys::mount("sysfs", &format!("{ROOT}/sys"), "sysfs", libc::MS_RDONLY, ""));
    sys::pivot_root(ROOT)
}
