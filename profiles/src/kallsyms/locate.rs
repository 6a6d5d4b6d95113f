//! Finding the tables from the one that is easy to recognise, the tokens: each of the others is believed when it fits its
//! neighbours.

use super::{
    Base, KERNEL_MAP, KallsymsError, MARKER_STEP, MAX_LAST_BLOCK, MAX_NAME, MAX_SYMBOLS, MIN_SYMBOLS, Tables,
};
use std::ops::Range;

/// Names stepped over in search of where they begin. A real table is stepped over once; bytes that are made to look like the
/// end of one at every place would keep the search busy for minutes.
const MAX_STEPS: usize = 8 * MAX_SYMBOLS;

/// Whether the signature at `at` lies in a token table: a cheap test before the bytes around it are gathered.
/// `region` needs 8 KiB on both sides.
pub fn is_token_table(region: &[u8], at: usize) -> bool {
    tokens_around(region, at).is_some()
}

/// The tables around the signature at `at`, which must be aligned to 8 bytes as the memory itself is. `region` is physically contiguous memory: 8 MiB before the signature and
/// 4 MiB after it hold the tables of any kernel.
pub fn locate(region: &[u8], at: usize) -> Result<Tables, KallsymsError> {
    let (tokens, token_index) = tokens_around(region, at).ok_or(KallsymsError::Tokens { at })?;
    let (count, names, markers) = names_before(region, tokens.start)?;
    let error = KallsymsError::Offsets { at: names.start, count };
    let after = || offsets_after(region, token_index.end, count);
    let (offsets, base) = offsets_before(region, names.start, count).or_else(after).ok_or(error)?;
    Ok(Tables { count, names, markers, tokens, token_index, offsets, base })
}

/// The token table's 256 strings and the index that agrees with them.
///
/// What lies before the first token is no help: padding, the end of a marker or of a sequence number. The index tells how far
/// before the digits the table begins.
fn tokens_around(region: &[u8], signature: usize) -> Option<(Range<usize>, Range<usize>)> {
    let rest = region.get(signature..)?;
    let last =
        memchr::memchr_iter(0, rest.get(..256 * MAX_NAME).unwrap_or(rest)).nth(255 - usize::from(b'0'))?;
    let end = signature.checked_add(last)?.checked_add(1)?;
    (0..=16usize).find_map(|skip| {
        let index_start = end.checked_add(skip)?;
        let index = region.get(index_start..index_start.checked_add(512)?)?;
        let digits = index.get(2 * usize::from(b'0')..)?.first_chunk()?;
        let start = signature.checked_sub(u16::from_le_bytes(*digits).into())?;
        agrees(region.get(start..end)?, index)
            .then_some((start..end, index_start..index_start.checked_add(512)?))
    })
}

/// Whether the index says where each token begins.
fn agrees(table: &[u8], index: &[u8]) -> bool {
    let mut starts =
        std::iter::once(Some(0)).chain(memchr::memchr_iter(0, table).map(|end| end.checked_add(1)));
    let entries = index.as_chunks::<2>().0;
    entries.iter().all(|entry| starts.next().flatten() == Some(u16::from_le_bytes(*entry).into()))
}

