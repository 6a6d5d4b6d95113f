//! Guest memory that remembers what was read of it, and guest memory that is nothing but what was remembered.

use lynceus_introspect::{Gfn, Gpa, GpaRange, GuestMemory, ReadError, SharedMemory, Stability};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) const PAGE: u64 = 4096;

/// Pages by their frame number, and the frames that entries of page tables name, where these are not the same number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pages {
    pub(crate) pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
    pub(super) frames: BTreeMap<u64, u64>,
    pub(crate) ram: Vec<GpaRange>,
}

impl Pages {
    /// Adds bytes of one page; the rest of it is zeros.
    pub(crate) fn put(&mut self, at: Gpa, bytes: &[u8]) {
        let page = self.pages.entry(at.0 / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
        let place = page.iter_mut().skip(at.page_offset() as usize);
        place.zip(bytes).for_each(|(to, byte)| *to = *byte);
    }

    /// Fills `buf` page by page; `missing` gives a page that is not there.
    fn fill(
        &self,
        at: Gpa,
        buf: &mut [u8],
        mut missing: impl FnMut(u64) -> Result<Box<[u8; PAGE as usize]>, ReadError>,
    ) -> Result<BTreeMap<u64, Box<[u8; PAGE as usize]>>, ReadError> {
        let outside = ReadError::NotRam { at, len_bytes: buf.len() as u64 };
        let mut fetched = BTreeMap::new();
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let (frame, from) = (at.0 / PAGE, at.page_offset() as usize);
            let take = (PAGE as usize - from).min(rest.len());
            let (part, after) = rest.split_at_mut(take);
            match self.pages.get(&frame) {
                Some(page) => part.copy_from_slice(&page[from..from + take]),
                None => {
                    let page = missing(frame)?;
                    part.copy_from_slice(&page[from..from + take]);
                    fetched.insert(frame, page);
                }
            }
            at = at.checked_add(take as u64).ok_or_else(|| outside.clone())?;
            rest = after;
        }
        Ok(fetched)
    }
}

impl GuestMemory for Pages {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        self.fill(at, buf, |frame| Err(ReadError::Absent { at: Gpa(frame * PAGE) })).map(drop)
    }

    fn ram(&self) -> &[GpaRange] {
        &self.ram
    }

    fn frame_of_entry(&self, entry_frame: u64) -> Option<Gfn> {
        Some(Gfn(self.frames.get(&entry_frame).copied().unwrap_or(entry_frame)))
    }

    fn stability(&self) -> Stability {
        Stability::Frozen
    }
}

/// Memory each page of which is read once and kept: a look at it does not move, and can be had again.
pub(super) struct Remembering {
    inner: SharedMemory,
    kept: Mutex<Pages>,
}

impl Remembering {
    pub(super) fn new(inner: SharedMemory) -> Remembering {
        let ram = inner.ram().to_vec();
        Remembering { inner, kept: Mutex::new(Pages { ram, ..Pages::default() }) }
    }

    fn kept(&self) -> MutexGuard<'_, Pages> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read so far.
    pub(super) fn pages(&self) -> Pages {
        self.kept().clone()
    }
}

impl GuestMemory for Remembering {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let mut kept = self.kept();
        let fetched = kept.fill(at, buf, |frame| {
            let mut page = Box::new([0; PAGE as usize]);
            self.inner.read(Gpa(frame * PAGE), &mut page[..]).map(|()| page)
        })?;
        kept.pages.extend(fetched);
        Ok(())
    }

    fn ram(&self) -> &[GpaRange] {
        self.inner.ram()
    }

    fn frame_of_entry(&self, entry_frame: u64) -> Option<Gfn> {
        let frame = self.inner.frame_of_entry(entry_frame)?;
        if frame.0 != entry_frame {
            self.kept().frames.insert(entry_frame, frame.0);
        }
        Some(frame)
    }

    fn stability(&self) -> Stability {
        Stability::Frozen
    }
}
