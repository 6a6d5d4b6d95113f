//! A region's bytes, copied out once: runs of present pages in the order of their addresses.
//!
//! *Does*: gathers scattered pages into memory of its own, which is used again for the next region, and digests them on the way
//! while they are in the processor's cache.
//! *Never*: reads a page twice: what is digested is what is scanned, whatever the guest does meanwhile.

use super::fingerprint::{Digester, Fingerprint, HEAD_BYTES, PageDigest};
use super::heads::{Heads, MAX_RUNS};
use super::layout::{Layout, Part};
use boreal::memory::{FragmentedMemory, MemoryParams, Region as Fetched, RegionDescription};
use lynceus_introspect::{AccessError, Gpa, GuestMemory, Gva, Partial};
use std::ops::Range;

/// Bytes copied before they are digested: they are still in the second-level cache then.
const STEP_BYTES: u64 = 128 << 10;
const PAGE_BYTES: u64 = 4096;

/// Neighbouring bytes that are there.
#[derive(Clone, Debug)]
struct Run {
    /// How far from the region's start.
    offset: u64,
    /// Where in the copied bytes.
    place: Range<usize>,
}

/// What was copied of a region.
#[derive(Default, Debug)]
pub(super) struct Content {
    /// Longer than what is in use: making it long again would cost as much as copying.
    bytes: Vec<u8>,
    used: usize,
    runs: Vec<Run>,
    /// Bytes that came from the guest: a file's holes are not among them.
    present: u64,
    is_file: bool,
    /// Digests of its pages, one after the other, where there is a digester.
    digests: Vec<PageDigest>,
}

impl Content {
    /// Copies a region. What cannot be read is a gap and no part of it; its fingerprint where a digester is given.
    pub(super) fn fill<T>(
        &mut self,
        memory: &dyn GuestMemory,
        layout: &Layout,
        digester: Option<&Digester>,
        gaps: &mut Partial<T>,
    ) -> Option<Fingerprint> {
        self.runs.clear();
        (self.used, self.present, self.is_file) = (0, 0, layout.is_file);
        let digests = std::mem::take(&mut self.digests);
        let mut digest = digester.map(|digester| digester.begin(digests));
        let mut digested = 0;
        for part in &layout.parts {
            let mut done = 0;
            while done < part.len {
                let len = STEP_BYTES.min(part.len - done);
                let (offset, gpa) = (part.offset.saturating_add(done), Gpa(part.gpa.0.saturating_add(done)));
                self.copy(memory, Part { offset, gpa, len }, layout.start, gaps);
                done += len;
                if let Some(digest) = &mut digest {
                    digested = self.digest(digest, digested, false);
                }
            }
        }
        if layout.is_file {
            self.zeros_up_to(layout.region_bytes());
        }
        let mut digest = digest?;
        self.digest(&mut digest, digested, true);
        // Where the holes are is content as well.
        let runs = self.runs.iter().map(|run| (run.offset, run.place.len() as u64));
        let (fingerprint, digests) = digest.end(layout, runs);
        self.digests = digests;
        Some(fingerprint)
    }

    /// Digests whole pages from `from` on, and at the end what is left. Returns how far it came.
    fn digest(&self, digest: &mut super::fingerprint::Listing<'_>, from: usize, all: bool) -> usize {
        let whole = self.used.saturating_sub(from) & !(PAGE_BYTES as usize - 1);
        let to = if all { self.used } else { from.saturating_add(whole) };
        digest.update(self.bytes.get(from..to).unwrap_or_default());
        to
    }

    fn copy<T>(&mut self, memory: &dyn GuestMemory, part: Part, start: u64, gaps: &mut Partial<T>) {
        if self.is_file {
            self.zeros_up_to(part.offset);
        }
        let len = usize::try_from(part.len).unwrap_or(0);
        if memory.read_once(part.gpa, self.room(len)).is_ok() {
            return self.take(part.offset, len, part.len);
        }
        // Something of it is missing: page by page.
        let mut done = 0;
        while done < part.len {
            let len = (PAGE_BYTES - (part.gpa.0.saturating_add(done)) % PAGE_BYTES).min(part.len - done);
            let offset = part.offset.saturating_add(done);
            if self.is_file {
                self.zeros_up_to(offset);
            }
            let size = usize::try_from(len).unwrap_or(0);
            match memory.read_once(Gpa(part.gpa.0.saturating_add(done)), self.room(size)) {
                Ok(()) => self.take(offset, size, len),
                Err(why) => {
                    let at = Gva(start.saturating_add(offset));
                    gaps.gap("scanned page", at, AccessError::Memory { at, why });
                }
            }
            done += len;
        }
    }

