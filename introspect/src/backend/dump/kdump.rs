//! kdump-compressed: a bitmap of the pages that are stored, then a descriptor for each, then the pages,
//! compressed one by one.
//!
//! Sources: makedumpfile `diskdump_mod.h` (`disk_dump_header`, `kdump_sub_header`, `page_desc`; header
//! versions 1–6) and QEMU `include/sysemu/dump.h` (`DiskDumpHeader64`), 64-bit guests. *Trusts*: nothing. A
//! page decompresses to exactly one block or is corrupt; tables are read only as far as the file holds them.

use super::cache::BlockCache;
use super::image::{DumpError, Image, u32_at, u64_at};
use super::notes::{self, Notes};
use super::{decompress, segments};
use crate::{Gpa, GpaRange, ReadError};

pub(crate) const MAGIC: &[u8] = b"KDUMP   ";
const BLOCK_BYTES: u64 = crate::addr::PAGE_BYTES;
const DESCRIPTOR_BYTES: u64 = 24;
/// Bitmap of 2 TiB of RAM.
const MAX_BITMAP_BYTES: u64 = 64 << 20;
const MAX_RANGES: usize = 1 << 20;
/// Bytes of bitmap per entry of the rank table.
const RANK_STEP: usize = 64;

#[derive(Debug)]
pub(crate) struct Kdump {
    /// A bit for each frame whose content is stored.
    stored: Vec<u8>,
    /// Stored frames before each [`RANK_STEP`] bytes of the bitmap.
    ranks: Vec<u64>,
    descriptors_at: u64,
    cache: BlockCache,
}

struct Header {
    version: u32,
    sub_blocks: u64,
    bitmap_blocks: u64,
    frames: u64,
    sub: Vec<u8>,
}

/// What opening yields: pages, RAM ranges, notes.
pub(crate) type Opened = (Kdump, Vec<GpaRange>, Notes);

pub(crate) fn open(image: &Image, warnings: &mut Vec<String>) -> Result<Opened, DumpError> {
    let header = header(image)?;
    let bitmaps_at = header.sub_blocks.saturating_add(1).saturating_mul(BLOCK_BYTES);
    let all = header.bitmap_blocks.saturating_mul(BLOCK_BYTES);
    let needed = header.frames.div_ceil(8);
    // Two bitmaps, "is RAM" and "is stored"; files of the first versions may hold one that is both.
    let two = needed.div_ceil(BLOCK_BYTES).saturating_mul(2) <= header.bitmap_blocks;
    let each = if two { all / 2 } else { all };
    if needed > each || each > MAX_BITMAP_BYTES {
        return Err(image
            .corrupt(436, format!("{} bitmap blocks for {} frames", header.bitmap_blocks, header.frames)));
    }
    let present = image.bytes(bitmaps_at, needed, "first bitmap")?;
    let stored = if two {
        image.bytes(bitmaps_at.saturating_add(each), needed, "second bitmap")?
    } else {
        present.clone()
    };
    let ram = ranges(&present, header.frames).ok_or_else(|| image.corrupt(bitmaps_at, "too many ranges"))?;
    if ram.is_empty() {
        return Err(image.corrupt(bitmaps_at, "the bitmap names no RAM"));
    }
    let descriptors_at = bitmaps_at.saturating_add(all);
    let (ranks, count) = ranks(&stored);
    let end = descriptors_at.saturating_add(count.saturating_mul(DESCRIPTOR_BYTES));
    let end = end.max(last_page_end(image, descriptors_at, count));
    if end > image.len_bytes() {
        let have = image.len_bytes();
        warnings.push(format!("truncated: the file ends at {have:#x}, its pages at {end:#x} or later"));
    }
    let notes = notes_of(image, &header, warnings);
    Ok((Kdump { stored, ranks, descriptors_at, cache: BlockCache::default() }, ram, notes))
}

/// Where the pages end in the file, as far as the last descriptors tell: all of them would be much to read at
/// opening.
fn last_page_end(image: &Image, descriptors_at: u64, count: u64) -> u64 {
    const LOOKED_AT: u64 = 1 << 16;
    let first = count.saturating_sub(LOOKED_AT);
    let offset = descriptors_at.saturating_add(first.saturating_mul(DESCRIPTOR_BYTES));
    let len = count.saturating_sub(first).saturating_mul(DESCRIPTOR_BYTES);
    let table = image.bytes(offset, len, "page descriptors").unwrap_or_default();
    let ends =
        table.chunks_exact(24).filter_map(|one| u64_at(one, 0)?.checked_add(u64::from(u32_at(one, 8)?)));
    ends.max().unwrap_or(0)
}

fn header(image: &Image) -> Result<Header, DumpError> {
    let head = image.bytes(0, 464, "kdump header")?;
    let word = |at| {
        u32_at(&head, at).map(u64::from).ok_or_else(|| image.corrupt(0, "the kdump header is cut short"))
    };
    if word(428)? != BLOCK_BYTES {
        if word(416)? == BLOCK_BYTES {
            return Err(image.unsupported("a kdump file of a 32-bit guest; only 64-bit guests are read"));
        }
        return Err(image.corrupt(428, format!("block size {}", word(428)?)));
    }
    let version = u32::try_from(word(8)?).unwrap_or(u32::MAX);
    let sub_blocks = word(432)?;
    let sub = if version >= 1 && sub_blocks > 0 {
        image.bytes(BLOCK_BYTES, 104, "kdump sub header")?
    } else {
        Vec::new()
    };
    let wide = if version >= 6 { u64_at(&sub, 96).filter(|n| *n > 0) } else { None };
    if version >= 2 && u32_at(&sub, 12).is_some_and(|split| split != 0) {
        return Err(image
            .unsupported("one part of a split dump; join the parts: makedumpfile --reassemble PART… OUT"));
    }
    let frames = wide.map_or_else(|| word(440), Ok)?;
    Ok(Header { version, sub_blocks, bitmap_blocks: word(436)?, frames, sub })
}

