//! A region's fingerprint without its bytes: to know again what did not change, nobody needs a copy of it.
//!
//! *Does*: digests the frames of a region through a buffer that stays in the processor's cache, each frame once in a scan: programs
//! and libraries are mapped by many processes and lie in the page cache as well.
//! *Trusts*: nothing. A digest is that of bytes that this very scan read at that frame. What is not known by its fingerprint is copied
//! and digested anew before it is scanned, so that a verdict is only ever kept for the bytes that it is about.
//! *Never*: tells a match: where there is something to tell, the region is copied.

use super::fingerprint::{Digester, Fingerprint, PageDigest};
use super::frames::Frames;
use super::layout::Layout;
use lynceus_introspect::{Gpa, GuestMemory};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE_BYTES: u64 = 4096;
/// Neighbouring frames that are read together at most.
const MAX_STEP_FRAMES: usize = 16;
/// Bytes that may be digested in vain before it is left to those who copy anyway.
const PATIENCE_BYTES: u64 = 4 << 20;

/// The frames that a scan has read.
#[derive(Default, Debug)]
pub(super) struct Seen {
    frames: Mutex<Frames>,
    /// Whether it is worth reading a region only to know it, or pages of it, again.
    is_worth: bool,
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

/// Memory to work in, used again for the next region.
#[derive(Default, Debug)]
pub(super) struct Scratch {
    pages: Vec<Page>,
    /// Numbers of those of which nothing is known.
    missing: Vec<usize>,
    copies: Box<Copies>,
    /// Of each page; of a missing one that of zeros, until it is read.
    digests: Vec<PageDigest>,
}

/// Copies of neighbouring frames. They begin where a page does: to copy to just behind the source's place in its page is slow.
#[repr(align(4096))]
#[derive(Debug)]
struct Copies([[u8; PAGE_BYTES as usize]; MAX_STEP_FRAMES]);

impl Default for Copies {
    fn default() -> Copies {
        Copies([[0; PAGE_BYTES as usize]; MAX_STEP_FRAMES])
    }
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
    pub(super) fn new(is_worth: bool) -> Seen {
        Seen { is_worth, ..Seen::default() }
    }

    /// With room for so many frames.
    pub(super) fn expecting(self, frames: usize) -> Seen {
        self.frames().reserve(frames);
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
        scratch: &mut Scratch,
    ) -> Option<Sketch> {
        pages(layout, &mut scratch.pages)?;
        self.ask(scratch, layout.is_unshared, digester);
        if !scratch.missing.is_empty() && !self.may_read() {
            return None;
        }
        scratch.read(memory, digester)?;
        if !layout.is_unshared && !scratch.missing.is_empty() {
            let mut frames = self.frames();
            scratch.fresh().for_each(|(frame, digest)| frames.put(frame, digest));
        }
        let fingerprint = digester.region(layout, layout.runs().into_iter(), &scratch.digests);
        let present_bytes = layout.present_bytes();
        let read_bytes = PAGE_BYTES.saturating_mul(scratch.missing.len() as u64);
        Some(Sketch { fingerprint, present_bytes, read_bytes })
    }

    /// Remembers what was read and digested page by page for a region that was copied whole.
    pub(super) fn remember(&self, layout: &Layout, digests: &[PageDigest]) {
        if layout.is_unshared {
            return;
        }
        let mut found = Vec::new();
        if pages(layout, &mut found).is_none() || found.len() != digests.len() {
            return;
        }
        let mut frames = self.frames();
        for (page, digest) in found.iter().zip(digests) {
            if let Page::Frame(frame) = page {
                frames.put(*frame, digest);
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
        self.is_worth && self.lost_bytes.load(Ordering::Relaxed) <= gained
    }

    /// Looks up what is known of pages.
    fn ask(&self, scratch: &mut Scratch, is_unshared: bool, digester: &Digester) {
        let Scratch { pages, digests, missing, .. } = scratch;
        let frames = self.frames();
        digests.clear();
        missing.clear();
        for (index, page) in pages.iter().enumerate() {
            let known = match page {
                Page::Frame(frame) if !is_unshared => frames.get(*frame),
                Page::Frame(_) | Page::End(..) => None,
                Page::Zeros => Some(digester.zeros()),
            };
            if known.is_none() {
                missing.push(index);
            }
            digests.push(known.unwrap_or(digester.zeros()));
        }
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scratch {
    /// Digests of the pages of the region that was sketched last.
    pub(super) fn digests(&self) -> &[PageDigest] {
        &self.digests
    }

    /// The frames that were missing, and their digests.
    fn fresh(&self) -> impl Iterator<Item = (u64, &PageDigest)> {
        self.missing.iter().filter_map(|index| match self.pages.get(*index)? {
            Page::Frame(frame) => Some((*frame, self.digests.get(*index)?)),
            Page::End(..) | Page::Zeros => None,
        })
    }

    /// Copies the first bytes of one of these pages; zeros where it ends before.
    pub(super) fn copy_page(&self, memory: &dyn GuestMemory, number: usize, bytes: &mut [u8]) -> Option<()> {
        let (at, len) = match *self.pages.get(number)? {
            Page::Frame(frame) => (Gpa(frame.checked_mul(PAGE_BYTES)?), bytes.len()),
            Page::End(at, len) => (at, len.min(bytes.len())),
            Page::Zeros => (Gpa(0), 0),
        };
        let (there, rest) = bytes.split_at_mut_checked(len)?;
        rest.fill(0);
        if there.is_empty() { Some(()) } else { memory.read_once(at, there).ok() }
    }

    /// Reads and digests what is missing; none where something of it cannot be read.
    fn read(&mut self, memory: &dyn GuestMemory, digester: &Digester) -> Option<()> {
        let most = (memory.step_bytes() >> 12).clamp(1, MAX_STEP_FRAMES);
        let mut left = self.missing.as_slice();
        while let Some((first, _)) = left.split_first() {
            let copies = &mut self.copies.0;
            let count = match *self.pages.get(*first)? {
                Page::Frame(frame) => {
                    let count = neighbours(&self.pages, left.iter().take(most), frame);
                    let bytes = copies.get_mut(..count)?.as_flattened_mut();
                    memory.read_once(Gpa(frame.checked_mul(PAGE_BYTES)?), bytes).ok()?;
                    count
                }
                Page::End(at, len) => {
                    let (there, rest) = copies.first_mut()?.split_at_mut_checked(len)?;
                    memory.read_once(at, there).ok()?;
                    // The rest of a last page counts as zeros, as it does where it is copied.
                    rest.fill(0);
                    1
                }
                Page::Zeros => return None,
            };
            let (these, rest) = left.split_at_checked(count)?;
            left = rest;
            for (index, copy) in these.iter().zip(copies) {
                *self.digests.get_mut(*index)? = digester.page(copy);
            }
        }
        Some(())
    }
}

/// How many of the pages that are missing are neighbours in RAM, from `frame` on.
fn neighbours<'m>(pages: &[Page], missing: impl Iterator<Item = &'m usize>, frame: u64) -> usize {
    let follows = |(number, index): (u64, &usize)| matches!(pages.get(*index), Some(Page::Frame(next)) if frame.checked_add(number) == Some(*next));
    (0..).zip(missing).take_while(|each| follows(*each)).count()
}

/// The pages of a region as they are copied; none where they do not lie on the borders of frames.
fn pages(layout: &Layout, pages: &mut Vec<Page>) -> Option<()> {
    pages.clear();
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
    Some(())
}
