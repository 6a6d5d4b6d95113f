//! ELF cores, 64 and 32 bits, little-endian: each `PT_LOAD` is a run of guest-physical memory, by `p_paddr`.
//!
//! Sources: ELF gABI (file and program headers, `PN_XNUM`); QEMU `dump/dump.c` and makedumpfile `-E` as
//! writers.
//! *Trusts*: nothing in the headers. A dump taken with paging names the same memory several times: once is
//! kept.

use super::image::{DumpError, Image, u16_at, u32_at, u64_at};
use super::notes::Notes;
use super::segments::{MAX_SEGMENTS, Segment};
use super::xen::{self, MachineFrames};

pub(crate) const MAGIC: &[u8] = b"\x7fELF";
const ET_CORE: u16 = 4;
const PN_XNUM: u16 = 0xffff;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Notes of 8,192 vCPUs fit.
const MAX_NOTE_BYTES: u64 = 16 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Bits32,
    Bits64,
}

struct Program {
    kind: u32,
    offset: u64,
    paddr: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

/// What an ELF core holds.
pub(crate) struct Core {
    pub(crate) segments: Vec<Segment>,
    pub(crate) notes: Notes,
    /// Of a Xen PV guest.
    pub(crate) frames: Option<MachineFrames>,
}

/// The runs of memory and the notes.
pub(crate) fn parse(image: &Image, warnings: &mut Vec<String>) -> Result<Core, DumpError> {
    let (mut segments, mut notes) = (Vec::new(), Notes::default());
    for program in programs(image)? {
        match program.kind {
            // QEMU writes offset -1 for memory that a page table names and the guest does not have.
            PT_LOAD if program.offset != u64::MAX => segments.push(Segment {
                start: program.paddr,
                len_bytes: program.memory_bytes.max(program.file_bytes),
                file_offset: program.offset,
                stored_bytes: program.file_bytes,
            }),
            PT_NOTE => match image.bytes(program.offset, program.file_bytes.min(MAX_NOTE_BYTES), "notes") {
                Ok(bytes) => notes.absorb(&bytes),
                Err(e) => warnings.push(e.to_string()),
            },
            _ => {}
        }
    }
    if !segments.is_empty() {
        return Ok(Core { segments, notes, frames: None });
    }
    match xen::parse(image)? {
        Some((segments, frames)) => Ok(Core { segments, notes, frames }),
        None => Err(image.corrupt(0, "an ELF core without a single memory segment")),
    }
}

fn programs(image: &Image) -> Result<Vec<Program>, DumpError> {
    let head = image.bytes(0, image.len_bytes().min(64), "ELF header")?;
    let short = || image.corrupt(0, "the ELF header is cut short");
    let class = match (head.get(4), head.get(5)) {
        (Some(2), Some(1)) => Class::Bits64,
        (Some(1), Some(1)) => Class::Bits32,
        (Some(_), Some(2)) => {
            return Err(image.unsupported("a big-endian ELF core; only x86 guests are read"));
        }
        _ => return Err(image.corrupt(4, "unknown ELF class or byte order")),
    };
    if u16_at(&head, 16).ok_or_else(short)? != ET_CORE {
        return Err(image.not_a_dump("an ELF file, but not a core"));
    }
    let (phoff, shoff, phnum_at) = match class {
        Class::Bits64 => (u64_at(&head, 32), u64_at(&head, 40), 56),
        Class::Bits32 => (u32_at(&head, 28).map(u64::from), u32_at(&head, 32).map(u64::from), 44),
    };
    let (phoff, shoff) = (phoff.ok_or_else(short)?, shoff.ok_or_else(short)?);
    let count = match u16_at(&head, phnum_at).ok_or_else(short)? {
        PN_XNUM => extended_count(image, class, shoff)?,
        count => u64::from(count),
    };
    if count > MAX_SEGMENTS as u64 {
        return Err(image.corrupt(phoff, format!("{count} program headers")));
    }
    let entry = if class == Class::Bits64 { 56 } else { 32 };
    let table = image.bytes(phoff, count.saturating_mul(entry), "program headers")?;
    let entry = usize::try_from(entry).unwrap_or(usize::MAX);
    Ok(table.chunks_exact(entry).filter_map(|header| program(header, class)).collect())
}

/// With 65,535 segments and more their number is `sh_info` of the first section header.
fn extended_count(image: &Image, class: Class, shoff: u64) -> Result<u64, DumpError> {
    let (len, info_at) = if class == Class::Bits64 { (64, 44) } else { (40, 28) };
    let section = image.bytes(shoff, len, "section header 0")?;
    u32_at(&section, info_at)
        .map(u64::from)
        .ok_or_else(|| image.corrupt(shoff, "section header 0 is cut short"))
}

fn program(header: &[u8], class: Class) -> Option<Program> {
    let word = |at| u32_at(header, at).map(u64::from);
    let kind = u32_at(header, 0)?;
    Some(match class {
        Class::Bits64 => Program {
            kind,
            offset: u64_at(header, 8)?,
            paddr: u64_at(header, 24)?,
            file_bytes: u64_at(header, 32)?,
            memory_bytes: u64_at(header, 40)?,
        },
        Class::Bits32 => Program {
            kind,
            offset: word(4).map(|at| if at == u64::from(u32::MAX) { u64::MAX } else { at })?,
            paddr: word(12)?,
            file_bytes: word(16)?,
            memory_bytes: word(20)?,
        },
    })
}