fn le32(region: &[u8], at: usize) -> Option<u32> {
    let bytes = region.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn le64(region: &[u8], at: usize) -> Option<u64> {
    let bytes = region.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

type Names = (usize, Range<usize>, Range<usize>);

/// Count, names and markers, which end at `tokens` or before the sequence numbers that end there.
fn names_before(region: &[u8], tokens: usize) -> Result<Names, KallsymsError> {
    let mut best = KallsymsError::Markers { at: tokens };
    let mut steps = MAX_STEPS;
    let direct = (0..16usize).filter_map(|pad| tokens.checked_sub(pad)).filter(|end| end % 4 == 0);
    // 6.2 and 6.3: three bytes a symbol lie between, and up to seven that align. Try every count; a marker table is
    // recognised at its start.
    let behind_sequences = (MIN_SYMBOLS..MAX_SYMBOLS).flat_map(|count| {
        let end = count.checked_mul(3).and_then(|bytes| tokens.checked_sub(bytes)).unwrap_or(0);
        [end & !3, (end & !3).saturating_sub(4)].into_iter().filter(move |end| {
            let markers = || {
                let start = end.checked_sub(count.div_ceil(MARKER_STEP).checked_mul(4)?)?;
                Some(le32(region, start)? == 0 && le32(region, start.checked_add(4)?)? > 512)
            };
            markers().unwrap_or(false)
        })
    });
    for end in direct.chain(behind_sequences) {
        let Some(markers) = markers_ending(region, end) else { continue };
        match names_for(region, &markers, &mut steps) {
            Some((count, names)) => return Ok((count, names, markers)),
            None => best = KallsymsError::Names { at: markers.start, markers: markers.len() / 4 },
        }
    }
    Err(best)
}

/// Markers rise from 0 by at least two bytes a symbol.
fn markers_ending(region: &[u8], end: usize) -> Option<Range<usize>> {
    let mut at = end.checked_sub(4)?;
    let mut above = le32(region, at)?;
    while above != 0 {
        at = at.checked_sub(4)?;
        let value = le32(region, at)?;
        let step = above.checked_sub(value)? as usize;
        if !(2 * MARKER_STEP..=MAX_LAST_BLOCK).contains(&step) {
            return None;
        }
        above = value;
    }
    (end.checked_sub(at)? >= MIN_SYMBOLS / MARKER_STEP * 4).then_some(at..end)
}

/// The names that end at the markers, found by the count before them and confirmed by every marker.
fn names_for(region: &[u8], markers: &Range<usize>, steps: &mut usize) -> Option<(usize, Range<usize>)> {
    let blocks = markers.len() / 4;
    let last = le32(region, markers.end.checked_sub(4)?)? as usize;
    let latest = markers.start.checked_sub(last)?;
    let earliest = latest.saturating_sub(MAX_LAST_BLOCK);
    let starts = (earliest..=latest).rev().filter(|start| start % 4 == 0);
    starts
        .filter_map(|start| {
            // The count is 4 bytes, aligned to 8 through 6.x and to 4 later.
            [8usize, 4].iter().find_map(|gap| {
                let count = le32(region, start.checked_sub(*gap)?)? as usize;
                let fits =
                    count.div_ceil(MARKER_STEP) == blocks && (MIN_SYMBOLS..=MAX_SYMBOLS).contains(&count);
                let end = if fits { names_end(region, start, count, markers, steps)? } else { return None };
                Some((count, start..end))
            })
        })
        .next()
}

/// End of `count` names from `start`, if every 256th begins where its marker says and they end at the markers.
fn names_end(
    region: &[u8],
    start: usize,
    count: usize,
    markers: &Range<usize>,
    steps: &mut usize,
) -> Option<usize> {
    let mut at = start;
    for index in 0..count {
        *steps = steps.checked_sub(1)?;
        if index % MARKER_STEP == 0 {
            let marker = le32(region, markers.start.checked_add(index / MARKER_STEP * 4)?)? as usize;
            if start.checked_add(marker)? != at {
                return None;
            }
        }
        let (len, header) = name_len(region, at)?;
        at = at.checked_add(header)?.checked_add(len)?;
        if len == 0 || at > markers.start {
            return None;
        }
    }
    (markers.start.checked_sub(at)? < 16).then_some(at)
}

/// Length of a compressed name and of its length field: two bytes for names over 127 (since 6.1).
pub(super) fn name_len(region: &[u8], at: usize) -> Option<(usize, usize)> {
    let low = usize::from(*region.get(at)?);
    if low & 0x80 == 0 {
        return Some((low, 1));
    }
    let high = usize::from(*region.get(at.checked_add(1)?)?);
    Some(((low & 0x7f) | (high << 7), 2))
}

/// Through 6.3: offsets, relative base, count, names.
fn offsets_before(region: &[u8], names: usize, count: usize) -> Option<(Range<usize>, Base)> {
    let base_at =
        [16usize, 12].iter().filter_map(|gap| names.checked_sub(*gap)).find(|at| is_base(region, *at))?;
    let bytes = count.checked_mul(4)?;
    let start = base_at.checked_sub(bytes.checked_next_multiple_of(8)?)?;
    let base = Base::Relative { at: base_at..base_at.checked_add(8)?, address: le64(region, base_at)? };
    let offsets = start..start.checked_add(bytes)?;
    rising(region, &offsets, false).then_some((offsets, base))
}

/// From 6.4: token index, offsets, and through 6.x a relative base.
fn offsets_after(region: &[u8], index_end: usize, count: usize) -> Option<(Range<usize>, Base)> {
    let bytes = count.checked_mul(4)?;
    (0..16usize).step_by(4).find_map(|pad| {
        let start = index_end.checked_add(pad)?;
        let offsets = start..start.checked_add(bytes)?;
        let base_at = offsets.end.checked_next_multiple_of(8)?;
        if is_base(region, base_at) && rising(region, &offsets, false) {
            let base =
                Base::Relative { at: base_at..base_at.checked_add(8)?, address: le64(region, base_at)? };
            return Some((offsets, base));
        }
        rising(region, &offsets, true).then_some((offsets, Base::Own))
    })
}

fn is_base(region: &[u8], at: usize) -> bool {
    le64(region, at).is_some_and(|value| value >= KERNEL_MAP && value % 4096 == 0)
}

/// Whether the addresses rise, as the kernel sorts them. `own`: each counts from its own place.
fn rising(region: &[u8], offsets: &Range<usize>, own: bool) -> bool {
    let Some(bytes) = region.get(offsets.clone()) else { return false };
    let mut last = i64::MIN;
    let (mut falls, mut negative) = (0usize, 0usize);
    let words = bytes.as_chunks::<4>().0;
    for (index, word) in words.iter().enumerate() {
        let raw = i64::from(i32::from_le_bytes(*word));
        negative = negative.saturating_add(usize::from(raw < 0));
        let own_place = if own { (index as i64).saturating_mul(4) } else { 0 };
        // Negative offsets count down from the base (CONFIG_KALLSYMS_ABSOLUTE_PERCPU).
        let value = if own {
            raw.saturating_add(own_place)
        } else if raw < 0 {
            raw.saturating_neg()
        } else {
            raw
        };
        falls = falls.saturating_add(usize::from(value < last));
        last = value;
    }
    // One fall is legitimate: from the per-CPU symbols to the first one of the image.
    falls <= words.len() / 1000 && words.len() >= MIN_SYMBOLS
}
