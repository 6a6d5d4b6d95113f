//! LiME version 1: a 32-byte header before each range of RAM. Source: LiME `src/lime.h`
//! (`lime_mem_range_header`).
//!
//! *Trusts*: nothing. LiME's "padded" output has no headers and is a raw image.

use super::image::{DumpError, Image, u32_at, u64_at};
use super::segments::{MAX_SEGMENTS, Segment};

/// `LIME_MAGIC`, "EMiL" in the file.
pub(crate) const MAGIC: u32 = 0x4c69_4d45;
pub(crate) const HEADER_BYTES: u64 = 32;

/// A header: first address, length in bytes.
pub(crate) fn header(bytes: &[u8]) -> Option<(u32, u32, u64, u64)> {
    let (start, last) = (u64_at(bytes, 8)?, u64_at(bytes, 16)?);
    let len = last.checked_sub(start)?.checked_add(1)?;
    Some((u32_at(bytes, 0)?, u32_at(bytes, 4)?, start, len))
}

/// The ranges. What follows a header that makes no sense is given up, with a warning, unless it is the first.
pub(crate) fn parse(image: &Image, warnings: &mut Vec<String>) -> Result<Vec<Segment>, DumpError> {
    let (mut found, mut offset) = (Vec::new(), 0_u64);
    while offset < image.len_bytes() {
        match range(image, offset) {
            Ok(segment) if found.len() < MAX_SEGMENTS => {
                found.push(segment);
                let after = segment.file_offset.checked_add(segment.stored_bytes);
                offset = after.unwrap_or(u64::MAX);
            }
            Ok(_) => return Err(image.corrupt(offset, "too many ranges")),
            Err(e) if found.is_empty() => return Err(e),
            Err(e) => {
                warnings.push(e.to_string());
                break;
            }
        }
    }
    Ok(found)
}

fn range(image: &Image, offset: u64) -> Result<Segment, DumpError> {
    let bytes = image.bytes(offset, HEADER_BYTES, "LiME header")?;
    let (magic, version, start, len_bytes) =
        header(&bytes).ok_or_else(|| image.corrupt(offset, "LiME range ends before it starts"))?;
    if magic != MAGIC {
        return Err(image.corrupt(offset, format!("no LiME header: magic {magic:#x}")));
    }
    if version != 1 {
        return Err(image.unsupported(format!("LiME version {version} is not known; only version 1 is")));
    }
    let file_offset = offset.saturating_add(HEADER_BYTES);
    Ok(Segment { start, len_bytes, file_offset, stored_bytes: len_bytes })
}
