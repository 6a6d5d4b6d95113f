//! An actor with open files of many kinds, on many file systems, some under high numbers.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::{Held, or_report};
use crate::sys;

/// Opens everything; the descriptors live as long as the process.
pub(super) fn open_many() -> io::Result<Held> {
    let mut files: Vec<File> = Vec::new();
    files.extend(or_report("append", append()));
    files.extend(or_report("deleted", deleted()));
    for path in [
        "/proc/version",
        "/sys/kernel/notes",
        "/dev/null",
        "/dev/kmsg",
        "/mnt/bound/file",
        "/etc-lab",
        "/mnt/with two spaces",
    ] {
        if path == "/etc-lab" {
            fs::write(path, "on the root file system\n")?;
        }
        files.extend(or_report(path, File::open(path)));
    }
    let path_only = File::options().read(true).custom_flags(libc::O_PATH).open("/run");
    files.extend(or_report("O_PATH", path_only));
    let directory = File::options().read(true).custom_flags(libc::O_DIRECTORY).open("/tmp");
    files.extend(or_report("directory", directory));
    files.extend(or_report("fifo", fifo()));
    let mut special: Vec<OwnedFd> = Vec::new();
    let (read, write) = sys::pipe()?;
    let seek = File::open("/init")?;
    or_report(
        "high numbers",
        sys::dup_to(seek.as_raw_fd(), 70).and_then(|_| sys::dup_to(seek.as_raw_fd(), 300)),
    );
    (&seek).seek(SeekFrom::Start(4242))?;
    files.push(seek);
    special.extend([read, write]);
    special.extend(or_report("anonymous inodes", anonymous_inodes()).into_iter().flatten());
    special.extend(or_report("terminal", terminal()).into_iter().flatten());
    Ok(Box::new((files, special)))
}

fn append() -> io::Result<File> {
    let mut file = File::options().append(true).create(true).open("/tmp/lab-append.log")?;
    file.write_all(b"first line\nsecond line\n")?;
    Ok(file)
}

fn deleted() -> io::Result<File> {
    let mut file = File::options().read(true).write(true).create_new(true).open("/tmp/lab-gone.dat")?;
    file.write_all(&[b'x'; 1000])?;
    fs::remove_file("/tmp/lab-gone.dat")?;
    Ok(file)
}

fn fifo() -> io::Result<File> {
    // SAFETY: a static NUL-terminated path.
    sys::check(unsafe { libc::mkfifo(c"/run/lab-fifo".as_ptr(), 0o600) })?;
    File::options().read(true).write(true).open("/run/lab-fifo")
}

/// eventfd, epoll that watches it, timerfd, signalfd, inotify, memfd.
fn anonymous_inodes() -> io::Result<Vec<OwnedFd>> {
    // SAFETY: numbers, and addresses of live locals that the kernel reads during the call only.
    unsafe {
        let event = sys::own(libc::eventfd(3, libc::EFD_CLOEXEC))?;
        let epoll = sys::own(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
        let mut watch = libc::epoll_event { events: libc::EPOLLOUT as u32, u64: 77 };
        sys::check(libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, event.as_raw_fd(), &mut watch))?;
        let timer = sys::own(libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC))?;
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut signals, libc::SIGUSR1);
        let signal = sys::own(libc::signalfd(-1, &signals, libc::SFD_CLOEXEC))?;
        let inotify = sys::own(libc::inotify_init1(libc::IN_CLOEXEC))?;
        sys::check(libc::inotify_add_watch(inotify.as_raw_fd(), c"/tmp".as_ptr(), libc::IN_CREATE))?;
        let memory = sys::own(libc::memfd_create(c"lab-memory".as_ptr(), libc::MFD_CLOEXEC))?;
        sys::check(libc::ftruncate(memory.as_raw_fd(), 12345))?;
        Ok(vec![event, epoll, timer, signal, inotify, memory])
    }
}

/// Both ends of a pseudo-terminal.
fn terminal() -> io::Result<Vec<OwnedFd>> {
    let master = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/ptmx")?;
    let mut number: libc::c_int = 0;
    let unlock: libc::c_int = 0;
    // SAFETY: both requests take the address of one live integer.
    unsafe {
        sys::check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock))?;
        sys::check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &mut number))?;
    }
    let slave = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(format!("/dev/pts/{number}"))?;
    Ok(vec![master.into(), slave.into()])
}
