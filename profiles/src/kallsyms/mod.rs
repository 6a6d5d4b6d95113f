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

mod locate;
#[cfg(any(test, fuzzing))]
pub mod table;
#[cfg(test)]
mod tests;

use crate::{Symbols, SymbolsBuilder};
use locate::name_len;
use std::ops::Range;

pub use locate::{is_token_table, locate};

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
