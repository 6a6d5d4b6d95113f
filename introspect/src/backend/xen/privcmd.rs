//! `/dev/xen/privcmd`: hypercalls, and mappings of other domains' frames.
//!
//! *Does*: a handle is opened read-only, so that the kernel refuses to make any mapping of it writable. Handles that read
//! guests are [restricted](Privcmd::restrict) to one domain before the first byte: they then map that domain and do nothing
//! else, whoever holds them.
//! *Trusts*: the host kernel and Xen. *Never*: forms a slice over a mapped frame, or calls `mprotect` on one.
#![allow(unsafe_code)]

use super::abi::{Hypercall, IOCTL_HYPERCALL, IOCTL_MMAPBATCH_V2, IOCTL_RESTRICT, MmapBatch};
use crate::addr::PAGE_BYTES;
use crate::backend::map;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::ptr::null_mut;

const PAGE: usize = PAGE_BYTES as usize;
/// Room for arguments: a command's structure, and behind it what it points to.
const BUFFER_BYTES: usize = 16 * PAGE;
const POINTED_AT: usize = PAGE;

/// What Xen is asked for. The seam at which tests put a hypervisor of their own.
pub(super) trait Hypervisor: Send + Sync {
    /// A hypercall whose argument is a structure, after a command number where the call has one. `pointed` is what the
    /// structure points to, and where in it the pointer is. Both are copied in and back out.
    fn call(
        &self,
        op: u64,
        command: Option<u64>,
        arg: &mut [u8],
        pointed: Option<(usize, &mut [u8])>,
    ) -> io::Result<u64>;

    /// Maps frames of a domain for reading, next to each other.
    fn map(&self, domain: u16, frames: &[u64]) -> io::Result<Box<dyn Window>>;
}

/// Frames of a domain, mapped.
pub(super) trait Window: Send + Sync {
    /// Why a frame is not there: an errno.
    fn error(&self, index: usize) -> Option<i32>;
    /// Copies from one frame. It must be there.
    fn copy_out(&self, index: usize, offset: usize, buf: &mut [u8]);
}

/// An open handle.
#[derive(Debug)]
pub(super) struct Privcmd(File);

impl Privcmd {
    /// Opens one. It can do everything until it is restricted.
    pub(super) fn open() -> io::Result<Privcmd> {
        map::open_read_only(Path::new("/dev/xen/privcmd")).map(Privcmd)
    }

