//! Actors that differ in who they are: identity, capabilities, threads, names, executables, namespaces, root.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use super::{Held, or_report};
use crate::scenery::{spawn_reporting, wait_ready};
use crate::sys;

/// What [`title`] shows in place of its arguments: longer than they were, so that it runs on into the environment.
const TITLE: &str = "lab-title: rewritten, serving nobody [idle] and longer than it was";

/// uid and gid 1000, groups 4, 24 and 27.
pub(super) fn user() -> io::Result<Held> {
    sys::become_user(1000, 1000, &[4, 24, 27])?;
    Ok(Box::new(()))
}

/// A user's shell, and a command that it runs: programs that were started as a user.
pub(super) fn session(args: &[String]) -> io::Result<Held> {
    if args.is_empty() {
        fs::hard_link("/init", "/lab/lab-command")?;
        sys::become_user(1000, 1000, &[1000])?;
        return Err(Command::new("/lab/lab-session").arg0("lab-session").arg("-i").exec());
    }
    let mut command = Command::new("/lab/lab-command");
    let (ours, theirs) = sys::pipe()?;
    let child = spawn_reporting(command.arg0("lab-command").stdin(Stdio::null()), theirs.as_raw_fd())?;
    drop(theirs);
    wait_ready("lab-command", ours);
    Ok(Box::new(child))
}

/// Root with two capabilities left, a smaller bounding set, and no_new_privs.
pub(super) fn caps() -> io::Result<Held> {
    const CAP_NET_BIND_SERVICE: u32 = 10;
    const CAP_SYS_MODULE: libc::c_ulong = 16;
    const CAP_SYS_PTRACE: u32 = 19;
    // SAFETY: prctl takes numbers; capset takes the version-3 header and its two data words, both live.
    unsafe {
        sys::check(libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_MODULE, 0, 0, 0))?;
        sys::check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        let header = [0x2008_0522u32, 0];
        let kept = (1 << CAP_NET_BIND_SERVICE) | (1 << CAP_SYS_PTRACE);
        // effective, permitted, inheritable; low word then high word
        let data = [kept, kept, 1u32 << CAP_NET_BIND_SERVICE, 0, 0, 0];
        sys::check(libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()))?;
    }
    Ok(Box::new(()))
}

/// Four threads called `worker-0` to `worker-3`.
pub(super) fn threads() -> io::Result<Held> {
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(5));
    for number in 0..4 {
        let barrier = barrier.clone();
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            barrier.wait();
            sys::sleep_for_ever()
        })?;
    }
    barrier.wait();
    Ok(Box::new(()))
}

/// A child `lab-undead` that has ended with code 7 and is never waited for.
pub(super) fn zombie() -> io::Result<Held> {
    fs::hard_link("/init", "/lab/lab-undead")?;
    let child = Command::new("/lab/lab-undead").spawn()?;
    // SAFETY: all zeroes is a valid siginfo_t, and it outlives the call.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        sys::check(libc::waitid(libc::P_PID, child.id(), &mut info, libc::WEXITED | libc::WNOWAIT))?;
    }
    Ok(Box::new(child))
}

/// Runs from a file of its own that it then removes.
pub(super) fn deleted(args: &[String]) -> io::Result<Held> {
    const COPY: &str = "/run/lab-deleted";
    if args.is_empty() {
        fs::copy("/init", COPY)?;
        return Err(Command::new(COPY).arg0("lab-deleted").arg("resident").exec());
    }
    fs::remove_file(COPY)?;
    Ok(Box::new(()))
}

/// Runs on while a package manager puts a newer version of its file in the place of the old one.
pub(super) fn upgraded(args: &[String]) -> io::Result<Held> {
    const OLD: &str = "/run/lab-upgraded";
    const NEW: &str = "/run/lab-upgraded.dpkg-new";
    if args.is_empty() {
        fs::copy("/init", OLD)?;
        return Err(Command::new(OLD).arg0("lab-upgraded").arg("resident").exec());
    }
    fs::copy("/init", NEW)?;
    fs::rename(NEW, OLD)?;
    Ok(Box::new(()))
}

/// Runs from memory that never had a file name.
pub(super) fn memfd(args: &[String]) -> io::Result<Held> {
    if !args.is_empty() {
        sys::set_name("lab-memfd")?;
        return Ok(Box::new(()));
    }
    run_from_memory("lab-payload", "lab-memfd", "resident")
}

/// Becomes this program again, from a memfd of that name.
pub(crate) fn run_from_memory(file: &str, name: &str, argument: &str) -> io::Result<Held> {
    let (file, name, argument) = (sys::cstr(file)?, sys::cstr(name)?, sys::cstr(argument)?);
    // SAFETY: a NUL-terminated name.
    let fd = sys::own(unsafe { libc::memfd_create(file.as_ptr(), libc::MFD_CLOEXEC) })?;
    let mut file = fs::File::from(fd);
    file.write_all(&fs::read("/init")?)?;
    let argv = [name.as_ptr(), argument.as_ptr(), std::ptr::null()];
    let envp = [c"PATH=/bin".as_ptr(), std::ptr::null()];
    // SAFETY: both arrays end in null and hold pointers to strings that outlive the call.
    unsafe { libc::fexecve(file.as_raw_fd(), argv.as_ptr(), envp.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// The longest name a task can have; its 8 KB argument came with the exec.
pub(super) fn long() -> io::Result<Held> {
    sys::set_name("lab-long-15char")?;
    Ok(Box::new(()))
}

/// Writes a title over its own arguments, as setproctitle(3) does.
pub(super) fn title() -> io::Result<Held> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    // Fields 48, 49 and 51 of proc(5) are arg_start, arg_end and env_end; the text after the name starts at field 3.
    let field = |number: usize| {
        after_name.split_whitespace().nth(number - 3).and_then(|text| text.parse::<usize>().ok())
    };
    let (Some(start), Some(arg_end), Some(end)) = (field(48), field(49), field(51)) else {
        return Err(io::Error::other("no argument addresses in stat"));
    };
    let mut bytes = TITLE.as_bytes().to_vec();
    if bytes.len() <= arg_end - start || start + bytes.len() >= end {
        return Err(io::Error::other("the title does not fit as planned"));
    }
    bytes.resize(end - start, 0);
    sys::poke(start, &bytes);
    Ok(Box::new(()))
}

/// Root inside its own user namespace, uid 100000 outside.
pub(super) fn user_namespace() -> io::Result<Held> {
    let (go, unshared) = sys::pipe()?;
    let parent = std::process::id();
    // Only a process that is still in the parent namespace may write a map of many ids.
    if sys::fork()? == 0 {
        drop(unshared);
        sys::exit_now(if write_maps(parent, go).is_ok() { 0 } else { 1 });
    }
    sys::unshare(libc::CLONE_NEWUSER)?;
    drop(unshared);
    sys::reap(true);
    or_report("identity in the user namespace", sys::become_user(0, 0, &[]));
    Ok(Box::new(()))
}

fn write_maps(parent: u32, go: OwnedFd) -> io::Result<()> {
    fs::File::from(go).read_to_end(&mut Vec::new())?;
    fs::write(format!("/proc/{parent}/uid_map"), "0 100000 65536\n")?;
    fs::write(format!("/proc/{parent}/gid_map"), "0 100000 65536\n")
}

/// Root directory `/run/lab-jail`, working directory below it.
pub(super) fn chrooted() -> io::Result<Held> {
    fs::create_dir_all("/run/lab-jail/home")?;
    sys::chroot("/run/lab-jail")?;
    sys::chdir("/home")?;
    Ok(Box::new(CString::default()))
}
