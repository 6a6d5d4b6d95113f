//! makedumpfile's flattened form: a dump as a list of writes, so that it can be sent through a pipe. QEMU's
//! `kdump-*` too.
//!
//! Source: makedumpfile `makedumpfile.h` (`makedumpfile_header`, `makedumpfile_data_header`; big-endian),
//! QEMU `dump/dump.c` (`write_start_flat_header`). *Trusts*: nothing. A later write wins over an earlier one;
//! what was never written is zeros.

use super::image::{DumpError, Image};
use std::collections::BTreeMap;

pub(crate) const MAGIC: &[u8] = b"makedumpfile\0";
/// `MAX_SIZE_MDF_HEADER`.
const HEADER_BYTES: u64 = 4096;
const RECORD_BYTES: u64 = 16;
/// QEMU writes 16 KiB at a time: 64 GiB of stored pages.
const MAX_RECORDS: u64 = 4 << 20;

/// A run of the dump's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    /// Where in the flattened file.
    pub(crate) stored_at: u64,
}

impl Extent {
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.len_bytes)
    }
}

/// The extents, ascending and not overlapping, of an image that starts with [`MAGIC`].
pub(crate) fn parse(image: &Image, warnings: &mut Vec<String>) -> Result<Vec<Extent>, DumpError> {
    let head = image.bytes(0, HEADER_BYTES, "makedumpfile header")?;
    if (be64(&head, 16), be64(&head, 24)) != (Some(1), Some(1)) {
        return Err(image.unsupported(
            "a makedumpfile stream of an unknown type; convert it: makedumpfile -R OUT < FILE",
        ));
    }
    let (mut extents, mut offset, mut count) = (BTreeMap::new(), HEADER_BYTES, 0_u64);
    loop {
        let Ok(record) = image.bytes(offset, RECORD_BYTES, "record") else {
            warnings.push(format!("truncated: the flattened dump ends without its end mark at {offset:#x}"));
            break;
        };
        let (Some(start), Some(len_bytes)) = (be64(&record, 0), be64(&record, 8)) else { break };
        // END_FLAG_FLAT_HEADER: both are -1.
        if start == u64::MAX && len_bytes == u64::MAX {
            break;
        }
        count = count.saturating_add(1);
        let stored_at = offset.saturating_add(RECORD_BYTES);
        if start > i64::MAX as u64 || len_bytes > i64::MAX as u64 || count > MAX_RECORDS {
            return Err(image.corrupt(offset, format!("record {count}: {len_bytes:#x} bytes for {start:#x}")));
        }
        overlay(&mut extents, Extent { start, len_bytes, stored_at });
        offset = stored_at.saturating_add(len_bytes);
    }
    if extents.is_empty() {
        return Err(image.corrupt(HEADER_BYTES, "a flattened dump without content"));
    }
    Ok(extents.into_values().collect())
}

/// Puts `new` over what is there.
fn overlay(extents: &mut BTreeMap<u64, Extent>, new: Extent) {
    if new.len_bytes == 0 {
        return;
    }
    let before = extents.range(..new.start).next_back().map(|(_, old)| *old);
    if let Some(old) = before.filter(|old| old.end() > new.start) {
        let kept = new.start.saturating_sub(old.start);
        extents.insert(old.start, Extent { len_bytes: kept, ..old });
        keep_after(extents, old, new.end());
    }
    while let Some(old) = extents.range(new.start..new.end()).next().map(|(_, old)| *old) {
        extents.remove(&old.start);
        keep_after(extents, old, new.end());
    }
    extents.insert(new.start, new);
}

/// Keeps what `old` has from `from` on.
fn keep_after(extents: &mut BTreeMap<u64, Extent>, old: Extent, from: u64) {
    let cut = from.saturating_sub(old.start);
    if let Some(len_bytes) = old.len_bytes.checked_sub(cut).filter(|len| *len > 0) {
        extents.insert(from, Extent { start: from, len_bytes, stored_at: old.stored_at.saturating_add(cut) });
    }
}

fn be64(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_last_write_wins(writes in prop::collection::vec((0u64..60, 0u64..20), 0..30)) {
            let (mut expected, mut extents, mut stored_at) = (vec![None; 100], BTreeMap::new(), 1000);
            for (start, len_bytes) in writes {
                for n in 0..len_bytes {
                    expected[usize::try_from(start + n).unwrap()] = Some(stored_at + n);
                }
                overlay(&mut extents, Extent { start, len_bytes, stored_at });
                stored_at += len_bytes;
            }
            let mut found = vec![None; 100];
            for extent in extents.values() {
                for n in 0..extent.len_bytes {
                    let place = &mut found[usize::try_from(extent.start + n).unwrap()];
                    prop_assert_eq!(*place, None, "extents overlap");
                    *place = Some(extent.stored_at + n);
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
