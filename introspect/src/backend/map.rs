//! A read-only mapping of a file whose bytes others may change at any time: guest RAM, or a dump.
//!
//! *Does*: copies bytes out of the mapping. Short copies are relaxed atomic loads, long ones `rep movsb` (where it is not slow), which
//! the compiler cannot see into: a write that races with either is a torn value, not undefined behaviour.
//! *Trusts*: the host kernel. Not the file: one that is truncated later raises SIGBUS, which a process-wide handler
//! (installed with the first mapping) answers by putting zeros behind the whole mapping and marking it lost; every copy
//! checks the mark afterwards, so zeros are never returned as content. Other SIGBUS go on to the previous handler.
//! A seccomp filter around this needs `mmap` and `rt_sigreturn`.
//! *Never*: forms a slice over mapped memory, or maps a descriptor that is open for writing: the kernel then refuses
//! to make the mapping writable, whatever this process is talked into.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Longest copy made of single loads. Above it the start-up of `rep movsb` (some 35 cycles) is repaid.
const SHORT_BYTES: usize = 128;
/// `rep movsb` takes 2.5 to 6 times as long (measured on Zen 4) where the target's place in its page is so little behind the source's.
/// It often is: what malloc(3) maps for a large buffer begins 16 bytes behind a page's start.
const NEAR_BYTES: usize = 32;
/// Mappings a process can hold: far above a host's VMs, small enough to search in a signal handler.
const SLOTS: usize = 1024;
/// Bytes in a host page.
const PAGE: usize = 4096;

/// Why a mapping could not be made, or not be read.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The host kernel refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The descriptor can write: a caller's mistake, refused on principle.
    #[error("the file is not open read-only")]
    Writable,
    /// The file ends before the range to be mapped does, or the range is empty.
    #[error("{len_bytes} bytes at {offset} do not lie in a file of {file_bytes} bytes")]
    FileTooShort {
        /// First byte asked for.
        offset: u64,
        /// Length asked for.
        len_bytes: u64,
        /// The file's length.
        file_bytes: u64,
    },
    /// The copy would leave the mapping.
    #[error("{len_bytes} bytes at {offset} are outside the mapping")]
    Outside {
        /// First byte asked for.
        offset: u64,
        /// Length asked for.
        len_bytes: u64,
    },
    /// The file was truncated while it was mapped. Its content is gone for good.
    #[error("the mapped file was truncated")]
    Lost,
    /// The process holds too many mappings.
    #[error("more than {SLOTS} mappings")]
    TooMany,
}

/// Opens a file as mappings want it: for reading only, not inherited.
pub fn open_read_only(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK).open(path)
}

/// A shared, read-only mapping. Unmapped when dropped.
#[derive(Debug)]
pub struct ReadOnlyMap {
    start: *const u8,
    len: usize,
    slot: &'static Slot,
}

// SAFETY: the mapping belongs to this value, stays until it is dropped, and is only read, by loads that allow races.
unsafe impl Send for ReadOnlyMap {}
// SAFETY: as above; no method needs exclusive access.
unsafe impl Sync for ReadOnlyMap {}

impl ReadOnlyMap {
    /// Maps all of a file, as long as it is now.
    pub fn whole(file: &File) -> Result<ReadOnlyMap, MapError> {
        let len_bytes = file.metadata()?.len();
        ReadOnlyMap::new(file, 0, len_bytes)
    }

    /// Maps `len_bytes` of a file from `offset`, a multiple of the file's page size.
    pub fn new(file: &File, offset: u64, len_bytes: u64) -> Result<ReadOnlyMap, MapError> {
        // SAFETY: F_GETFL only reports.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error().into());
        }
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(MapError::Writable);
        }
        let file_bytes = file.metadata()?.len();
        let short = MapError::FileTooShort { offset, len_bytes, file_bytes };
        let inside = offset.checked_add(len_bytes).is_some_and(|end| end <= file_bytes);
        let (Ok(len), Ok(at), true, true) =
            (usize::try_from(len_bytes), libc::off_t::try_from(offset), inside, len_bytes > 0)
        else {
            return Err(short);
        };
        install_handler()?;
        let (kind, fd) = (libc::MAP_SHARED | libc::MAP_NORESERVE, file.as_raw_fd());
        // SAFETY: the kernel picks an unused address; nothing existing is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, kind, fd, at) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        match claim_slot(start as usize, len) {
            Some(slot) => Ok(ReadOnlyMap { start: start.cast(), len, slot }),
            None => {
                // SAFETY: mapped above, not shared with anyone.
                unsafe { libc::munmap(start, len) };
                Err(MapError::TooMany)
            }
        }
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len as u64
    }

    /// Whether the file was truncated under the mapping (noticed by a copy that touched the missing part).
    pub fn is_lost(&self) -> bool {
        self.slot.lost.load(Ordering::Acquire)
    }

    /// Whether the host holds all pages of a range in memory, so that to read it allocates nothing. Of a file that is
    /// neither this user's nor writable for it, the kernel says that it does (mincore(2)).
    pub fn is_resident(&self, offset: u64, len: usize) -> Result<bool, MapError> {
        let outside = MapError::Outside { offset, len_bytes: len as u64 };
        let Ok(at) = usize::try_from(offset) else { return Err(outside) };
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.len) else { return Err(outside) };
        let mut pages = [0u8; 256];
        for from in (at & !(PAGE - 1)..end).step_by(PAGE * pages.len()) {
            let count = end.saturating_sub(from).div_ceil(PAGE).min(pages.len());
            // SAFETY: pages of this mapping, whose start is a page's; one byte of `pages` for each. Nothing is touched.
            let failed = unsafe {
                let start = self.start.add(from).cast_mut().cast();
                libc::mincore(start, count.saturating_mul(PAGE), pages.as_mut_ptr())
            };
            if failed != 0 {
                // A host of larger pages: then a look may allocate.
                return Ok(true);
            }
            if pages.iter().take(count).any(|page| page & 1 == 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies `buf.len()` bytes from `offset` of the mapping. On an error `buf` holds nothing of use.
    #[inline]
    pub fn copy_out(&self, offset: u64, buf: &mut [u8]) -> Result<(), MapError> {
        let len = buf.len();
        let outside = MapError::Outside { offset, len_bytes: len as u64 };
        let Ok(at) = usize::try_from(offset) else { return Err(outside) };
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(outside);
        }
        // SAFETY: `at + len` is inside the mapping, checked above.
        unsafe { copy(self.start.add(at), buf) }
        if self.is_lost() { Err(MapError::Lost) } else { Ok(()) }
    }
}

