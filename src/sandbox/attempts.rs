//! What whoever took over a worker would try, each thing once, for `lynceus selftest sandbox` and the tests.
//!
//! *Does*: makes one system call of each kind and tells what came of it. To be called in a process of its own, which has been locked
//! down: the filter ends it.
//! *Trusts*: nothing to hold. *Never*: tries what would do harm where it works: what is opened is only read, what is made is deleted with
//! the process, and a signal that is sent is the empty one.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::null;

/// What an attempt is made on, where it needs something that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// The process that started this one.
    pub(crate) parent: u32,
    /// A TCP port on which somebody listens, of the host's own network.
    pub(crate) port: u16,
}

/// How an attempt went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Went {
    /// It worked.
    Through,
    /// The kernel refused, with this error.
    Refused(i32),
}

/// Something that must not work.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) about: &'static str,
    /// Tries.
    pub(crate) go: fn(&Target) -> Went,
}

macro_rules! attempts {
    ($($name:literal, $about:literal, $go:expr;)*) => {
        &[$(Attempt { name: $name, about: $about, go: $go }),*]
    };
}

/// All of them.
pub(crate) const ATTEMPTS: &[Attempt] = attempts![
    "open", "open a file", |_| open(c"/etc/passwd", libc::O_RDONLY);
    "shadow", "read /etc/shadow", |_| open(c"/etc/shadow", libc::O_RDONLY);
    "create", "create a file", |_| open(c"/tmp", libc::O_TMPFILE | libc::O_RDWR);
    "memory-file", "make a file in memory", |_| call(libc::SYS_memfd_create, [c"x".as_ptr() as usize, 0, 0, 0, 0]);
    "connect", "connect to a TCP port", connect_tcp;
    "abstract", "connect to an abstract Unix socket", connect_abstract;
    "packet", "open a packet socket", |_| call(libc::SYS_socket, [AF_PACKET, SOCK_RAW, 0x0300, 0, 0]);
    "exec", "execute a program", |_| exec();
    "fork", "fork a process", |_| fork();
    "clone3", "start a process with clone3", |_| clone3();
    "ptrace", "trace another process", |at| call(libc::SYS_ptrace, [PTRACE_SEIZE, at.parent as usize, 0, 0, 0]);
    "read-process", "read another process's memory", |at| copy(libc::SYS_process_vm_readv, at);
    "write-process", "write another process's memory", |at| copy(libc::SYS_process_vm_writev, at);
    "signal", "signal another process", |at| call(libc::SYS_kill, [at.parent as usize, 0, 0, 0, 0]);
    "map-code", "map memory as code", |_| map(RWX);
    "make-code", "turn memory into code", |_| protect_own(RWX);
    "write-guest", "make a guest's mapping writable", |_| write_guest();
    "capability", "regain capabilities", |_| regain();
    "setuid", "become root", |_| call(libc::SYS_setresuid, [0; 5]);
    "privileges", "take no_new_privs back", |_| call(libc::SYS_prctl, [PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0]);
    "dumpable", "let others look into this process", |_| call(libc::SYS_prctl, [PR_SET_DUMPABLE, 1, 0, 0, 0]);
    "limits", "raise a limit", |_| raise();
    "memory", "take more memory than allowed", |_| map_much();
    "threads", "start more threads than allowed", |_| start_threads();
    "user-namespace", "make a user namespace", |_| call(libc::SYS_unshare, [CLONE_NEWUSER, 0, 0, 0, 0]);
    "chroot", "change the root folder", |_| call(libc::SYS_chroot, [c"/".as_ptr() as usize, 0, 0, 0, 0]);
    "mount", "mount a file system", |_| mount();
    "module", "load a kernel module", |_| call(libc::SYS_init_module, [0; 5]);
    "bpf", "load a BPF map", |_| bpf();
    "perf", "open a performance counter", |_| perf();
    "userfaultfd", "handle page faults", |_| call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0]);
    "io-uring", "open an io_uring", |_| io_uring();
    "keys", "use the kernel's keyrings", |_| call(libc::SYS_keyctl, [0, SESSION_KEYRING, 1, 0, 0]);
    "shared-memory", "make System V shared memory", |_| call(libc::SYS_shmget, [0, 4096, 0o600, 0, 0]);
    "terminal", "type into the terminal", |_| call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, c"x".as_ptr() as usize, 0, 0]);
    "handler", "replace the filter's handler", |_| call(libc::SYS_rt_sigaction, [31, 0, 0, 8, 0]);
    "filter", "put on a filter of its own", |_| call(libc::SYS_seccomp, [1, 0, 0, 0, 0]);
];

