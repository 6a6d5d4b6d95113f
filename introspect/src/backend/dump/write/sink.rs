//! The file that a dump becomes: memory and holes first, headers last.

use super::super::segments::MAX_SEGMENTS;
use super::super::{avml, elf, lime};
use super::avml::Block;
use super::{DumpWriteError, WriteFormat};
use crate::addr::PAGE_BYTES;
use crate::{Gpa, GpaRange};
use std::io::{Seek, SeekFrom, Write};

/// Where an ELF core's memory starts, behind the note and room for 1,022 program headers. More of them go to
/// the end.
const ELF_DATA_AT: u64 = 64 << 10;
const ELF_NOTE_AT: u64 = 56 << 10;
const EHDR_BYTES: u64 = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// What the kernel's page of VMCOREINFO starts with (Linux `kernel/crash_core.c`, since 2.6.24 the first
/// line).
const VMCOREINFO_START: &[u8] = b"OSRELEASE=";
/// A line that no VMCOREINFO lacks.
const VMCOREINFO_LINE: &[u8] = b"\nPAGESIZE=";
const ZERO_PAGE: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// Sizes of a finished dump.
pub(super) struct Written {
    pub(super) memory_bytes: u64,
    pub(super) zero_bytes: u64,
    pub(super) file_bytes: u64,
}

/// Memory that lies in one run in the file.
struct Run {
    range: GpaRange,
    file_offset: u64,
}

pub(super) struct Sink<'a, W> {
    out: &'a mut W,
    format: WriteFormat,
    /// Where the next memory goes.
    pos: u64,
    /// Where the file ends so far.
    end: u64,
    zero_bytes: u64,
    runs: Vec<Run>,
    /// Whether the last run may grow.
    open: bool,
    /// Of an AVML dump: memory that is not written yet.
    block: Block,
    /// What the kernel says of itself for readers of dumps, met on the way.
    vmcoreinfo: Option<Vec<u8>>,
}

