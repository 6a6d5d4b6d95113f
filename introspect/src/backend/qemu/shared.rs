//! RAM that QEMU shares as a file, a memfd or huge pages.
//!
//! *Does*: copies from a read-only mapping where the host holds the page, and by `pread` where it does not: to touch a page
//! that the guest never used makes the host allocate it, and one scan would use up all memory that guests leave free.
//! *Trusts*: the host kernel. Not the file: truncated, it is lost (see [`crate::backend::map`]).
//! *Never*: writes.
#![allow(unsafe_code)]

use crate::addr::PAGE_BYTES;
use crate::backend::map::{MapError, ReadOnlyMap};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// How long a page that was there is taken to be there still. A balloon takes pages away at any time.
const BELIEF_MS: u64 = 5000;

/// A shared mapping of QEMU's, mapped here as well.
#[derive(Debug)]
pub(super) struct SharedRam {
    file: File,
    map: ReadOnlyMap,
    /// Where in the file the mapping starts.
    start: u64,
    /// Neither mincore(2) nor lseek(2) tells us what the host holds.
    blind: AtomicBool,
    /// One bit for each page: the host holds it.
    held: Vec<AtomicU64>,
    opened: Instant,
    /// When `held` was emptied, in milliseconds since `opened`.
    emptied_ms: AtomicU64,
}

impl SharedRam {
    /// Maps `len_bytes` of a file from `start`.
    pub(super) fn new(file: File, start: u64, len_bytes: u64) -> Result<SharedRam, MapError> {
        let map = ReadOnlyMap::new(&file, start, len_bytes)?;
        let words = usize::try_from(len_bytes.div_ceil(PAGE_BYTES * 64)).unwrap_or(0);
        let held = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        let (opened, emptied_ms, blind) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
        Ok(SharedRam { file, map, start, blind, held, opened, emptied_ms })
    }

    /// For a process that is about to give up its user and its rights: mincore(2) will then say of a file that is not its own that
    /// every page is there. Of ordinary pages lseek(2) still knows better; of huge pages it does not, so those are copied by `pread`.
    pub(super) fn confine(&self) {
        self.blind.store(self.is_huge(), Ordering::Relaxed);
    }

    fn is_huge(&self) -> bool {
        // SAFETY: statfs is plain data, for which zeros are valid, and the call fills it.
        let about = unsafe {
            let mut about: libc::statfs = std::mem::zeroed();
            libc::fstatfs(self.file.as_raw_fd(), &raw mut about);
            about
        };
        about.f_type == libc::HUGETLBFS_MAGIC
    }

    /// Copies from `offset` of the mapping.
    pub(super) fn copy_out(&self, offset: u64, buf: &mut [u8]) -> Result<(), MapError> {
        if self.blind.load(Ordering::Relaxed) {
            return self.copy_out_once(offset, buf);
        }
        let pages = offset / PAGE_BYTES..offset.saturating_add(buf.len() as u64).div_ceil(PAGE_BYTES);
        if pages.clone().all(|page| self.is_held(page)) {
            return self.map.copy_out(offset, buf);
        }
        if self.map.is_resident(offset, buf.len())? && pages.clone().all(|page| self.is_data(page)) {
            self.doubt_after_a_while();
            pages.for_each(|page| self.hold(page));
            return self.map.copy_out(offset, buf);
        }
        self.copy_out_once(offset, buf)
    }

    /// The same by `pread` always: for what is read once. A host with large folios maps megabytes for a word.
    pub(super) fn copy_out_once(&self, offset: u64, buf: &mut [u8]) -> Result<(), MapError> {
        self.file.read_exact_at(buf, self.start.saturating_add(offset)).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => MapError::Lost,
            _ => MapError::Io(error),
        })
    }

    /// Whether the file has no hole there. mincore(2), asked first, takes holes of a file that is not ours for pages that are
    /// there; lseek(2) knows no holes in huge pages.
    fn is_data(&self, page: u64) -> bool {
        let at = self.start.saturating_add(page.saturating_mul(PAGE_BYTES));
        let Ok(at) = libc::off_t::try_from(at) else { return false };
        // SAFETY: moves the position of a descriptor of our own, which nothing uses.
        unsafe { libc::lseek(self.file.as_raw_fd(), at, libc::SEEK_DATA) == at }
    }

    fn word(&self, page: u64) -> Option<&AtomicU64> {
        self.held.get(usize::try_from(page / 64).ok()?)
    }

    fn is_held(&self, page: u64) -> bool {
        self.word(page).is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
    }

    fn hold(&self, page: u64) {
        if let Some(word) = self.word(page) {
            word.fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
    }

    /// Asked for when a page is new only: a look that never meets one touches nothing but pages it has touched before.
    fn doubt_after_a_while(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let emptied = self.emptied_ms.load(Ordering::Relaxed);
        let due = now.saturating_sub(emptied) > BELIEF_MS;
        if due && self.emptied_ms.compare_exchange(emptied, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.held.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::map::open_read_only;

    #[test]
    fn a_hole_stays_a_hole_until_it_is_filled() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        file.as_file().write_all_at(&[7; 8192], 8192).unwrap();
        let ram = SharedRam::new(open_read_only(file.path()).unwrap(), 4096, (64 << 20) - 4096).unwrap();
        let mut buf = vec![1; 1 << 20];
        for at in (0..63 << 20).step_by(1 << 20) {
            ram.copy_out(at, &mut buf).unwrap();
            let seven = buf.iter().filter(|byte| **byte == 7).count();
            assert_eq!(seven, if at == 0 { 8192 } else { 0 });
        }
        let blocks = || std::os::unix::fs::MetadataExt::blocks(&file.as_file().metadata().unwrap());
        assert!(blocks() * 512 < 1 << 20, "{}", blocks());
        for (at, want) in [(4090, 6), (4096, 0), (12282, 6), (12288, 0)] {
            let mut some = [9; 7];
            ram.copy_out(at, &mut some).unwrap();
            let seven = some.iter().filter(|byte| **byte == 7).count();
            assert_eq!(seven, if at < 8192 { 7 - want } else { want }, "{at}");
        }
        file.as_file().write_all_at(&[5; 1], 32 << 20).unwrap();
        let mut one = [0];
        ram.copy_out((32 << 20) - 4096, &mut one).unwrap();
        assert_eq!(one, [5]);
        ram.copy_out((32 << 20) - 4096, &mut one).unwrap();
        assert_eq!(one, [5]);
        assert!(matches!(ram.copy_out((64 << 20) - 4096, &mut one), Err(MapError::Outside { .. })));
        file.as_file().set_len(1 << 20).unwrap();
        assert!(matches!(ram.copy_out(8 << 20, &mut buf), Err(MapError::Lost)));
    }
}
