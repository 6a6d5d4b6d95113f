//! A region's fingerprint without its bytes: to know again what did not change, nobody needs a copy of it.
//!
//! *Does*: digests the frames of a region through a buffer that stays in the processor's cache, each frame once in a scan: programs
//! and libraries are mapped by many processes and lie in the page cache as well.
//! *Trusts*: nothing. A digest is that of bytes that this very scan read at that frame. What is not known by its fingerprint is copied
//! and digested anew before it is scanned, so that a verdict is only ever kept for the bytes that it is about.
//! *Never*: tells a match: where there is something to tell, the region is copied.

use super::fingerprint::{Digester, Fingerprint, PageDigest};
use super::layout::Layout;
use lynceus_introspect::{Gpa, GuestMemory};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE_BYTES: u64 = 4096;
/// Neighbouring frames that are read together.
const STEP_FRAMES: usize = 32;
/// Frames that are remembered in a scan: some 16 MB.
const MAX_FRAMES: usize = 1 << 18;
/// Bytes that may be digested in vain before it is left to those who copy anyway.
const PATIENCE_BYTES: u64 = 4 << 20;

type Frames = HashMap<u64, PageDigest, Scatter>;

/// Scatters numbers of frames by a secret: a guest that chose its frames to collide would slow the look at it down.
#[derive(Clone, Copy, Debug)]
struct Scatter(u64);

impl Default for Scatter {
    fn default() -> Scatter {
        Scatter(RandomState::new().hash_one(0u8))
    }
}

impl BuildHasher for Scatter {
    type Hasher = Scatter;
    fn build_hasher(&self) -> Scatter {
        *self
    }
}

