//! kallsyms: the symbol table that a kernel carries in its own read-only data, found and decoded by its structure.
//!
//! Layouts: `scripts/kallsyms.c` and `kernel/kallsyms.c` of Linux 5.10, 6.1, 6.2, 6.12 and 7.2:
//!
//! | kernels | order in memory |
//! |---|---|
//! | to 6.1 | offsets, relative base, count, names, markers, token table, token index |
//! | 6.2, 6.3 | the same with the table of sequence numbers before the token table |
//! | 6.4 to 6.x | count, names, markers, token table, token index, offsets, relative base, sequence numbers |
//! | 7.x | the same without the relative base: each offset counts from its own place |
//!
//! *Trusts*: nothing. Each table is believed only when its neighbours confirm it, every count is limited, every symbol
//! name must be printable. *Never*: panics or allocates more than the region justifies, whatever the bytes.

use crate::{Symbols, SymbolsBuilder};
use std::ops::Range;

/// A run of bytes in every token table: the tokens of the ten digits, which stand for themselves.
pub const SIGNATURE: &[u8; 20] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// Address for which x86-64 kernels are linked: `__START_KERNEL_map` and `CONFIG_PHYSICAL_START`.
pub const LINK_TEXT: u64 = 0xffff_ffff_8100_0000;
/// Start of the kernel's own mapping; symbols below it (per-CPU offsets through 6.12) do not move with KASLR.
pub const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Most symbols accepted: four times those of the biggest distribution kernel.
pub const MAX_SYMBOLS: usize = 1 << 20;
/// Fewest symbols of anything called a kernel.
const MIN_SYMBOLS: usize = 1000;
/// Longest symbol name (`KSYM_NAME_LEN` is 512).
const MAX_NAME: usize = 1024;
/// Symbols from marker to marker.
const MARKER_STEP: usize = 256;
/// Most bytes that the last, partly filled block of names may have.
const MAX_LAST_BLOCK: usize = MARKER_STEP * 600;

/// Why bytes are not a kallsyms table.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KallsymsError {
    /// The token table around the signature is malformed.
    #[error("kallsyms at {at:#x}: no token table with a matching index")]
    Tokens {
        /// Offset of the signature in the region.
        at: usize,
    },
    /// No markers before the token table.
    #[error("kallsyms at {at:#x}: no markers before the token table")]
    Markers {
        /// Offset of the token table in the region.
        at: usize,
    },
    /// No names that agree with the markers.
    #[error("kallsyms at {at:#x}: no names that agree with {markers} markers")]
    Names {
        /// Offset of the markers in the region.
        at: usize,
        /// How many markers there are.
        markers: usize,
    },
    /// No addresses on either side.
    #[error("kallsyms at {at:#x}: no plausible addresses for {count} symbols")]
    Offsets {
        /// Offset of the names in the region.
        at: usize,
        /// How many symbols there are.
        count: usize,
    },
    /// A symbol does not decode.
    #[error("kallsyms: symbol {index} is not a printable name with a type letter")]
    Symbol {
        /// Its number.
        index: usize,
    },
    /// The table decodes but lacks a symbol that every kernel has.
    #[error("kallsyms: no symbol `{0}`")]
    Missing(&'static str),
}

/// Where the addresses count from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Base {
    /// From a relative base, already moved by KASLR; the range holds its 8 bytes.
    Relative {
        /// Where it lies.
        at: Range<usize>,
        /// Its value.
        address: u64,
    },
    /// Each from its own place in the table (7.x).
    Own,
}

/// Where each table lies, as byte ranges of the region that was searched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tables {
    /// Number of symbols.
    pub count: usize,
    /// Compressed names.
    pub names: Range<usize>,
    /// Offsets into the names, one every 256 symbols.
    pub markers: Range<usize>,
    /// The 256 tokens.
    pub tokens: Range<usize>,
    /// Where each token begins.
    pub token_index: Range<usize>,
    /// Addresses.
    pub offsets: Range<usize>,
    /// What they count from.
    pub base: Base,
}