fn notes_of(image: &Image, header: &Header, warnings: &mut Vec<String>) -> Notes {
    const MAX_NOTE_BYTES: u64 = 16 << 20;
    let mut part = |since: u32, at: usize, what: &str| -> Option<Vec<u8>> {
        let offset = u64_at(&header.sub, at).filter(|o| *o > 0 && header.version >= since)?;
        let size = u64_at(&header.sub, at.saturating_add(8)).filter(|s| *s > 0)?;
        image.bytes(offset, size.min(MAX_NOTE_BYTES), what).map_err(|e| warnings.push(e.to_string())).ok()
    };
    let mut notes = Notes::default();
    if let Some(bytes) = part(4, 48, "notes") {
        notes.absorb(&bytes);
    }
    if let Some(bytes) = part(3, 32, "VMCOREINFO") {
        notes.vmcoreinfo = Some(notes::text(&bytes));
    }
    notes
}

/// The runs of set bits among the first `frames`; `None` if there are absurdly many.
fn ranges(bitmap: &[u8], frames: u64) -> Option<Vec<GpaRange>> {
    let mut out: Vec<GpaRange> = Vec::new();
    let mut frame = 0_u64;
    for byte in bitmap {
        let full = *byte == 0xff && frame.saturating_add(8) <= frames;
        let runs: &[(u64, u64)] =
            if full { &[(0, 8)] } else { &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1)] };
        for (bit, len) in runs {
            let first = frame.saturating_add(*bit);
            if *byte == 0 || byte >> bit & 1 == 0 || first >= frames {
                continue;
            }
            let (start, len_bytes) = (Gpa(first.checked_mul(BLOCK_BYTES)?), len.checked_mul(BLOCK_BYTES)?);
            match out.last_mut() {
                Some(last) if last.end() == start => {
                    last.len_bytes = last.len_bytes.checked_add(len_bytes)?
                }
                _ => out.push(GpaRange { start, len_bytes }),
            }
        }
        frame = frame.saturating_add(8);
        if out.len() > MAX_RANGES {
            return None;
        }
    }
    Some(out)
}

fn ranks(bitmap: &[u8]) -> (Vec<u64>, u64) {
    let mut sum = 0_u64;
    let table = bitmap.chunks(RANK_STEP).map(|chunk| {
        let before = sum;
        sum = sum.saturating_add(ones(chunk));
        before
    });
    (table.collect(), sum)
}

fn ones(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum.saturating_add(u64::from(byte.count_ones())))
}

impl Kdump {
    /// Fills `buf` from `at`, which lies in RAM.
    pub(crate) fn read(&self, image: &Image, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        segments::by_block(at, buf, BLOCK_BYTES, |frame, inside, part| {
            let page = self.cache.get(frame, || self.page(image, frame))?;
            let bytes = inside.checked_add(part.len()).and_then(|end| page.get(inside..end));
            part.copy_from_slice(bytes.ok_or(ReadError::Absent { at })?);
            Ok(())
        })
    }

    /// Which descriptor is the frame's.
    fn rank(&self, frame: u64) -> Option<u64> {
        let byte = usize::try_from(frame / 8).ok()?;
        let bit = frame % 8;
        let here = *self.stored.get(byte)?;
        if here >> bit & 1 == 0 {
            return None;
        }
        let step = byte / RANK_STEP;
        let below = here & !(0xff_u8 << bit);
        let chunk = self.stored.get(step.checked_mul(RANK_STEP)?..byte)?;
        self.ranks.get(step)?.checked_add(ones(chunk))?.checked_add(u64::from(below.count_ones()))
    }

    fn page(&self, image: &Image, frame: u64) -> Result<Vec<u8>, ReadError> {
        let at = Gpa(frame.saturating_mul(BLOCK_BYTES));
        let absent = || ReadError::Absent { at };
        let corrupt = |why: String| ReadError::Corrupt { at, why };
        let rank = self.rank(frame).ok_or_else(absent)?;
        let offset = self.descriptors_at.saturating_add(rank.saturating_mul(DESCRIPTOR_BYTES));
        let descriptor = image.bytes(offset, DESCRIPTOR_BYTES, "page descriptor").map_err(|_| absent())?;
        let fields = (u64_at(&descriptor, 0), u32_at(&descriptor, 8), u32_at(&descriptor, 12));
        let (Some(offset), Some(size), Some(flags)) = fields else { return Err(absent()) };
        // No page that was worth compressing is larger than itself; LZO's worst case is a little over.
        if u64::from(size) > BLOCK_BYTES.saturating_mul(2) {
            return Err(corrupt(format!("stored size {size}")));
        }
        let stored = image.bytes(offset, u64::from(size), "page").map_err(|_| absent())?;
        let mut page = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or(0)];
        decompress::page(flags, &stored, &mut page).map_err(corrupt)?;
        Ok(page)
    }
}
