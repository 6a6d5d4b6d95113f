//! Thin safe wrappers of the system calls that the standard library lacks.
//!
//! Every wrapper turns -1 into the `errno` it came with. Nothing here keeps state.

use std::ffi::CString;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A C string of `text`; a NUL inside is an invalid argument.
pub(crate) fn cstr(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The value a system call returned, or the error that -1 stands for.
pub(crate) fn check<T: Copy + PartialOrd + Default>(value: T) -> io::Result<T> {
    if value < T::default() { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Takes ownership of a descriptor that a system call just returned.
pub(crate) fn own(fd: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the caller passes the fresh result of a call that opens a descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The value of `name=value` on the kernel's command line.
pub(crate) fn kernel_option(name: &str) -> Option<String> {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// `mount(2)`.
pub(crate) fn mount(
    source: &str,
    target: &str,
    fstype: &str,
    flags: libc::c_ulong,
    data: &str,
) -> io::Result<()> {
    let (source, target, fstype, data) = (cstr(source)?, cstr(target)?, cstr(fstype)?, cstr(data)?);
    // SAFETY: four NUL-terminated strings that outlive the call.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), fstype.as_ptr(), flags, data.as_ptr().cast())
    })?;
    Ok(())
}

/// `umount(2)`.
pub(crate) fn unmount(target: &str) -> io::Result<()> {
    let target = cstr(target)?;
    // SAFETY: a NUL-terminated path that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), 0) }).map(drop)
}

/// Makes `new_root` the root of this mount namespace and lets go of the old one.
pub(crate) fn pivot_root(new_root: &str) -> io::Result<()> {
    let (root, dot) = (cstr(new_root)?, cstr(".")?);
    // SAFETY: NUL-terminated strings that outlive the calls. Old and new root are stacked on ".", as pivot_root(2) describes.
    unsafe {
        check(libc::chdir(root.as_ptr()))?;
        check(libc::syscall(libc::SYS_pivot_root, dot.as_ptr(), dot.as_ptr()))?;
        check(libc::umount2(dot.as_ptr(), libc::MNT_DETACH))?;
    }
    chdir("/")
}

/// `chroot(2)`, then `chdir("/")`.
pub(crate) fn chroot(path: &str) -> io::Result<()> {
    std::os::unix::fs::chroot(path)?;
    chdir("/")
}

/// `chdir(2)`.
pub(crate) fn chdir(path: &str) -> io::Result<()> {
    std::env::set_current_dir(path)
}

/// `unshare(2)`.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes flags only.
    check(unsafe { libc::unshare(flags) })?;
    Ok(())
}

/// `setns(2)` of a namespace descriptor.
pub(crate) fn setns(fd: &impl AsRawFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind) })?;
    Ok(())
}

/// `sethostname(2)`.
pub(crate) fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length of one live string.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })?;
    Ok(())
}

/// Names this thread (`PR_SET_NAME`, 15 bytes at most).
pub(crate) fn set_name(name: &str) -> io::Result<()> {
    let name = cstr(name)?;
    // SAFETY: a NUL-terminated string; the kernel copies at most 16 bytes of it.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) })?;
    Ok(())
}

/// Supplementary groups, then group, then user: all of real, effective and saved.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length of one live slice; the rest are numbers.
    unsafe {
        check(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// Loads a kernel module from a file.
pub(crate) fn load_module(path: &str, params: &str) -> io::Result<()> {
    /// `MODULE_INIT_COMPRESSED_FILE`, include/uapi/linux/module.h since 5.17.
    const COMPRESSED: libc::c_int = 4;
    let file = std::fs::File::open(path)?;
    let params = cstr(params)?;
    let flags = if path.ends_with(".ko") { 0 } else { COMPRESSED };
    // SAFETY: an open descriptor and a NUL-terminated string that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), params.as_ptr(), flags) })?;
    Ok(())
}

/// Copies a descriptor to the number `to`, which stays open on exec (also when it already has that number).
pub(crate) fn dup_to(fd: RawFd, to: RawFd) -> io::Result<RawFd> {
    // SAFETY: numbers only; the caller names a free or its own `to`.
    unsafe { check(if fd == to { libc::fcntl(fd, libc::F_SETFD, 0).min(0) } else { libc::dup2(fd, to) }) }
}

/// A pipe, closed on exec: (read end, write end).
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((own(ends[0])?, own(ends[1])?))
}

/// `fork(2)`: the child's pid, or 0 in the child. The callers are single-threaded.
pub(crate) fn fork() -> io::Result<libc::pid_t> {
    // SAFETY: this process has one thread at every call, so the child may go on as it likes.
    check(unsafe { libc::fork() })
}

/// Ends this process at once.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, runs no handlers.
    unsafe { libc::_exit(code) }
}