const AF_PACKET: usize = 17;
const SOCK_RAW: usize = 3;
const PTRACE_SEIZE: usize = 0x4206;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_NO_NEW_PRIVS: usize = 38;
const CLONE_NEWUSER: usize = 0x1000_0000;
const RWX: i32 = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
/// `KEY_SPEC_SESSION_KEYRING`, -3.
const SESSION_KEYRING: usize = -3isize as usize;
const PAGE: usize = 4096;

/// The name of the abstract socket on which the parent listens.
pub(crate) fn abstract_name(parent: u32) -> String {
    format!("lynceus-selftest-{parent}")
}

/// A system call, whose answer is all that is of interest.
fn call(number: libc::c_long, args: [usize; 5]) -> Went {
    let [a, b, c, d, e] = args;
    // SAFETY: every caller in this file passes numbers, null, or pointers to what lives until the call returns; no call that
    // works writes to memory of ours.
    went(unsafe { libc::syscall(number, a, b, c, d, e) })
}

fn went(answer: libc::c_long) -> Went {
    if answer >= 0 { Went::Through } else { refused(&io::Error::last_os_error()) }
}

fn refused(error: &io::Error) -> Went {
    Went::Refused(error.raw_os_error().unwrap_or(0))
}

fn of<T>(done: io::Result<T>) -> Went {
    done.map_or_else(|error| refused(&error), |_| Went::Through)
}

fn open(path: &std::ffi::CStr, flags: i32) -> Went {
    call(libc::SYS_openat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, flags as usize, 0o600, 0])
}

fn connect_tcp(at: &Target) -> Went {
    of(std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, at.port)))
}

fn connect_abstract(at: &Target) -> Went {
    use std::os::linux::net::SocketAddrExt;
    let name = std::os::unix::net::SocketAddr::from_abstract_name(abstract_name(at.parent));
    of(name.and_then(|name| std::os::unix::net::UnixStream::connect_addr(&name)))
}

fn exec() -> Went {
    let argv = [c"true".as_ptr(), null()];
    call(libc::SYS_execve, [c"/bin/true".as_ptr() as usize, argv.as_ptr() as usize, 0, 0, 0])
}

fn fork() -> Went {
    // SAFETY: the child ends at once.
    let answer = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if answer == 0 {
        // SAFETY: no destructor of the parent's runs in its copy.
        unsafe { libc::_exit(0) };
    }
    went(answer)
}

fn clone3() -> Went {
    // struct clone_args of 64 bytes: no flags, exit_signal at 32.
    let mut args = [0u64; 8];
    args[4] = libc::SIGCHLD as u64;
    // SAFETY: reads 64 bytes of `args`; the child ends at once.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    if answer == 0 {
        // SAFETY: as above.
        unsafe { libc::_exit(0) };
    }
    went(answer)
}

/// A byte of the parent's where no program has any: the right to is checked before.
fn copy(number: libc::c_long, at: &Target) -> Went {
    let mut byte = 0u8;
    let ours = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let theirs = libc::iovec { iov_base: std::ptr::without_provenance_mut(8), iov_len: 1 };
    let (ours, theirs) = (&raw const ours, &raw const theirs);
    // SAFETY: at most one byte is copied, to or from `byte`.
    match went(unsafe { libc::syscall(number, at.parent as usize, ours, 1usize, theirs, 1usize, 0usize) }) {
        Went::Refused(libc::EFAULT) => Went::Through,
        other => other,
    }
}