impl Drop for ReadOnlyMap {
    fn drop(&mut self) {
        self.slot.start.store(0, Ordering::Release);
        // SAFETY: this value's own mapping, and no copy is under way: copies borrow it.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.len) };
        self.slot.taken.store(false, Ordering::Release);
    }
}

/// Copies out of memory that others may write at any time.
///
/// # Safety
/// `from .. from + buf.len()` must be mapped, and stay so.
#[inline]
pub(super) unsafe fn copy(from: *const u8, buf: &mut [u8]) {
    let behind = (buf.as_ptr() as usize).wrapping_sub(from as usize) % PAGE;
    let by_words = buf.len() <= SHORT_BYTES || (1..NEAR_BYTES).contains(&behind);
    // SAFETY: the caller's promise.
    unsafe { if by_words { copy_words(from, buf) } else { copy_block(from, buf) } }
}

/// Copies by aligned 8-byte loads; the first and the last may cover bytes around the range, in the same page.
///
/// # Safety
/// `from .. from + buf.len()` must be mapped. Words around it then are too: a page is a multiple of a word.
#[inline]
unsafe fn copy_words(from: *const u8, buf: &mut [u8]) {
    let skip = from as usize & 7;
    // SAFETY: rounds down inside the same page.
    let mut word = unsafe { from.sub(skip) }.cast::<AtomicU64>();
    let load = |word: *const AtomicU64| {
        // SAFETY: aligned, and in a page that the range touches. `AtomicU64` may be loaded from read-only memory.
        unsafe { (*word).load(Ordering::Relaxed) }.to_ne_bytes()
    };
    let mut rest = buf;
    if skip != 0 && !rest.is_empty() {
        let take = rest.len().min(8usize.saturating_sub(skip));
        let (head, tail) = rest.split_at_mut(take);
        let bytes = load(word);
        head.iter_mut().zip(bytes.iter().skip(skip)).for_each(|(to, byte)| *to = *byte);
        word = word.wrapping_add(1);
        rest = tail;
    }
    let mut chunks = rest.chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk.copy_from_slice(&load(word));
        word = word.wrapping_add(1);
    }
    let tail = chunks.into_remainder();
    if !tail.is_empty() {
        let bytes = load(word);
        tail.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
    }
}

/// Copies a long range.
///
/// # Safety
/// `from .. from + buf.len()` must be mapped.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_block(from: *const u8, buf: &mut [u8]) {
    // SAFETY: reads the caller's range, writes exactly `buf`; the direction flag is clear by the ABI.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") buf.len() => _, inout("rsi") from => _,
            inout("rdi") buf.as_mut_ptr() => _, options(nostack, preserves_flags));
    }
}

/// Copies a long range.
///
/// # Safety
/// `from .. from + buf.len()` must be mapped.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_block(from: *const u8, buf: &mut [u8]) {
    // SAFETY: the caller's promise.
    unsafe { copy_words(from, buf) }
}

/// What the signal handler knows of one mapping.
#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; SLOTS];

fn claim_slot(start: usize, len: usize) -> Option<&'static Slot> {
    let slot = TABLE.iter().find(|slot| !slot.taken.swap(true, Ordering::AcqRel))?;
    slot.lost.store(false, Ordering::Relaxed);
    slot.len.store(len, Ordering::Relaxed);
    slot.start.store(start, Ordering::Release);
    Some(slot)
}

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