/// Waits for any child, or only looks (`block` false). The pid of one that ended, if any.
pub(crate) fn reap(block: bool) -> Option<libc::pid_t> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, if block { 0 } else { libc::WNOHANG }) };
    (pid > 0).then_some(pid)
}

/// Sleeps until a signal, for ever.
pub(crate) fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

/// Switches the machine off.
pub(crate) fn power_off() -> ! {
    // SAFETY: takes a command only; PID 1 has nothing left to lose.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    sleep_for_ever()
}

/// Whether `fd` has input within `timeout_ms` (a signal ends the wait early).
pub(crate) fn readable(fd: &impl AsRawFd, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, and a count of one.
    unsafe { libc::poll(&mut poll, 1, timeout_ms) > 0 }
}

/// Anonymous memory, `PROT_*` and extra `MAP_*` flags as given. The start of the mapping.
pub(crate) fn map_anonymous(len: usize, prot: i32, extra: i32) -> io::Result<usize> {
    map(-1, len, prot, libc::MAP_ANONYMOUS | extra)
}

/// `mmap(2)` at an address of the kernel's choice (or -1 as `fd` for none). The start of the mapping.
pub(crate) fn map(fd: RawFd, len: usize, prot: i32, flags: i32) -> io::Result<usize> {
    // SAFETY: no fixed address, so no existing memory of this process changes.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at as usize) }
}

/// Copies `bytes` to `at`, an address inside writable memory that the caller mapped.
pub(crate) fn poke(at: usize, bytes: &[u8]) {
    // SAFETY: the callers pass addresses inside their own writable mappings, with room for `bytes`.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) }
}

/// `mprotect(2)` of a mapping the caller made.
pub(crate) fn protect(at: usize, len: usize, prot: i32) -> io::Result<()> {
    // SAFETY: the callers pass their own mappings, which no Rust reference points into.
    check(unsafe { libc::mprotect(at as *mut libc::c_void, len, prot) })?;
    Ok(())
}

/// A socket address in the kernel's form, and its length.
pub(crate) fn sockaddr(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let len = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than, and aligned for, every sockaddr.
            unsafe { std::ptr::write((&raw mut storage).cast(), raw) };
            mem::size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { std::ptr::write((&raw mut storage).cast(), raw) };
            mem::size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, len as libc::socklen_t)
}

/// Sends a copy of a descriptor to whoever reads from the other end of `socket`.
pub(crate) fn send_descriptor(socket: &impl AsRawFd, fd: RawFd) -> io::Result<()> {
    let mut byte = *b"x";
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // Room for a header and one descriptor, aligned as a header must be.
    let mut control = [0u64; 8];
    // SAFETY: all-zero bytes are a valid msghdr. It names live locals; the control buffer has room for one header and one
    // descriptor, which the CMSG macros place in it.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(mem::size_of::<RawFd>() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(mem::size_of::<RawFd>() as u32) as usize;
        std::ptr::write_unaligned(libc::CMSG_DATA(header).cast(), fd);
        check(libc::sendmsg(socket.as_raw_fd(), &message, 0))?;
    }
    Ok(())
}

/// `socket(2)`, closed on exec.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    own(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })
}

/// A packet socket for IPv4 whose filter lets pass what has a magic number where UDP has its content.
pub(crate) fn packet_filter() -> io::Result<OwnedFd> {
    const MAGIC: u32 = 0x4c41;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from((libc::ETH_P_IP as u16).to_be()))?;
    let mut program = [
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 42),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, MAGIC),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0xffff),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: address and size of one live local, which names a live array; the kernel copies both.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            mem::size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })?;
    Ok(socket)
}