    /// From now on this handle maps that one domain, and nothing else: no hypercall, no other domain. There is no way back.
    pub(super) fn restrict(&self, domain: u16) -> io::Result<()> {
        // SAFETY: the ioctl reads one domid_t.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_RESTRICT, &raw const domain) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// One hypercall with up to two arguments. Async-signal-safe.
pub(super) fn hypercall(fd: RawFd, op: u64, first: u64, second: u64) -> io::Result<u64> {
    let call = Hypercall { op, args: [first, second, 0, 0, 0] };
    // SAFETY: the ioctl reads `call`; that its arguments are good addresses is up to Xen, which checks them.
    let done = unsafe { libc::ioctl(fd, IOCTL_HYPERCALL, &raw const call) };
    u64::try_from(done).map_err(|_| io::Error::last_os_error())
}

impl Hypervisor for Privcmd {
    fn call(
        &self,
        op: u64,
        command: Option<u64>,
        arg: &mut [u8],
        pointed: Option<(usize, &mut [u8])>,
    ) -> io::Result<u64> {
        let too_long = || io::Error::from_raw_os_error(libc::E2BIG);
        let buffer = Buffer::new()?;
        let mut pointed = pointed;
        if let Some((at, bytes)) = &mut pointed {
            buffer.write(POINTED_AT, bytes).ok_or_else(too_long)?;
            let address = (buffer.address + POINTED_AT) as u64;
            let place = arg.get_mut(*at..).and_then(|rest| rest.first_chunk_mut()).ok_or_else(too_long)?;
            *place = address.to_le_bytes();
        }
        if arg.len() > POINTED_AT {
            return Err(too_long());
        }
        buffer.write(0, arg).ok_or_else(too_long)?;
        let address = buffer.address as u64;
        let done = match command {
            Some(command) => hypercall(self.fd(), op, command, address),
            None => hypercall(self.fd(), op, address, 0),
        }?;
        buffer.read(0, arg);
        if let Some((_, bytes)) = pointed {
            buffer.read(POINTED_AT, bytes);
        }
        Ok(done)
    }

    fn map(&self, domain: u16, frames: &[u64]) -> io::Result<Box<dyn Window>> {
        Ok(Box::new(Mapping::new(self.fd(), domain, frames)?))
    }
}

/// Memory that Xen may read and write during a call: the kernel pins it, which ordinary memory is not after a fork.
pub(super) struct Buffer {
    address: usize,
}

impl Buffer {
    /// Async-signal-safe.
    pub(super) fn new() -> io::Result<Buffer> {
        let kind = libc::MAP_SHARED;
        // SAFETY: opens a device by a constant name, maps it anywhere, closes it again.
        let address = unsafe {
            let fd = libc::open(c"/dev/xen/hypercall".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let address =
                libc::mmap(null_mut(), BUFFER_BYTES, libc::PROT_READ | libc::PROT_WRITE, kind, fd, 0);
            let error = io::Error::last_os_error();
            libc::close(fd);
            if address == libc::MAP_FAILED {
                return Err(error);
            }
            address
        };
        Ok(Buffer { address: address as usize })
    }

    pub(super) fn address(&self) -> u64 {
        self.address as u64
    }

    pub(super) fn write(&self, at: usize, bytes: &[u8]) -> Option<()> {
        at.checked_add(bytes.len()).filter(|end| *end <= BUFFER_BYTES)?;
        // SAFETY: inside this mapping, checked above; `bytes` is not part of it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (self.address + at) as *mut u8, bytes.len()) };
        Some(())
    }

    fn read(&self, at: usize, bytes: &mut [u8]) {
        let len = bytes.len().min(BUFFER_BYTES.saturating_sub(at));
        // SAFETY: inside this mapping; Xen writes only during a call.
        unsafe { std::ptr::copy_nonoverlapping((self.address + at) as *const u8, bytes.as_mut_ptr(), len) };
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping.
        unsafe { libc::munmap(self.address as *mut libc::c_void, BUFFER_BYTES) };
    }
}

/// A foreign mapping. Unmapped when dropped: while it is held, a destroyed domain's pages are not freed.
struct Mapping {
    start: *const u8,
    errors: Vec<i32>,
}

// SAFETY: the mapping belongs to this value, stays until it is dropped, and is only read, by loads that allow races.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method needs exclusive access.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: RawFd, domain: u16, frames: &[u64]) -> io::Result<Mapping> {
        let len = frames.len().saturating_mul(PAGE);
        // SAFETY: the kernel picks an unused address; nothing existing is replaced.
        let start = unsafe { libc::mmap(null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut mapping = Mapping { start: start.cast(), errors: vec![0; frames.len()] };
        mapping.fill(fd, domain, frames)?;
        Ok(mapping)
    }

    fn fill(&mut self, fd: RawFd, domain: u16, frames: &[u64]) -> io::Result<()> {
        let num = u32::try_from(frames.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
        let errors = self.errors.as_mut_ptr();
        let batch = MmapBatch {
            num,
            dom: domain,
            padding: 0,
            addr: self.start as u64,
            frames: frames.as_ptr(),
            errors,
        };
        // SAFETY: maps `num` frames over this value's own mapping of that length, reads `num` numbers and writes `num` errors,
        // whose vector nobody else sees yet.
        let done = unsafe { libc::ioctl(fd, IOCTL_MMAPBATCH_V2, &raw const batch) };
        match done {
            0.. => Ok(()),
            // Some frame was paged out. Its own error says so.
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT) => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Window for Mapping {
    fn error(&self, index: usize) -> Option<i32> {
        self.errors.get(index).copied().filter(|error| *error != 0)
    }

    fn copy_out(&self, index: usize, offset: usize, buf: &mut [u8]) {
        let inside = offset.checked_add(buf.len()).is_some_and(|end| end <= PAGE);
        if inside && index < self.errors.len() && self.error(index).is_none() {
            // SAFETY: inside one frame of this mapping that was mapped.
            unsafe { map::copy(self.start.add(index * PAGE + offset), buf) }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping, and no copy is under way: copies borrow it.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.errors.len() * PAGE) };
    }
}
