//! Uncompressed dumps: runs of guest-physical addresses that lie as runs of bytes in the file.
//!
//! *Trusts*: nothing in the table it is given; overlaps are cut, wrapping runs dropped, both reported.

use super::image::Image;
use crate::{Gpa, GpaRange, ReadError};

/// More runs than any real machine has; a file that claims more is hostile.
pub(crate) const MAX_SEGMENTS: usize = 1 << 20;

/// A longer run is a bad number, not memory: 16 TiB.
pub(crate) const MAX_RUN_BYTES: u64 = 1 << 44;

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) start: u64,
    /// Bytes of RAM.
    pub(crate) len_bytes: u64,
    pub(crate) file_offset: u64,
    /// Bytes that the file stores; the rest of the run is zeros.
    pub(crate) stored_bytes: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.len_bytes)
    }

    /// What a file offset is to an address: overlapping runs with the same place are the same bytes.
    fn place(&self) -> u64 {
        self.file_offset.wrapping_sub(self.start)
    }

    /// The run without its bytes below `start`.
    fn cut_to(&self, start: u64) -> Option<Segment> {
        let cut = start.checked_sub(self.start)?;
        Some(Segment {
            start,
            len_bytes: self.len_bytes.checked_sub(cut).filter(|len| *len > 0)?,
            file_offset: self.file_offset.checked_add(cut.min(self.stored_bytes))?,
            stored_bytes: self.stored_bytes.saturating_sub(cut),
        })
    }
}

/// Runs in ascending order, not overlapping.
#[derive(Debug)]
pub(crate) struct Segments {
    list: Vec<Segment>,
}

impl Segments {
    /// Orders `found`. Where two claim the same address the lower run wins.
    pub(crate) fn new(mut found: Vec<Segment>, image: &Image, warnings: &mut Vec<String>) -> Segments {
        let before = found.len();
        found.retain(|s| {
            (1..=MAX_RUN_BYTES).contains(&s.len_bytes) && s.start.checked_add(s.len_bytes).is_some()
        });
        found.retain(|s| s.file_offset.checked_add(s.stored_bytes).is_some());
        if found.len() < before {
            warnings.push(format!(
                "{} empty, wrapping or absurdly long runs ignored",
                before.saturating_sub(found.len())
            ));
        }
        found.sort_by_key(|s| s.start);
        let (mut list, mut overlaps, mut end): (Vec<Segment>, _, _) =
            (Vec::with_capacity(found.len()), 0_u64, 0);
        for segment in found {
            let kept = if segment.start >= end { Some(segment) } else { segment.cut_to(end) };
            let other = list.last().is_some_and(|last| last.place() != segment.place());
            overlaps = overlaps.saturating_add(u64::from(segment.start < end && other));
            if let Some(kept) = kept {
                end = kept.end();
                list.push(kept);
            }
        }
        if overlaps > 0 {
            warnings.push(format!("{overlaps} runs are stored a second time; the first copy is used"));
        }
        let missing = list.iter().fold(0_u64, |sum, s| {
            let end = s.file_offset.saturating_add(s.stored_bytes);
            sum.saturating_add(end.saturating_sub(image.len_bytes()).min(s.stored_bytes))
        });
        if missing > 0 {
            warnings.push(format!("truncated: {missing} bytes of RAM are missing from the file"));
        }
        Segments { list }
    }

    pub(crate) fn ram(&self) -> Vec<GpaRange> {
        merge(self.list.iter().map(|s| GpaRange { start: Gpa(s.start), len_bytes: s.len_bytes }))
    }

    /// Fills `buf` from `at`, which may cross runs that touch.
    pub(crate) fn read(&self, image: &Image, at: Gpa, buf: &mut [u8], once: bool) -> Result<(), ReadError> {
        let not_ram = ReadError::NotRam { at, len_bytes: buf.len() as u64 };
        let (mut here, mut rest) = (at.0, buf);
        while !rest.is_empty() {
            let next = self.list.partition_point(|s| s.end() <= here);
            let Some(segment) = self.list.get(next).filter(|s| s.start <= here) else { return Err(not_ram) };
            let room = segment.end().saturating_sub(here).min(rest.len() as u64);
            let (head, tail) = rest.split_at_mut(usize::try_from(room).unwrap_or(usize::MAX));
            segment.copy(image, here, head, once)?;
            (here, rest) = (here.saturating_add(room), tail);
        }
        Ok(())
    }
}

impl Segment {
    /// Fills `buf`, which lies inside the run.
    fn copy(&self, image: &Image, here: u64, buf: &mut [u8], once: bool) -> Result<(), ReadError> {
        let inside = here.saturating_sub(self.start);
        let stored = self.stored_bytes.saturating_sub(inside).min(buf.len() as u64);
        let (bytes, zeros) = buf.split_at_mut(usize::try_from(stored).unwrap_or(usize::MAX));
        zeros.fill(0);
        if bytes.is_empty() {
            return Ok(());
        }
        let offset = self.file_offset.saturating_add(inside);
        let at = Gpa(here);
        if offset.saturating_add(stored) > image.len_bytes() {
            return Err(ReadError::Absent { at });
        }
        let read = if once { image.read_exact_once(offset, bytes) } else { image.read_exact(offset, bytes) };
        read.map_err(|e| ReadError::Lost { at, why: e.to_string() })
    }
}

/// Joins ranges that touch; they come in ascending order.
pub(crate) fn merge(ranges: impl Iterator<Item = GpaRange>) -> Vec<GpaRange> {
    let mut out: Vec<GpaRange> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.end() == range.start => {
                last.len_bytes = last.len_bytes.saturating_add(range.len_bytes);
            }
            _ => out.push(range),
        }
    }
    out
}

/// Splits a read at the edges of blocks: `copy(block, offset inside it, part of the buffer)`.
pub(crate) fn by_block(
    at: Gpa,
    buf: &mut [u8],
    block_bytes: u64,
    mut copy: impl FnMut(u64, usize, &mut [u8]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let (mut here, mut rest) = (at.0, buf);
    while !rest.is_empty() {
        let inside = here.checked_rem(block_bytes).unwrap_or(0);
        let room = block_bytes.saturating_sub(inside).min(rest.len() as u64);
        let (part, tail) = rest.split_at_mut(usize::try_from(room).unwrap_or(usize::MAX));
        copy(here.checked_div(block_bytes).unwrap_or(0), usize::try_from(inside).unwrap_or(0), part)?;
        (here, rest) = (here.saturating_add(room), tail);
    }
    Ok(())
}