/// A decoded table.
#[derive(Clone, Debug)]
pub struct Kallsyms {
    /// Symbols at link-time addresses.
    pub symbols: Symbols,
    /// Run-time address of `_text`; `None` where the table does not tell (7.x).
    pub text_address: Option<u64>,
    /// Where `_text` lies relative to the region's start, for tables that count from their own place.
    pub text_offset: Option<i64>,
}

/// Offsets of all places in `memory` where a token table may be.
pub fn signatures(memory: &[u8]) -> impl Iterator<Item = usize> + '_ {
    memchr::memmem::find_iter(memory, SIGNATURE)
}

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
fn tokens_around(region: &[u8], signature: usize) -> Option<(Range<usize>, Range<usize>)> {
    // Back over the tokens before the digits. The byte before token 0 is zero: padding, or the top byte of a marker.
    let before = region.get(..signature)?;
    let mut zeros = memchr::memrchr_iter(0, before);
    let start = zeros.nth(usize::from(b'0'))?.checked_add(1)?;
    let table = region.get(start..)?.get(..256 * MAX_NAME).or_else(|| region.get(start..))?;
    let mut index = Vec::with_capacity(512);
    let mut at = 0usize;
    for end in memchr::memchr_iter(0, table).take(256) {
        index.extend_from_slice(&u16::try_from(at).ok()?.to_le_bytes());
        at = end.checked_add(1)?;
    }
    let end = start.checked_add(at)?;
    let padding = region.get(end..end.checked_add(16 + index.len())?)?;
    let skip = (0..=16).find(|skip| padding.get(*skip..).is_some_and(|rest| rest.starts_with(&index)))?;
    let index_start = end.checked_add(skip)?;
    (index.len() == 512).then_some((start..end, index_start..index_start.checked_add(512)?))
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
    let direct = (0..16usize).filter_map(|pad| tokens.checked_sub(pad)).filter(|end| end % 4 == 0);
    // 6.2 and 6.3: three bytes a symbol lie between. Try every count; a marker table is recognised at its start.
    let behind_sequences = (MIN_SYMBOLS..MAX_SYMBOLS).step_by(1).filter_map(|count| {
        let end = tokens.checked_sub(count.checked_mul(3)?)?;
        let end = end.checked_sub(end % 4)?;
        let start = end.checked_sub(count.div_ceil(MARKER_STEP).checked_mul(4)?)?;
        (le32(region, start) == Some(0) && le32(region, start.checked_add(4)?)? > 512).then_some(end)
    });
    for end in direct.chain(behind_sequences) {
        let Some(markers) = markers_ending(region, end) else { continue };
        match names_for(region, &markers) {
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
fn names_for(region: &[u8], markers: &Range<usize>) -> Option<(usize, Range<usize>)> {
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
                let end = if fits { names_end(region, start, count, markers)? } else { return None };
                Some((count, start..end))
            })
        })
        .next()
}