fn install_handler() -> io::Result<()> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _one = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    // SAFETY: `sigaction` is plain data, for which zeros are valid; the calls read and write our own values.
    let installed = unsafe {
        let mut previous: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) != 0 {
            return Err(io::Error::last_os_error());
        }
        let _ = PREVIOUS.set(previous);
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = on_sigbus as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut())
    };
    if installed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Only atomics and system calls: async-signal-safe.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo (SA_SIGINFO), whose si_addr is set for SIGBUS.
    let fault = unsafe { (*info).si_addr() } as usize;
    for slot in &TABLE {
        let start = slot.start.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if start == 0 || fault.wrapping_sub(start) >= len {
            continue;
        }
        slot.lost.store(true, Ordering::Release);
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: replaces a live mapping of ours, at its own place and length, by readable zeros; the faulting
        // copy borrows the mapping, so it cannot be unmapped meanwhile. errno is this thread's and put back.
        let zeros = unsafe {
            let errno = *libc::__errno_location();
            let at = libc::mmap(start as *mut _, len, libc::PROT_READ, kind, -1, 0);
            *libc::__errno_location() = errno;
            at
        };
        if zeros != libc::MAP_FAILED {
            return;
        }
    }
    forward(signal, info, context);
}

/// Not ours: as if this module were not there.
fn forward(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    match PREVIOUS.get() {
        Some(previous)
            if previous.sa_sigaction > libc::SIG_IGN && previous.sa_flags & libc::SA_SIGINFO != 0 =>
        {
            type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: the previous owner installed a function of this type (SA_SIGINFO).
            let handler = unsafe { std::mem::transmute::<usize, Handler>(previous.sa_sigaction) };
            handler(signal, info, context);
        }
        _ => {
            // SAFETY: resets to the default; the instruction faults again and the process ends as it would have.
            unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn sample(len: usize) -> (tempfile::NamedTempFile, Vec<u8>) {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 31 + i / 251) as u8).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    fn map(file: &tempfile::NamedTempFile) -> ReadOnlyMap {
        ReadOnlyMap::whole(&open_read_only(file.path()).unwrap()).unwrap()
    }

    #[test]
    fn copies_every_alignment_and_length() {
        let (file, bytes) = sample(5000);
        let map = map(&file);
        for at in (0..24).chain(4080..4110) {
            for len in (0..40).chain([127, 128, 129, 500]) {
                let mut buf = vec![0xee; len];
                map.copy_out(at as u64, &mut buf).unwrap();
                assert_eq!(buf, bytes[at..at + len], "{len} at {at}");
            }
        }
        let mut last = [0; 3];
        map.copy_out(4997, &mut last).unwrap();
        assert_eq!(last, bytes[4997..]);
    }

    #[test]
    fn copies_wherever_the_target_lies_in_its_page() {
        let (file, bytes) = sample(4 * PAGE);
        let map = map(&file);
        let mut room = vec![0; 3 * PAGE];
        let place = room.as_ptr() as usize;
        for behind in (0..=2 * NEAR_BYTES).chain(PAGE - 2 * NEAR_BYTES..PAGE) {
            // The mapping begins where a page does.
            let at = place.wrapping_sub(behind) % PAGE;
            for len in [SHORT_BYTES + 1, PAGE, 2 * PAGE + 3] {
                room.fill(0xee);
                map.copy_out(at as u64, &mut room[..len]).unwrap();
                assert_eq!(room[..len], bytes[at..at + len], "{len} bytes, {behind} behind");
                assert!(room[len..].iter().all(|byte| *byte == 0xee), "{len} bytes, {behind} behind");
            }
        }
    }

    #[test]
    fn refuses_what_is_outside() {
        let (file, _) = sample(5000);
        let map = map(&file);
        for at in [4998, 5000, 5001, u64::MAX - 1, u64::MAX] {
            assert!(matches!(map.copy_out(at, &mut [0; 3]), Err(MapError::Outside { .. })), "{at}");
        }
        let read = open_read_only(file.path()).unwrap();
        assert!(matches!(ReadOnlyMap::new(&read, 4096, 5000), Err(MapError::FileTooShort { .. })));
        assert!(matches!(ReadOnlyMap::new(&read, u64::MAX, 5000), Err(MapError::FileTooShort { .. })));
        assert!(matches!(ReadOnlyMap::whole(file.as_file()), Err(MapError::Writable)));
    }

    #[test]
    fn a_truncated_file_is_lost_and_not_zeros() {
        for len in [8, 4096] {
            let (file, _) = sample(1 << 20);
            let map = map(&file);
            map.copy_out(0x80000, &mut vec![0; len]).unwrap();
            file.as_file().set_len(0x1000).unwrap();
            assert!(matches!(map.copy_out(0x80000, &mut vec![0; len]), Err(MapError::Lost)));
            assert!(matches!(map.copy_out(0, &mut vec![0; len]), Err(MapError::Lost)), "for good");
        }
        // The slot is free again, and no longer marked.
        let (file, bytes) = sample(100);
        let mut buf = [0; 9];
        map(&file).copy_out(3, &mut buf).unwrap();
        assert_eq!(buf, bytes[3..12]);
    }
}
