//! Where in RAM the bytes of a region lie. Nothing is copied yet.
//!
//! *Trusts*: nothing. The guest says how large a map or a file is: both are cut at a limit, which is a gap.

use lynceus_introspect::linux::CachedFile;
use lynceus_introspect::paging::MAX_ENTRIES;
use lynceus_introspect::{AddressSpace, GapReason, Gpa, GpaRange, Gva, Partial};

/// Most bytes of one region that are scanned; what lies behind is a gap.
const MAX_REGION_BYTES: u64 = 256 << 20;
/// Most bytes of a file that are scanned.
const MAX_FILE_BYTES: u64 = 128 << 20;
/// All RAM is scanned in pieces of that size, which overlap by [`OVERLAP_BYTES`]: a match across two is found in one of them.
const PIECE_BYTES: u64 = 4 << 20;
const OVERLAP_BYTES: u64 = 4096;
const PAGE_BYTES: u64 = 4096;

/// Neighbouring bytes of a region that are neighbours in RAM as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// How far from the region's start.
    pub(super) offset: u64,
    pub(super) gpa: Gpa,
    pub(super) len: u64,
}

/// A region with holes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Layout {
    /// Its first address: virtual, physical, or 0 for a file.
    pub(super) start: u64,
    /// The address after its last.
    pub(super) end: u64,
    /// Matches that begin from this offset on are found again, in the next piece.
    pub(super) own_bytes: u64,
    /// A file: in one piece, at its true size, holes as zeros.
    pub(super) is_file: bool,
    /// No other region has its pages.
    pub(super) is_unshared: bool,
    pub(super) parts: Vec<Part>,
}

impl Layout {
    fn new(start: u64, end: u64) -> Layout {
        Layout { start, end, own_bytes: end.saturating_sub(start), ..Layout::default() }
    }

    /// What is mapped between two addresses. What cannot be read is a gap.
    pub(super) fn of_space<T>(
        space: &AddressSpace<'_>,
        start: Gva,
        end: Gva,
        gaps: &mut Partial<T>,
    ) -> Layout {
        let mut layout = Layout::new(start.0, end.0);
        if end <= start {
            return layout;
        }
        let found = space.pages(start, Gva(end.0.saturating_sub(1)), MAX_ENTRIES);
        let Some(mut pages) = gaps.ok("scanned region", start, found) else { return layout };
        let mut left = MAX_REGION_BYTES;
        for page in pages.by_ref() {
            // A large page may begin before the region and end behind it.
            let from = page.start.0.max(start.0);
            let len = page.start.0.saturating_add(page.len_bytes).min(end.0).saturating_sub(from);
            if len > left {
                gaps.gap("scanned region", Gva(from), GapReason::TooLarge(MAX_REGION_BYTES));
            }
            let gpa = Gpa(page.gpa.0.saturating_add(from.saturating_sub(page.start.0)));
            layout.push(from.saturating_sub(start.0), gpa, len.min(left));
            left = left.saturating_sub(len);
            if left == 0 {
                break;
            }
        }
        if pages.visited().cut {
            gaps.gap("scanned region", start, GapReason::Limit(MAX_ENTRIES));
        }
        layout
    }

    /// What is in memory of a file, at its offsets in the file.
    pub(super) fn of_file<T>(file: &CachedFile, gaps: &mut Partial<T>) -> Layout {
        let end = file.size_bytes.min(MAX_FILE_BYTES);
        if end < file.size_bytes {
            gaps.gap("cached file", file.inode, GapReason::TooLarge(MAX_FILE_BYTES));
        }
        let mut layout = Layout { is_file: true, ..Layout::new(0, end) };
        for (first, gpa, count) in &file.pages {
            let from = first.saturating_mul(PAGE_BYTES);
            layout.push(from, *gpa, count.saturating_mul(PAGE_BYTES).min(end.saturating_sub(from)));
        }
        layout
    }

    /// All RAM of a range, in pieces.
    pub(super) fn of_ram(range: GpaRange) -> impl Iterator<Item = Layout> {
        let mut at = range.start.0;
        let end = range.end().0;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let to = end.min(at.saturating_add(PIECE_BYTES));
                let mut layout = Layout { is_unshared: true, ..Layout::new(at, to) };
                layout.push(0, Gpa(at), to.saturating_sub(at));
                if to < end {
                    layout.own_bytes = layout.own_bytes.saturating_sub(OVERLAP_BYTES);
                }
                at = at.saturating_add(layout.own_bytes);
                layout
            })
        })
    }

    fn push(&mut self, offset: u64, gpa: Gpa, len: u64) {
        if len == 0 {
            return;
        }
        match self.parts.last_mut() {
            Some(last)
                if last.offset.saturating_add(last.len) == offset
                    && last.gpa.0.saturating_add(last.len) == gpa.0 =>
            {
                last.len = last.len.saturating_add(len);
            }
            _ => self.parts.push(Part { offset, gpa, len }),
        }
    }

    /// The region's size in bytes, holes included.
    pub(super) fn region_bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Bytes that have a place in RAM.
    pub(super) fn present_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.len))
    }

    /// Where its runs of neighbouring bytes lie, and how long they are, as they are when it is copied.
    pub(super) fn runs(&self) -> Vec<(u64, u64)> {
        if self.is_file {
            return vec![(0, self.region_bytes())];
        }
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for part in &self.parts {
            match runs.last_mut() {
                Some((offset, len)) if offset.saturating_add(*len) == part.offset => {
                    *len = len.saturating_add(part.len);
                }
                _ => runs.push((part.offset, part.len)),
            }
        }
        runs
    }

    /// Bytes that an engine is given: a file's holes are scanned as zeros.
    pub(super) fn cost_bytes(&self) -> u64 {
        if self.is_file { self.region_bytes() } else { self.present_bytes() }
    }
}