    /// Place for `len` more bytes.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.used.saturating_add(len);
        if self.bytes.len() < end {
            self.bytes.resize(end.next_multiple_of(STEP_BYTES as usize), 0);
        }
        self.bytes.get_mut(self.used..end).unwrap_or_default()
    }

    /// Counts bytes that were put into [`Content::room`].
    fn take(&mut self, offset: u64, len: usize, present: u64) {
        let place = self.used..self.used.saturating_add(len);
        self.used = place.end;
        self.present = self.present.saturating_add(present);
        match self.runs.last_mut() {
            Some(run) if run.offset.saturating_add(run.place.len() as u64) == offset => {
                run.place.end = place.end;
            }
            _ => self.runs.push(Run { offset, place }),
        }
    }

    fn zeros_up_to(&mut self, offset: u64) {
        let len = usize::try_from(offset).unwrap_or(0).saturating_sub(self.used);
        if len > 0 {
            self.room(len).fill(0);
            self.take(self.used as u64, len, 0);
        }
    }

    /// Digests of its pages, one after the other.
    pub(super) fn page_digests(&self) -> &[PageDigest] {
        &self.digests
    }

    /// Bytes of the guest that are there.
    pub(super) fn present_bytes(&self) -> u64 {
        self.present
    }

    pub(super) fn is_file(&self) -> bool {
        self.is_file
    }

    /// All of it, one run after the other; a file at its true size.
    pub(super) fn all(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }

    /// What is there of `from..to`, as far as it lies in one run.
    pub(super) fn bytes(&self, from: u64, to: u64) -> &[u8] {
        let after = self.runs.partition_point(|run| run.offset < to);
        let run = after.checked_sub(1).and_then(|index| self.runs.get(index));
        let part = run.and_then(|run| {
            let all = self.bytes.get(run.place.clone())?;
            let first = usize::try_from(from.saturating_sub(run.offset)).ok()?;
            let last = usize::try_from(to.saturating_sub(run.offset)).ok()?.min(all.len());
            all.get(first..last)
        });
        part.unwrap_or_default()
    }

    /// How its runs begin; none where there are many.
    pub(super) fn heads(&self) -> Option<Heads> {
        let mut heads = Heads::default();
        if self.runs.len() > MAX_RUNS {
            return None;
        }
        for run in self.run_offsets() {
            let head = self.bytes(run.start, run.end.min(run.start.saturating_add(HEAD_BYTES as u64)));
            heads.push(run, head);
        }
        Some(heads)
    }

    /// Where its runs lie.
    pub(super) fn run_offsets(&self) -> impl Iterator<Item = Range<u64>> {
        self.runs.iter().map(|run| run.offset..run.offset.saturating_add(run.place.len() as u64))
    }

    pub(super) fn fragments(&self) -> Fragments<'_> {
        Fragments { content: self, only: None, next: 0 }
    }

    /// Parts of runs, as the engine searches them; what it reads afterwards it reads of all runs.
    pub(super) fn parts<'c>(&'c self, only: &'c [Range<u64>]) -> Fragments<'c> {
        Fragments { content: self, only: Some(only), next: 0 }
    }
}

/// The runs, as the engine asks for them. The region begins at offset 0, wherever it lies.
#[derive(Debug)]
pub(super) struct Fragments<'c> {
    content: &'c Content,
    /// In the first pass, in which strings are searched for.
    only: Option<&'c [Range<u64>]>,
    next: usize,
}

impl Fragments<'_> {
    /// A run or part by its number.
    fn piece(&self, index: usize) -> Option<Fetched<'_>> {
        let (offset, mem) = match self.only {
            Some(parts) => {
                let part = parts.get(index)?;
                (part.start, self.content.bytes(part.start, part.end))
            }
            None => {
                let run = self.content.runs.get(index)?;
                (run.offset, self.content.bytes.get(run.place.clone())?)
            }
        };
        Some(Fetched { start: usize::try_from(offset).ok()?, mem })
    }
}

impl FragmentedMemory for Fragments<'_> {
    fn next(&mut self, _: &MemoryParams) -> Option<RegionDescription> {
        let Fetched { start, mem } = self.piece(self.next)?;
        let length = mem.len();
        self.next = self.next.saturating_add(1);
        Some(RegionDescription { start, length })
    }

    fn fetch(&mut self, _: &MemoryParams) -> Option<Fetched<'_>> {
        self.piece(self.next.checked_sub(1)?)
    }

    fn reset(&mut self) {
        (self.next, self.only) = (0, None);
    }
}