fn map(protection: i32) -> Went {
    // SAFETY: the kernel picks an unused address.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), PAGE, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if at == libc::MAP_FAILED { refused(&io::Error::last_os_error()) } else { Went::Through }
}

/// Four times what a worker may have by default. Nothing of it is touched.
fn map_much() -> Went {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let write = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel picks an unused address.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 8 << 30, write, kind, -1, 0) };
    if at == libc::MAP_FAILED { refused(&io::Error::last_os_error()) } else { Went::Through }
}

fn start_threads() -> Went {
    let start = |_| std::thread::Builder::new().stack_size(64 << 10).spawn(std::thread::park).map(drop);
    of((0..64).try_for_each(start))
}

fn protect_own(protection: i32) -> Went {
    // SAFETY: a fresh page, which nobody else knows.
    unsafe {
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ, kind, -1, 0);
        went(libc::mprotect(at, PAGE, protection).into())
    }
}

thread_local! {
    /// A file in memory, mapped as a guest's RAM is. Made before the lock-down, by [`prepare`].
    static RAM: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Makes what an attempt needs and a locked-down process cannot make.
pub(crate) fn prepare() -> io::Result<()> {
    // SAFETY: a constant name; the descriptor is checked and owned at once.
    let file = unsafe {
        let fd = libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(fd)
    };
    file.set_len(PAGE as u64)?;
    let read = std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    // SAFETY: the kernel picks an unused address. The mapping stays until the process ends.
    let at = unsafe {
        let fd = read.as_raw_fd();
        libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ, libc::MAP_SHARED, fd, 0)
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    RAM.with(|ram| ram.set(at as usize));
    Ok(())
}

fn write_guest() -> Went {
    let at = RAM.with(std::cell::Cell::get);
    call(libc::SYS_mprotect, [at, PAGE, (libc::PROT_READ | libc::PROT_WRITE) as usize, 0, 0])
}

fn regain() -> Went {
    // _LINUX_CAPABILITY_VERSION_3, this thread; effective, permitted and inheritable twice.
    let (header, all) = ([0x2008_0522u32, 0], [u32::MAX, u32::MAX, 0, 0x1ff, 0x1ff, 0]);
    call(libc::SYS_capset, [header.as_ptr() as usize, all.as_ptr() as usize, 0, 0, 0])
}

fn raise() -> Went {
    let more = [1u64 << 20, 1 << 20];
    call(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, more.as_ptr() as usize, 0, 0])
}

fn mount() -> Went {
    let (from, at) = (c"none".as_ptr() as usize, c"/proc/self/fdinfo".as_ptr() as usize);
    call(libc::SYS_mount, [from, at, c"tmpfs".as_ptr() as usize, 0, 0])
}

/// An array of one word, in the union of 72 bytes.
fn bpf() -> Went {
    let mut attr = [0u32; 32];
    attr[..4].copy_from_slice(&[2, 4, 4, 1]);
    call(libc::SYS_bpf, [0, attr.as_ptr() as usize, 72, 0, 0])
}

/// A software clock of this process: struct perf_event_attr of 64 bytes, type 1.
fn perf() -> Went {
    let attr = [1u64 | 64 << 32, 0, 0, 0, 0, 0, 0, 0];
    call(libc::SYS_perf_event_open, [attr.as_ptr() as usize, 0, usize::MAX, usize::MAX, 0])
}

fn io_uring() -> Went {
    let mut parameters = [0u8; 120];
    call(libc::SYS_io_uring_setup, [1, parameters.as_mut_ptr() as usize, 0, 0, 0])
}

/// An error's name, for people.
pub(crate) fn error_name(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}
