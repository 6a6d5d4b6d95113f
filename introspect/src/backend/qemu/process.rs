//! One process of this host, held so that its number cannot come to mean another.
//!
//! *Does*: tells whether the process still lives, lists its mappings, opens files as the process sees them (its own
//! mount namespace), and copies from its memory.
//! *Trusts*: the host kernel's `/proc`. Not what paths in there point to: they are resolved inside the process's root.
//! *Never*: writes to the process, or returns bytes of a process that took over the number.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Longest `/proc` text that is read: smaps of a process with 65,530 mappings stays below.
const PROC_TEXT_BYTES: u64 = 96 << 20;

/// Longest copy through `/proc/PID/mem`, which goes page by page (measured: 0.9 µs against 1.5 for 8 bytes, 148 µs against
/// 34 for 1 MiB). Longer ones take `process_vm_readv`, which asks for the right to trace each time.
const SHORT_BYTES: usize = 16 << 10;

/// Which rights a copy may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Copy {
    /// Those that the fastest way takes.
    Fastest,
    /// None beyond the descriptor: what a worker's filter lets through.
    ByDescriptor,
}

/// A live process, by descriptor.
#[derive(Debug)]
pub(super) struct Process {
    pid: libc::pid_t,
    fd: OwnedFd,
    gone: AtomicBool,
    /// Coarse clock of the last look at `fd`, in nanoseconds.
    looked_ns: AtomicU64,
}

