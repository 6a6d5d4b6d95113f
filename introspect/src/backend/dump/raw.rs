//! A raw image: RAM byte for byte, with no header that says where it belongs.
//!
//! Up to the start of the PCI hole offset and address are the same. A file whose hole was taken out looks no
//! different from one that keeps it, so the layout is a guess that the caller checks (do page tables lead
//! where they should?). Splits: QEMU `hw/i386/pc_q35.c` (`lowmem` 0xb0000000, else 2 GiB) and `pc_piix.c`
//! (0xe0000000, else 3 GiB).

use super::image::{DumpError, Image};
use super::segments::Segment;

const FOUR_GIB: u64 = 1 << 32;
/// From this much RAM on, q35 keeps 2 GiB below 4 GiB.
const Q35_SPLITS_AT: u64 = 0xb000_0000;
/// From this much RAM on, pc keeps 3 GiB below 4 GiB.
const PC_SPLITS_AT: u64 = 0xe000_0000;
/// Smaller than any machine that boots Linux.
const MIN_BYTES: u64 = 1 << 20;

/// Where the bytes of a raw file belong in guest-physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RawLayout {
    /// Offset is address: a small guest, or a file that keeps the hole.
    Identity,
    /// The first bytes lie at 0, all later ones from 4 GiB up.
    HoleRemoved {
        /// How many bytes lie below the hole.
        below_bytes: u64,
    },
}

impl RawLayout {
    /// The layouts that a file of `len_bytes` can have, likeliest first.
    pub fn candidates(len_bytes: u64) -> Vec<RawLayout> {
        let mut all = vec![RawLayout::Identity];
        if len_bytes >= Q35_SPLITS_AT {
            all.push(RawLayout::HoleRemoved { below_bytes: 2 << 30 });
        }
        if len_bytes >= PC_SPLITS_AT {
            all.push(RawLayout::HoleRemoved { below_bytes: 3 << 30 });
        }
        all
    }

    pub(crate) fn segments(self, len_bytes: u64) -> Vec<Segment> {
        let run = |start, file_offset, len_bytes| Segment {
            start,
            len_bytes,
            file_offset,
            stored_bytes: len_bytes,
        };
        match self {
            RawLayout::Identity => vec![run(0, 0, len_bytes)],
            RawLayout::HoleRemoved { below_bytes } => {
                let below = below_bytes.min(len_bytes).min(FOUR_GIB);
                vec![run(0, 0, below), run(FOUR_GIB, below, len_bytes.saturating_sub(below))]
            }
        }
    }
}

/// Accepts a file that no other format claims: whole pages, 1 MiB at least, and not text at its start.
pub(crate) fn accept(image: &Image, head: &[u8]) -> Result<(), DumpError> {
    let text =
        !head.is_empty() && head.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..));
    if text && std::str::from_utf8(head.get(..head.len().min(512)).unwrap_or(head)).is_ok() {
        return Err(image.not_a_dump("it is text"));
    }
    let len = image.len_bytes();
    if len < MIN_BYTES || !len.is_multiple_of(crate::addr::PAGE_BYTES) {
        return Err(image.not_a_dump(format!(
            "no known header, and {len} bytes are not a raw image (whole 4 KiB pages, at least 1 MiB)"
        )));
    }
    Ok(())
}