impl Hasher for Scatter {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
    fn write_u64(&mut self, number: u64) {
        // An odd constant without a pattern: the golden ratio's.
        let product = u128::from(self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// The frames that a scan has read.
#[derive(Default, Debug)]
pub(super) struct Seen {
    frames: Mutex<Frames>,
    /// Whether there are verdicts of an earlier scan: then it is worth reading a region only to know it again.
    is_rescan: bool,
    gained_bytes: AtomicU64,
    lost_bytes: AtomicU64,
}

/// What stands for a region.
#[derive(Debug)]
pub(super) struct Sketch {
    pub(super) fingerprint: Fingerprint,
    /// Bytes that came from the guest.
    pub(super) present_bytes: u64,
    /// Of these read for it alone.
    read_bytes: u64,
}

/// What frames are read with.
struct Reading<'r> {
    memory: &'r dyn GuestMemory,
    digester: &'r Digester,
    buffer: &'r mut [u8],
}

/// Pages of a region in the order in which they are digested.
#[derive(Clone, Copy, Debug)]
enum Page {
    Frame(u64),
    /// A part of a frame, at a region's end.
    End(Gpa, usize),
    /// A file's hole.
    Zeros,
}

impl Seen {
    pub(super) fn new(is_rescan: bool) -> Seen {
        Seen { is_rescan, ..Seen::default() }
    }

    /// With room for so many frames.
    pub(super) fn expecting(self, frames: usize) -> Seen {
        self.frames().reserve(frames.min(MAX_FRAMES));
        self
    }

    /// How many frames were read.
    pub(super) fn len(&self) -> usize {
        self.frames().len()
    }

    /// The sketch of a region that consists of whole pages; none where one cannot be had, or would only cost.
    pub(super) fn sketch(
        &self,
        memory: &dyn GuestMemory,
        layout: &Layout,
        digester: &Digester,
        buffer: &mut Vec<u8>,
    ) -> Option<Sketch> {
        if layout.is_unshared {
            return None;
        }
        let pages = pages(layout)?;
        let mut digests = self.known(&pages, digester);
        let missing: Vec<usize> =
            digests.iter().enumerate().filter(|(_, known)| known.is_none()).map(|(index, _)| index).collect();
        if !missing.is_empty() && !self.may_read() {
            return None;
        }
        buffer.resize(buffer.len().max(STEP_FRAMES << 12), 0);
        self.read(&mut Reading { memory, digester, buffer }, &pages, &missing, &mut digests)?;
        let mut digest = digester.begin(Vec::with_capacity(digests.len()));
        digests.into_iter().try_for_each(|page| page.map(|page| digest.push(page)))?;
        let (fingerprint, _) = digest.end(layout, runs(layout).into_iter());
        let present_bytes = layout.present_bytes();
        let read_bytes = PAGE_BYTES.saturating_mul(missing.len() as u64);
        Some(Sketch { fingerprint, present_bytes, read_bytes })
    }

    /// Remembers what was read and digested page by page for a region that was copied whole.
    pub(super) fn remember(&self, layout: &Layout, digests: &[PageDigest]) {
        if layout.is_unshared {
            return;
        }
        let Some(pages) = pages(layout).filter(|pages| pages.len() == digests.len()) else { return };
        let mut frames = self.frames();
        for (page, digest) in pages.iter().zip(digests) {
            if let (Page::Frame(frame), true) = (page, frames.len() < MAX_FRAMES) {
                frames.insert(*frame, *digest);
            }
        }
    }

    /// Whether the region of a sketch was known: then it was not made in vain.
    pub(super) fn learn(&self, sketch: &Sketch, was_known: bool) {
        let sum = if was_known { &self.gained_bytes } else { &self.lost_bytes };
        sum.fetch_add(sketch.read_bytes, Ordering::Relaxed);
    }

    fn may_read(&self) -> bool {
        let gained = self.gained_bytes.load(Ordering::Relaxed).saturating_add(PATIENCE_BYTES);
        self.is_rescan && self.lost_bytes.load(Ordering::Relaxed) <= gained
    }

    fn known(&self, pages: &[Page], digester: &Digester) -> Vec<Option<PageDigest>> {
        let frames = self.frames();
        let known = |page: &Page| match page {
            Page::Frame(frame) => frames.get(frame).copied(),
            Page::End(..) => None,
            Page::Zeros => Some(digester.zeros()),
        };
        pages.iter().map(known).collect()
    }

    /// Reads and digests what is missing; none where something of it cannot be read.
    fn read(
        &self,
        with: &mut Reading<'_>,
        pages: &[Page],
        missing: &[usize],
        digests: &mut [Option<PageDigest>],
    ) -> Option<()> {
        let mut fresh = Vec::with_capacity(missing.len());
        let mut left = missing;
        while let Some((first, _)) = left.split_first() {
            let (at, len, count) = match *pages.get(*first)? {
                Page::End(at, len) => (at, len, 1),
                Page::Frame(frame) => {
                    let count = neighbours(pages, left, frame);
                    (Gpa(frame.checked_mul(PAGE_BYTES)?), count << 12, count)
                }
                Page::Zeros => return None,
            };
            let (bytes, behind) = with.buffer.split_at_mut_checked(len)?;
            with.memory.read_once(at, bytes).ok()?;
            // The rest of a last page counts as zeros, as it does where it is copied.
            behind.get_mut(..len.next_multiple_of(1 << 12).checked_sub(len)?)?.fill(0);
            let (these, rest) = left.split_at_checked(count)?;
            left = rest;
            for (index, page) in these.iter().zip(with.buffer.chunks_exact(1 << 12)) {
                let digest = with.digester.page(page);
                *digests.get_mut(*index)? = Some(digest);
                if let Page::Frame(frame) = pages.get(*index)? {
                    fresh.push((*frame, digest));
                }
            }
        }
        let mut frames = self.frames();
        let room = MAX_FRAMES.saturating_sub(frames.len());
        frames.extend(fresh.into_iter().take(room));
        Some(())
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of the pages that are missing are neighbours in RAM, from `frame` on.
fn neighbours(pages: &[Page], missing: &[usize], frame: u64) -> usize {
    let follows = |(number, index): (usize, &usize)| matches!(pages.get(*index), Some(Page::Frame(next)) if frame.checked_add(number as u64) == Some(*next));
    missing.iter().take(STEP_FRAMES).enumerate().take_while(|each| follows(*each)).count()
}

/// The pages of a region as they are copied; none where they do not lie on the borders of frames.
fn pages(layout: &Layout) -> Option<Vec<Page>> {
    let mut pages = Vec::new();
    let mut at = 0u64;
    for part in &layout.parts {
        // After a page that is not whole all others are shifted.
        let aligned = [part.offset, part.gpa.0, at].iter().all(|number| number.is_multiple_of(PAGE_BYTES));
        let hole = part.offset.checked_sub(at)?;
        if !aligned {
            return None;
        }
        if layout.is_file {
            pages.extend((0..hole / PAGE_BYTES).map(|_| Page::Zeros));
        }
        let first = part.gpa.0 / PAGE_BYTES;
        let whole = part.len / PAGE_BYTES;
        pages.extend((first..first.checked_add(whole)?).map(Page::Frame));
        let end = part.len % PAGE_BYTES;
        if end > 0 {
            let gpa = part.gpa.checked_add(whole.checked_mul(PAGE_BYTES)?)?;
            pages.push(Page::End(gpa, usize::try_from(end).ok()?));
        }
        at = part.offset.checked_add(part.len)?;
    }
    if layout.is_file {
        let hole = layout.region_bytes().checked_sub(at)?;
        if hole > 0 && !at.is_multiple_of(PAGE_BYTES) {
            return None;
        }
        pages.extend((0..hole.div_ceil(PAGE_BYTES)).map(|_| Page::Zeros));
    }
    Some(pages)
}

/// Where a region's runs of bytes lie, as they are when it is copied.
fn runs(layout: &Layout) -> Vec<(u64, u64)> {
    if layout.is_file {
        return vec![(0, layout.region_bytes())];
    }
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for part in &layout.parts {
        match runs.last_mut() {
            Some((offset, len)) if offset.saturating_add(*len) == part.offset => {
                *len = len.saturating_add(part.len);
            }
            _ => runs.push((part.offset, part.len)),
        }
    }
    runs
}