impl Process {
    /// Takes hold of a process. From here on `pid` means it or nothing.
    pub(super) fn open(pid: u32) -> io::Result<Process> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        // SAFETY: no pointers are passed; the answer is checked below.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        Ok(Process { pid, fd: owned(fd)?, gone: AtomicBool::new(false), looked_ns: AtomicU64::new(0) })
    }

    /// Its number in this process's namespace.
    pub(super) fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Whether it lives. Once no, always no.
    pub(super) fn is_alive(&self) -> bool {
        if self.gone.load(Ordering::Acquire) {
            return false;
        }
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd; a pidfd becomes readable when its process ends.
        let ended = unsafe { libc::poll(&raw mut poll, 1, 0) } > 0;
        if ended {
            self.gone.store(true, Ordering::Release);
        }
        !ended
    }

    /// As [`Process::is_alive`], asking the kernel once per tick of its coarse clock (1 to 10 ms): a read of 8 bytes from a
    /// mapping costs a tenth of the system call.
    pub(super) fn was_alive_lately(&self) -> bool {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a valid timespec to fill.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
        let now =
            time.tv_sec.unsigned_abs().wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.unsigned_abs());
        if self.looked_ns.load(Ordering::Relaxed) == now {
            !self.gone.load(Ordering::Acquire)
        } else {
            self.looked_ns.store(now, Ordering::Relaxed);
            self.is_alive()
        }
    }

    /// A text of `/proc/PID`, of this very process.
    pub(super) fn text(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let file = File::open(format!("/proc/{}/{name}", self.pid))?;
        file.take(PROC_TEXT_BYTES).read_to_end(&mut text)?;
        if self.is_alive() { Ok(text) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    }

    /// Opens `path` without reading or writing rights (`O_PATH`), as the process would: in its root, or from its working
    /// directory. Symbolic links cannot lead out.
    pub(super) fn locate(&self, path: &Path) -> io::Result<OwnedFd> {
        let base = if path.is_absolute() { "root" } else { "cwd" };
        let root = File::open(format!("/proc/{}/{base}", self.pid))?;
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: open_how is plain data, for which zeros are valid.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = (libc::O_PATH | libc::O_CLOEXEC).unsigned_abs().into();
        how.resolve = libc::RESOLVE_IN_ROOT;
        let size = size_of::<libc::open_how>();
        // SAFETY: a live directory descriptor, a terminated path, and an open_how of the size told.
        let fd = unsafe {
            libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &raw const how, size)
        };
        let fd = owned(fd)?;
        if self.is_alive() { Ok(fd) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    }

    /// Opens the process's memory for reading. The right to is checked here and, for short copies, never again.
    pub(super) fn memory(&self) -> io::Result<Memory> {
        let file = File::open(format!("/proc/{}/mem", self.pid))?;
        if self.is_alive() { Ok(Memory(file)) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    }

    /// Copies from the process's memory; all of it or an error.
    pub(super) fn copy_out(
        &self,
        memory: &Memory,
        address: u64,
        buf: &mut [u8],
        how: Copy,
    ) -> io::Result<()> {
        if how == Copy::Fastest && buf.len() > SHORT_BYTES {
            match self.copy_long(address, buf) {
                // Whoever gave their rights up since.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
                done => return done,
            }
        }
        match memory.0.read_exact_at(buf, address) {
            Ok(()) => Ok(()),
            // The descriptor is of the address space, not of a process number: it ends with the process.
            Err(_) if !self.is_alive() => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
            Err(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }

    fn copy_long(&self, address: u64, buf: &mut [u8]) -> io::Result<()> {
        let wanted = buf.len();
        let at = usize::try_from(address).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?;
        let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: wanted };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: wanted };
        // SAFETY: `local` is exactly `buf`; `remote` is an address in the other process, which the kernel checks.
        let got = unsafe { libc::process_vm_readv(self.pid, &raw const local, 1, &raw const remote, 1, 0) };
        let error = io::Error::last_os_error();
        // It lives after the copy, so the number meant it during the copy.
        if !self.is_alive() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        match usize::try_from(got) {
            Ok(got) if got == wanted => Ok(()),
            Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            Err(_) => Err(error),
        }
    }
}

/// A process's memory, open for reading. Outlives the process, and then has no bytes.
#[derive(Debug)]
pub(super) struct Memory(File);

/// Takes over a descriptor that a system call gave, or its error.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn copies_from_a_process_until_it_ends() {
        let mut child = Command::new("sleep").arg("100").stdin(Stdio::null()).spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        // Where the program's file is mapped from its start. A parent goes on before the kernel has mapped its child's program.
        let is_start = |line: &&str| line.contains(" 00000000 ") && line.ends_with("sleep");
        let maps = (0..5000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            let maps = String::from_utf8(process.text("maps").unwrap()).unwrap();
            (maps.lines().any(|line| is_start(&line)) && maps.contains("[stack]")).then_some(maps)
        });
        let maps = maps.expect("a program that runs");
        let start = maps.lines().find(is_start).unwrap();
        let start = u64::from_str_radix(start.split('-').next().unwrap(), 16).unwrap();
        let memory = process.memory().unwrap();
        let (mut short, mut long) = (vec![0; 4], vec![0; SHORT_BYTES + 1]);
        process.copy_out(&memory, start, &mut short, Copy::Fastest).unwrap();
        assert_eq!(short, b"\x7fELF");
        // The stack is the one mapping that is surely long enough.
        let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
        let stack = u64::from_str_radix(stack.split('-').next().unwrap(), 16).unwrap();
        let ways = [Copy::Fastest, Copy::ByDescriptor];
        for how in ways {
            process.copy_out(&memory, stack, &mut long, how).unwrap();
        }
        let each = |process: &Process, address, short: &mut [u8], long: &mut [u8], errno| {
            for how in ways {
                for buf in [&mut *short, &mut *long] {
                    let error = process.copy_out(&memory, address, buf, how).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(errno), "{how:?}");
                }
            }
        };
        each(&process, 8, &mut short, &mut long, libc::EFAULT);
        child.kill().unwrap();
        child.wait().unwrap();
        each(&process, stack, &mut short, &mut long, libc::ESRCH);
        assert!(!process.is_alive() && !process.was_alive_lately());
        assert!(process.text("maps").is_err());
    }

    #[test]
    fn locates_inside_the_root_only() {
        let process = Process::open(std::process::id()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../../../../../../../etc/passwd", dir.path().join("up")).unwrap();
        assert!(process.locate(&dir.path().join("up")).is_ok(), "clipped at the root, as for the process");
        assert!(process.locate(&dir.path().join("none")).is_err());
        assert!(Process::open(u32::MAX).is_err());
    }
}
