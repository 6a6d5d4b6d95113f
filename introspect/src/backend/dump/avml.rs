//! AVML's compressed dumps: LiME headers of version 2, each followed by its range as a snappy stream and the
//! stream's length.
//!
//! Sources: AVML `src/image.rs` (header, trailer), Snappy's `framing_format.txt` (chunks of at most 64 KiB).
//! Opening indexes the chunks without unpacking any; a read unpacks the ones it touches and checks their
//! sums.
//! *Trusts*: nothing. A chunk unpacks to the length that it announced, 64 KiB at most, or is corrupt.

use super::cache::BlockCache;
use super::image::{DumpError, Image};
use super::lime::{HEADER_BYTES, header};
use super::segments::{MAX_RUN_BYTES, MAX_SEGMENTS, merge};
use crate::{Gpa, GpaRange, ReadError};
use std::io::Read;

/// `AVML_MAGIC`, "AVML" in the file.
pub(crate) const MAGIC: u32 = 0x4c4d_5641;
const STREAM_ID: &[u8] = b"\xff\x06\x00\x00sNaPpY";
/// The format's limit on what a chunk unpacks to.
const MAX_CHUNK_BYTES: u64 = 65536;
/// Chunks of 256 GiB of RAM.
const MAX_CHUNKS: usize = 4 << 20;

#[derive(Clone, Copy, Debug)]
struct Chunk {
    start: u64,
    len_bytes: u32,
    /// With its four bytes of header.
    stored_bytes: u32,
    stored_at: u64,
}

#[derive(Debug)]
pub(crate) struct Avml {
    ranges: Vec<GpaRange>,
    /// Ascending, not overlapping.
    chunks: Vec<Chunk>,
    cache: BlockCache,
}

/// Indexes the dump. What follows the first sound range and makes no sense is given up, with a warning.
pub(crate) fn open(image: &Image, warnings: &mut Vec<String>) -> Result<Avml, DumpError> {
    let (mut ranges, mut chunks, mut offset) = (Vec::new(), Vec::new(), 0_u64);
    let mut budget = MAX_CHUNKS;
    while offset < image.len_bytes() {
        if ranges.len() >= MAX_SEGMENTS {
            return Err(image.corrupt(offset, "too many ranges"));
        }
        let known = chunks.len();
        let read = range(image, offset).and_then(|range| {
            ranges.push(range);
            index(image, range, offset.saturating_add(HEADER_BYTES), &mut chunks, &mut budget)
        });
        match read {
            Ok(after) => offset = after,
            Err(e) if chunks.is_empty() => return Err(e),
            Err(e) => {
                let lost = if chunks.len() > known {
                    "the rest of its range is missing"
                } else {
                    "nothing after it is read"
                };
                warnings.push(format!("{e}; {lost}"));
                break;
            }
        }
    }
    Ok(Avml { ranges: disjoint(ranges), chunks: ordered(chunks, warnings), cache: BlockCache::default() })
}

fn range(image: &Image, offset: u64) -> Result<GpaRange, DumpError> {
    let bytes = image.bytes(offset, HEADER_BYTES, "AVML header")?;
    let (magic, version, start, len_bytes) =
        header(&bytes).ok_or_else(|| image.corrupt(offset, "AVML range ends before it starts"))?;
    if magic != MAGIC || version != 2 {
        return Err(image.corrupt(offset, format!("no AVML header: magic {magic:#x}, version {version}")));
    }
    if len_bytes > MAX_RUN_BYTES || start.checked_add(len_bytes).is_none() {
        return Err(image.corrupt(offset, format!("a range of {len_bytes:#x} bytes at {start:#x}")));
    }
    Ok(GpaRange { start: Gpa(start), len_bytes })
}

/// Adds the chunks of `range`, whose stream starts at `offset`; where the next header is.
fn index(
    image: &Image,
    range: GpaRange,
    offset: u64,
    chunks: &mut Vec<Chunk>,
    budget: &mut usize,
) -> Result<u64, DumpError> {
    let (mut here, mut done) = (offset, 0_u64);
    while done < range.len_bytes {
        *budget = budget.checked_sub(1).ok_or_else(|| image.corrupt(here, "too many chunks"))?;
        let (stored_bytes, unpacked) = chunk(image, here)?;
        if unpacked > MAX_CHUNK_BYTES.min(range.len_bytes.saturating_sub(done)) {
            return Err(image.corrupt(here, format!("a chunk of {unpacked} bytes")));
        }
        if let (Ok(len_bytes @ 1..), Ok(stored)) = (u32::try_from(unpacked), u32::try_from(stored_bytes)) {
            let start = range.start.0.saturating_add(done);
            chunks.push(Chunk { start, len_bytes, stored_bytes: stored, stored_at: here });
        }
        done = done.saturating_add(unpacked);
        here = here.saturating_add(stored_bytes);
    }
    let trailer = image.bytes(here, 8, "AVML trailer")?;
    let length = trailer.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    if length != Some(here.saturating_sub(offset)) {
        return Err(image.corrupt(here, "the AVML trailer does not match its stream"));
    }
    Ok(here.saturating_add(8))
}