impl<'a, W: Write + Seek> Sink<'a, W> {
    pub(super) fn new(out: &'a mut W, format: WriteFormat) -> Sink<'a, W> {
        let (block, vmcoreinfo) = (Block::default(), None);
        Sink { out, format, pos: 0, end: 0, zero_bytes: 0, runs: Vec::new(), open: false, block, vmcoreinfo }
    }

    /// Half a header: an unfinished dump must pass for no dump at all.
    pub(super) fn start(&mut self) -> Result<(), DumpWriteError> {
        match self.format {
            WriteFormat::Elf => {
                self.put(0, elf::MAGIC)?;
                self.pos = ELF_DATA_AT;
            }
            WriteFormat::Lime => self.put(0, &lime::MAGIC.to_le_bytes())?,
            WriteFormat::Avml => self.put(0, &avml::MAGIC.to_le_bytes())?,
        }
        Ok(())
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), DumpWriteError> {
        self.out.seek(SeekFrom::Start(at))?;
        self.out.write_all(bytes)?;
        self.end = self.end.max(at.saturating_add(bytes.len() as u64));
        Ok(())
    }

    /// Adds memory, which follows the last if that run is open.
    pub(super) fn store(&mut self, at: Gpa, bytes: &[u8]) -> Result<(), DumpWriteError> {
        if !self.open {
            if self.runs.len() >= MAX_SEGMENTS {
                return Err(DumpWriteError::TooManyPieces);
            }
            self.write_block(false)?;
            if self.format == WriteFormat::Lime {
                self.pos = self.pos.saturating_add(lime::HEADER_BYTES);
            }
            self.runs.push(Run { range: GpaRange { start: at, len_bytes: 0 }, file_offset: self.pos });
            self.open = true;
        }
        if let Some(run) = self.runs.last_mut() {
            run.range.len_bytes = run.range.len_bytes.saturating_add(bytes.len() as u64);
        }
        if self.format == WriteFormat::Avml {
            self.zero_bytes = self.zero_bytes.saturating_add(zeros(bytes));
            self.block.add(at, bytes);
            return self.write_block(true);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (zeros, after) = rest.split_at(leading(rest, true));
            let (content, after) = after.split_at(leading(after, false));
            self.zero_bytes = self.zero_bytes.saturating_add(zeros.len() as u64);
            self.pos = self.pos.saturating_add(zeros.len() as u64);
            if !content.is_empty() {
                if self.format == WriteFormat::Elf && self.vmcoreinfo.is_none() {
                    self.vmcoreinfo = content.chunks(ZERO_PAGE.len()).find_map(vmcoreinfo);
                }
                self.put(self.pos, content)?;
            }
            self.pos = self.pos.saturating_add(content.len() as u64);
            rest = after;
        }
        Ok(())
    }

    fn write_block(&mut self, may_grow: bool) -> Result<(), DumpWriteError> {
        self.pos = self.pos.max(self.block.flush(self.out, self.pos, may_grow)?);
        if self.format == WriteFormat::Avml {
            self.end = self.pos;
        }
        Ok(())
    }

    /// What comes next does not follow what came last.
    pub(super) fn close(&mut self) {
        self.open = false;
    }

    /// Makes the dump valid.
    pub(super) fn finish(mut self) -> Result<Written, DumpWriteError> {
        self.write_block(false)?;
        // A file that ends in a hole must still be as long as its headers say.
        if let Some(last) = self.pos.checked_sub(1).filter(|last| *last >= self.end) {
            self.put(last, &[0])?;
        }
        let runs = std::mem::take(&mut self.runs);
        match self.format {
            WriteFormat::Elf => self.elf_headers(&runs)?,
            WriteFormat::Lime => {
                // The first comes last: it is what makes the file a dump.
                for run in runs.iter().rev() {
                    let at = run.file_offset.saturating_sub(lime::HEADER_BYTES);
                    self.put(at, &lime_header(run.range))?;
                }
            }
            WriteFormat::Avml => self.block.finish(self.out)?,
        }
        self.out.flush()?;
        let memory_bytes = runs.iter().fold(0_u64, |sum, run| sum.saturating_add(run.range.len_bytes));
        Ok(Written { memory_bytes, zero_bytes: self.zero_bytes, file_bytes: self.end })
    }

    fn elf_headers(&mut self, runs: &[Run]) -> Result<(), DumpWriteError> {
        let note = self.vmcoreinfo.as_deref().map(note).unwrap_or_default();
        self.put(ELF_NOTE_AT, &note)?;
        let mut table = program_header(PT_NOTE, ELF_NOTE_AT, Gpa(0), note.len() as u64);
        for run in runs {
            table.extend(program_header(PT_LOAD, run.file_offset, run.range.start, run.range.len_bytes));
        }
        let room = ELF_NOTE_AT.saturating_sub(EHDR_BYTES);
        let table_at = if table.len() as u64 <= room { EHDR_BYTES } else { self.end.next_multiple_of(8) };
        self.put(table_at, &table)?;
        let entries = runs.len().saturating_add(1);
        let count = u16::try_from(entries).ok().filter(|count| *count < u16::MAX);
        let section_at = match count {
            Some(_) => 0,
            None => {
                let at = self.end.next_multiple_of(8);
                self.put(at, &counting_section(entries))?;
                at
            }
        };
        self.put(0, &elf_header(table_at, count, section_at))
    }
}

/// The text of a page that is the kernel's VMCOREINFO. The guest wrote it: it is repeated, not believed.
fn vmcoreinfo(page: &[u8]) -> Option<Vec<u8>> {
    let text = page.split(|byte| *byte == 0).next().filter(|text| text.starts_with(VMCOREINFO_START))?;
    memchr::memmem::find(text, VMCOREINFO_LINE).map(|_| text.to_vec())
}

/// The note under which the kernel's own crash dumps carry VMCOREINFO.
fn note(text: &[u8]) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap_or(0);
    let mut note = [[11, len, 0].map(u32::to_le_bytes).concat().as_slice(), b"VMCOREINFO\0\0", text].concat();
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// Length of the pages at the start of `bytes` that are zero, or that are not.
fn leading(bytes: &[u8], zero: bool) -> usize {
    let page = usize::try_from(PAGE_BYTES).unwrap_or(1);
    let is_zero = |page: &[u8]| ZERO_PAGE.get(..page.len()) == Some(page);
    bytes.chunks(page).take_while(|page| is_zero(page) == zero).map(<[u8]>::len).sum()
}

/// How many bytes of `bytes` are zero pages.
fn zeros(bytes: &[u8]) -> u64 {
    let page = usize::try_from(PAGE_BYTES).unwrap_or(1);
    let is_zero = |page: &&[u8]| ZERO_PAGE.get(..page.len()) == Some(page);
    bytes.chunks(page).filter(is_zero).map(|page| page.len() as u64).sum()
}

fn lime_header(range: GpaRange) -> Vec<u8> {
    let last = range.end().0.saturating_sub(1);
    let (magic, version) = (lime::MAGIC.to_le_bytes(), 1_u32.to_le_bytes());
    [magic.as_slice(), &version, &range.start.0.to_le_bytes(), &last.to_le_bytes(), &[0; 8]].concat()
}

/// `Elf64_Phdr`: readable, without a virtual address, as long in memory as in the file.
fn program_header(kind: u32, offset: u64, at: Gpa, len: u64) -> Vec<u8> {
    let words = [offset, 0, at.0, len, len, 0];
    [[kind, 4].map(u32::to_le_bytes).concat(), words.map(u64::to_le_bytes).concat()].concat()
}

/// `Elf64_Ehdr`: a little-endian x86-64 core.
fn elf_header(table_at: u64, count: Option<u16>, section_at: u64) -> Vec<u8> {
    let ident = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0_u8];
    let sections = u16::from(count.is_none());
    let halves = [64, 56, count.unwrap_or(u16::MAX), if sections > 0 { 64 } else { 0 }, sections, 0];
    [
        ident.as_slice(),
        &[4_u16, 62].map(u16::to_le_bytes).concat(),
        &1_u32.to_le_bytes(),
        &[0, table_at, section_at].map(u64::to_le_bytes).concat(),
        &0_u32.to_le_bytes(),
        &halves.map(u16::to_le_bytes).concat(),
    ]
    .concat()
}

/// `Elf64_Shdr` 0, whose `sh_info` is the number of program headers when that does not fit the header.
fn counting_section(count: usize) -> Vec<u8> {
    let mut section = vec![0; 44];
    section.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    section.resize(64, 0);
    section
}
