//! DWARF 4 and 5: the types of a `vmlinux` that was built with debug information, or of its separate debug file.
//!
//! Every compile unit of a kernel describes the same few thousand structures again. Units are read one by one, and of each
//! only what no unit before it told is kept, so memory is that of the largest unit and of the result, not of the file.
//! Structures are the same where name, size and members are (as BTF has it): of those that share a name and differ, all stay.
//!
//! *Trusts*: nothing. Sizes, counts and depths are limited, cycles are found; a file that breaks a limit gives an error.
//! *Never*: reads lines, variables, functions or location expressions; follows references from one unit to another.
//!
//! Layout: DWARF 5 sections 5 and 7.5, DWARF 4 section 5.5.6 (bit fields), the ELF gABI (`SHF_COMPRESSED`).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod merge;
mod print;
mod sections;
mod unit;

use crate::Types;
use gimli::{DebugAbbrev, DebugInfo, DebugStrOffsets, EndianSlice, LittleEndian, UnitType};
use std::io::{Read, Seek};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Largest unit: those of kernels have some 2 MB.
const MAX_UNIT_BYTES: u64 = 64 << 20;
/// `DW_LANG_Rust` (DWARF 5 table 7.17). BTF leaves its units out too: their layouts are no one's interface.
const LANG_RUST: u64 = 0x1c;

/// Why a file gives no types.
#[derive(Debug, thiserror::Error)]
pub enum DwarfError {
    /// No debug information.
    #[error("no debug information in it (.debug_info)")]
    None,
    /// The ELF file is damaged.
    #[error("the ELF file is damaged, or not a little-endian 64-bit one: {0}")]
    Elf(String),
    /// An object file, whose debug information is not final.
    #[error("an object file, not linked: its debug information is not final")]
    NotLinked,
    /// A section is larger than any kernel's.
    #[error("section {name} has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Its name.
        name: &'static str,
        /// Its size, unpacked.
        bytes: u64,
        /// Most that is read.
        limit: u64,
    },
    /// Reading the file failed, or a section does not unpack.
    #[error("section {name} cannot be read: {error}")]
    Read {
        /// Its name.
        name: &'static str,
        /// Why.
        error: std::io::Error,
    },
    /// A unit is damaged.
    #[error("the unit at {offset:#x} in .debug_info is damaged: {why}")]
    Damaged {
        /// Where the unit begins.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A way of laying out debug information that is not read.
    #[error("the unit at {offset:#x} in .debug_info has {what}, which are not read")]
    Unsupported {
        /// Where the unit begins.
        offset: u64,
        /// What it has.
        what: &'static str,
    },
    /// More types, members or names than any kernel has.
    #[error("it describes too many {0}")]
    TooMany(&'static str),
    /// Debug information without a structure in it.
    #[error("its debug information describes no structure (CONFIG_DEBUG_INFO_REDUCED?)")]
    NoTypes,
}

/// What is wrong inside one unit.
#[derive(Debug)]
enum Wrong {
    Damaged(String),
    Unsupported(&'static str),
    TooMany(&'static str),
}

impl Wrong {
    fn at(self, offset: u64) -> DwarfError {
        match self {
            Wrong::Damaged(why) => DwarfError::Damaged { offset, why },
            Wrong::Unsupported(what) => DwarfError::Unsupported { offset, what },
            Wrong::TooMany(what) => DwarfError::TooMany(what),
        }
    }
}

impl From<gimli::Error> for Wrong {
    fn from(error: gimli::Error) -> Wrong {
        Wrong::Damaged(error.to_string())
    }
}

/// The sections that units refer to.
struct Strings<'a> {
    abbrev: DebugAbbrev<Slice<'a>>,
    str: &'a [u8],
    line_str: &'a [u8],
    str_offsets: DebugStrOffsets<Slice<'a>>,
}

/// Reads the types out of the debug information of `file`, an ELF file.
pub fn read<F: Read + Seek>(file: &mut F) -> Result<Types, DwarfError> {
    let sections = sections::find(file)?;
    let (abbrev, str) = (sections.abbrev.load(file)?, sections.str.load(file)?);
    let (line_str, str_offsets) = (sections.line_str.load(file)?, sections.str_offsets.load(file)?);
    let strings = Strings {
        abbrev: DebugAbbrev::new(&abbrev, LittleEndian),
        str: &str,
        line_str: &line_str,
        str_offsets: DebugStrOffsets::from(EndianSlice::new(&str_offsets, LittleEndian)),
    };
    let mut info = sections.info.open(file)?;
    let mut merged = merge::Merged::default();
    let mut scratch = unit::Scratch::default();
    let (mut bytes, mut offset) = (Vec::new(), 0u64);
    while next_unit(&mut info, offset, &mut bytes)? {
        one_unit(&bytes, &strings, &mut scratch, &mut merged).map_err(|wrong| wrong.at(offset))?;
        offset = offset.saturating_add(bytes.len() as u64);
    }
    let types = merged.build();
    if types.records.is_empty() { Err(DwarfError::NoTypes) } else { Ok(types) }
}

/// Reads one unit with its length word into `bytes`; `false` at the end of the section.
fn next_unit(info: &mut dyn Read, offset: u64, bytes: &mut Vec<u8>) -> Result<bool, DwarfError> {
    let failed = |error| DwarfError::Read { name: ".debug_info", error };
    let damaged = |why: &str| DwarfError::Damaged { offset, why: why.to_owned() };
    bytes.clear();
    Read::take(&mut *info, 4).read_to_end(bytes).map_err(failed)?;
    let word = match bytes.as_slice() {
        [] => return Ok(false),
        word => word.first_chunk().ok_or_else(|| damaged("it is cut off"))?,
    };
    let mut len = u64::from(u32::from_le_bytes(*word));
    if len == 0xffff_ffff {
        let mut wide = [0; 8];
        info.read_exact(&mut wide).map_err(failed)?;
        bytes.extend(wide);
        len = u64::from_le_bytes(wide);
    }
    if len > MAX_UNIT_BYTES {
        return Err(damaged("it says that it is larger than any kernel's"));
    }
    let before = bytes.len() as u64;
    Read::take(info, len).read_to_end(bytes).map_err(failed)?;
    if bytes.len() as u64 == before.saturating_add(len) { Ok(true) } else { Err(damaged("it is cut off")) }
}

fn one_unit(
    bytes: &[u8],
    strings: &Strings<'_>,
    scratch: &mut unit::Scratch,
    merged: &mut merge::Merged,
) -> Result<(), Wrong> {
    let section = DebugInfo::new(bytes, LittleEndian);
    let Some(header) = section.units().next()? else { return Ok(()) };
    match header.type_() {
        UnitType::Compilation | UnitType::Partial => {}
        UnitType::Type { .. } | UnitType::SplitType { .. } => return Err(Wrong::Unsupported("type units")),
        UnitType::Skeleton(_) | UnitType::SplitCompilation(_) => {
            return Err(Wrong::Unsupported("its types in split files (.dwo)"));
        }
    }
    if !matches!(header.version(), 4 | 5) {
        return Err(Wrong::Unsupported("units of a DWARF version other than 4 and 5"));
    }
    match unit::scan(&header, strings, scratch)? {
        Some(unit) => merged.add(&unit),
        None => Ok(()),
    }
}