/// The length of the chunk at `offset` in the file, and unpacked.
fn chunk(image: &Image, offset: u64) -> Result<(u64, u64), DumpError> {
    let head = image.bytes(offset, 4, "snappy chunk")?;
    let (kind, len) = match *head {
        [kind, a, b, c] => (kind, u64::from(u32::from_le_bytes([a, b, c, 0]))),
        _ => return Err(image.corrupt(offset, "snappy chunk cut short")),
    };
    let stored = len.saturating_add(4);
    if offset.saturating_add(stored) > image.len_bytes() {
        return Err(image.corrupt(offset, "truncated: a snappy chunk reaches past the end of the file"));
    }
    let unpacked = match kind {
        0x00 => {
            // Four bytes of checksum, then a varint of at most five.
            let body = image.bytes(offset.saturating_add(4), len.min(9), "snappy chunk")?;
            let unpacked = body.get(4..).and_then(|block| snap::raw::decompress_len(block).ok());
            unpacked.ok_or_else(|| image.corrupt(offset, "snappy chunk without a length"))? as u64
        }
        0x01 => len.checked_sub(4).ok_or_else(|| image.corrupt(offset, "snappy chunk without a checksum"))?,
        0x80..=0xff => 0,
        _ => return Err(image.corrupt(offset, format!("unknown snappy chunk {kind:#x}"))),
    };
    Ok((stored, unpacked))
}

fn ordered(mut found: Vec<Chunk>, warnings: &mut Vec<String>) -> Vec<Chunk> {
    found.sort_by_key(|chunk| chunk.start);
    let (before, mut end) = (found.len(), 0);
    found.retain(|chunk| {
        let kept = chunk.start >= end;
        end = if kept { chunk.start.saturating_add(u64::from(chunk.len_bytes)) } else { end };
        kept
    });
    if found.len() < before {
        warnings.push(format!("{} chunks overlap an earlier one", before.saturating_sub(found.len())));
    }
    found
}

/// The ranges in order, each without what an earlier one covers.
fn disjoint(mut found: Vec<GpaRange>) -> Vec<GpaRange> {
    found.sort_by_key(|range| range.start);
    let mut end = 0;
    let cut = found.into_iter().filter_map(|range| {
        let start = range.start.0.max(end);
        let len_bytes = range.end().0.checked_sub(start).filter(|len| *len > 0)?;
        end = range.end().0;
        Some(GpaRange { start: Gpa(start), len_bytes })
    });
    merge(cut)
}

impl Avml {
    pub(crate) fn ram(&self) -> Vec<GpaRange> {
        self.ranges.clone()
    }

    /// Fills `buf` from `at`, which lies in RAM.
    pub(crate) fn read(&self, image: &Image, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let (mut here, mut rest) = (at.0, buf);
        while !rest.is_empty() {
            let absent = ReadError::Absent { at: Gpa(here) };
            let index =
                self.chunks.partition_point(|c| c.start.saturating_add(u64::from(c.len_bytes)) <= here);
            let Some(chunk) = self.chunks.get(index).filter(|c| c.start <= here) else { return Err(absent) };
            let block = self.cache.get(chunk.start, || unpack(image, chunk))?;
            let inside = usize::try_from(here.saturating_sub(chunk.start)).unwrap_or(usize::MAX);
            let Some(bytes) = block.get(inside..).filter(|bytes| !bytes.is_empty()) else {
                return Err(absent);
            };
            let (part, tail) = rest.split_at_mut(bytes.len().min(rest.len()));
            let run = part.len();
            part.copy_from_slice(bytes.get(..run).unwrap_or_default());
            (here, rest) = (here.saturating_add(run as u64), tail);
        }
        Ok(())
    }
}

fn unpack(image: &Image, chunk: &Chunk) -> Result<Vec<u8>, ReadError> {
    let at = Gpa(chunk.start);
    let stored = image.bytes(chunk.stored_at, u64::from(chunk.stored_bytes), "snappy chunk");
    let stored = stored.map_err(|e| ReadError::Lost { at, why: e.to_string() })?;
    let mut block = vec![0; usize::try_from(chunk.len_bytes).unwrap_or(0)];
    snap::read::FrameDecoder::new(STREAM_ID.chain(stored.as_slice()))
        .read_exact(&mut block)
        .map_err(|e| ReadError::Corrupt { at, why: format!("snappy: {e}") })?;
    Ok(block)
}
