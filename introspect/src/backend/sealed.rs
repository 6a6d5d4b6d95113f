//! A file in memory that nobody can write to any more, mapped for reading.
//!
//! *Does*: lends its bytes as they are, because the kernel keeps them so: a file with these seals cannot be written, cut off or unsealed by
//! anyone (`memfd_create(2)`, `fcntl(2)`: `F_SEAL_WRITE`, `F_SEAL_SHRINK`). *Trusts*: the host kernel. *Never*: maps a file without them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// All bytes of a sealed file. Unmapped when dropped.
#[derive(Debug)]
pub struct SealedMap {
    start: *const u8,
    len: usize,
}

// SAFETY: the mapping belongs to this value, stays until it is dropped, and nobody can write to it.
unsafe impl Send for SealedMap {}
// SAFETY: as above.
unsafe impl Sync for SealedMap {}

impl SealedMap {
    /// Maps all of a file. One that could still change is refused, as `InvalidInput`.
    pub fn new(file: &File) -> io::Result<SealedMap> {
        // SAFETY: F_GET_SEALS only reports; -1 for a file that cannot be sealed.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        let wanted = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK;
        if seals < 0 || seals & wanted != wanted {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is not sealed"));
        }
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is empty"));
        }
        let fd = file.as_raw_fd();
        // SAFETY: the kernel picks an unused address; nothing existing is replaced.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(SealedMap { start: start.cast(), len })
    }
}

impl AsRef<[u8]> for SealedMap {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `len` bytes were mapped there for as long as this lives, and the seals keep them as they are: no other process can change or
        // cut off the file, so this is neither a race nor a fault.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl Drop for SealedMap {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody else's.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.len) };
    }
}