/// End of `count` names from `start`, if every 256th begins where its marker says and they end at the markers.
fn names_end(region: &[u8], start: usize, count: usize, markers: &Range<usize>) -> Option<usize> {
    let mut at = start;
    for index in 0..count {
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
fn name_len(region: &[u8], at: usize) -> Option<(usize, usize)> {
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

impl Tables {
    /// The ranges whose bytes are the same at every boot of a build: all but the relative base.
    pub fn constant_ranges(&self) -> Vec<Range<usize>> {
        vec![
            self.names.clone(),
            self.markers.clone(),
            self.tokens.clone(),
            self.token_index.clone(),
            self.offsets.clone(),
        ]
    }

    /// Decodes every symbol.
    pub fn decode(&self, region: &[u8]) -> Result<Kallsyms, KallsymsError> {
        let tokens = self.token_strings(region).ok_or(KallsymsError::Tokens { at: self.tokens.start })?;
        let offsets = region.get(self.offsets.clone()).unwrap_or(&[]).as_chunks::<4>().0;
        let negative = offsets.iter().filter(|word| i32::from_le_bytes(**word) < 0).count();
        let per_cpu_is_absolute = negative > offsets.len() / 2;
        let mut decoded = Vec::with_capacity(self.count);
        let mut names = String::with_capacity(self.count.saturating_mul(24));
        let mut at = self.names.start;
        let mut text = None;
        for (index, word) in offsets.iter().enumerate().take(self.count) {
            let bad = KallsymsError::Symbol { index };
            let (len, header) = name_len(region, at).ok_or(bad.clone())?;
            let from = at.saturating_add(header);
            let packed = region.get(from..from.saturating_add(len)).ok_or(bad.clone())?;
            at = from.saturating_add(len);
            let start = names.len();
            let kind = expand(packed, &tokens, &mut names).ok_or(bad)?;
            let place = self.place(index, i32::from_le_bytes(*word), per_cpu_is_absolute);
            if names.get(start..) == Some("_text") {
                text = Some(place);
            }
            decoded.push((start..names.len(), kind, place));
        }
        let text = match text.ok_or(KallsymsError::Missing("_text"))? {
            Place::Absolute(_) => return Err(KallsymsError::Missing("_text")),
            Place::Moving(place) => place,
        };
        let mut builder = SymbolsBuilder::default();
        for (span, kind, place) in decoded {
            let address = match place {
                Place::Absolute(address) => address,
                Place::Moving(place) => LINK_TEXT.wrapping_add(place.wrapping_sub(text)),
            };
            builder.push(names.get(span).unwrap_or(""), address, kind);
        }
        let relative = matches!(self.base, Base::Relative { .. });
        let text_offset = (!relative).then_some(text.cast_signed());
        Ok(Kallsyms { symbols: builder.build(), text_address: relative.then_some(text), text_offset })
    }

    fn place(&self, index: usize, raw: i32, per_cpu_is_absolute: bool) -> Place {
        match &self.base {
            Base::Own => {
                let own = self.offsets.start.saturating_add(index.saturating_mul(4)) as u64;
                Place::Moving(own.wrapping_add_signed(raw.into()))
            }
            Base::Relative { address, .. } if !per_cpu_is_absolute => {
                Place::Moving(address.wrapping_add(raw.cast_unsigned().into()))
            }
            Base::Relative { .. } if raw >= 0 => Place::Absolute(u64::from(raw.cast_unsigned())),
            Base::Relative { address, .. } => {
                Place::Moving(address.wrapping_sub(1).wrapping_add_signed(i64::from(raw).saturating_neg()))
            }
        }
    }

    fn token_strings<'r>(&self, region: &'r [u8]) -> Option<Vec<&'r [u8]>> {
        let table = region.get(self.tokens.clone())?;
        let mut start = 0usize;
        let ends = memchr::memchr_iter(0, table).take(256);
        let tokens: Option<Vec<&[u8]>> = ends
            .map(|end| {
                let token = table.get(start..end);
                start = end.saturating_add(1);
                token
            })
            .collect();
        tokens.filter(|tokens| tokens.len() == 256)
    }
}

#[derive(Clone, Copy)]
enum Place {
    /// The number itself: a per-CPU offset.
    Absolute(u64),
    /// A run-time address, or an offset into the region: only differences to `_text` mean anything.
    Moving(u64),
}

/// Appends a name to `names` and returns its type letter.
fn expand(packed: &[u8], tokens: &[&[u8]], names: &mut String) -> Option<u8> {
    let mut letters =
        packed.iter().filter_map(|code| tokens.get(usize::from(*code))).flat_map(|token| token.iter());
    let kind = *letters.next()?;
    let start = names.len();
    for letter in letters {
        if !letter.is_ascii_graphic() || names.len().saturating_sub(start) >= MAX_NAME {
            return None;
        }
        names.push(char::from(*letter));
    }
    (kind.is_ascii_alphabetic() || kind == b'?').then_some(kind)
}
