//! Xen's own cores (`xl dump-core`): ELF without program headers, pages in one section and their frames in another.
//!
//! Source: Xen `docs/misc/dump-core-format.txt` (0, 1). A PV guest's table also names each page's machine frame,
//! which is what its page tables hold. *Trusts*: nothing; frames may come in any order, twice, or invalid.

use super::image::{DumpError, Image, u16_at, u32_at, u64_at};
use super::segments::{MAX_SEGMENTS, Segment};
use crate::Gfn;
use crate::addr::PAGE_BYTES;

const SECTION_BYTES: u64 = 64;
const MAX_NAME_BYTES: u64 = 1 << 16;
/// Table bytes read at once; a multiple of both kinds of entry.
const PIECE_BYTES: u64 = 1 << 20;
/// Entries whose page Xen could not map have an impossible frame.
const MAX_FRAME: u64 = 1 << 40;

/// The guest frame of each machine frame of a PV guest.
#[derive(Debug)]
pub(crate) struct MachineFrames {
    /// Machine and guest frames, ascending by machine frame.
    pairs: Vec<(u64, u64)>,
}

impl MachineFrames {
    pub(crate) fn guest_frame(&self, machine: u64) -> Option<Gfn> {
        let index = self.pairs.binary_search_by_key(&machine, |(machine, _)| *machine).ok()?;
        self.pairs.get(index).map(|(_, guest)| Gfn(*guest))
    }
}

struct Section {
    name: Vec<u8>,
    offset: u64,
    len_bytes: u64,
}

/// What a Xen core holds: runs of memory, and of a PV guest its machine frames.
pub(crate) type Core = (Vec<Segment>, Option<MachineFrames>);

/// Reads a Xen core; `None` if the ELF file is not one.
pub(crate) fn parse(image: &Image) -> Result<Option<Core>, DumpError> {
    let sections = sections(image)?;
    let find = |name: &[u8]| sections.iter().find(|section| section.name == name);
    let Some(pages) = find(b".xen_pages") else { return Ok(None) };
    let (table, entry) = match (find(b".xen_pfn"), find(b".xen_p2m")) {
        (Some(table), _) => (table, 8),
        (None, Some(table)) => (table, 16),
        (None, None) => return Err(image.corrupt(pages.offset, "Xen pages without a table of their frames")),
    };
    let count = pages.len_bytes / PAGE_BYTES;
    if table.len_bytes.checked_div(entry) != Some(count) {
        return Err(
            image.corrupt(table.offset, format!("{count} pages, {} bytes of frames", table.len_bytes))
        );
    }
    let mut found = Found { segments: Vec::new(), machine: Vec::new(), file_offset: pages.offset };
    let mut done = 0_u64;
    while done < table.len_bytes {
        let len = PIECE_BYTES.min(table.len_bytes.saturating_sub(done));
        let piece = image.bytes(table.offset.saturating_add(done), len, "Xen frame table")?;
        for entry in piece.chunks_exact(usize::try_from(entry).unwrap_or(usize::MAX)) {
            found.page(u64_at(entry, 0).unwrap_or(u64::MAX), u64_at(entry, 8));
        }
        if found.segments.len() > MAX_SEGMENTS {
            return Err(image.corrupt(table.offset, "too many ranges"));
        }
        done = done.saturating_add(len);
    }
    found.machine.sort_unstable();
    let frames = (entry == 16).then_some(MachineFrames { pairs: found.machine });
    Ok(Some((found.segments, frames)))
}

struct Found {
    segments: Vec<Segment>,
    machine: Vec<(u64, u64)>,
    /// Of the next page.
    file_offset: u64,
}

impl Found {
    fn page(&mut self, frame: u64, machine: Option<u64>) {
        let file_offset = self.file_offset;
        self.file_offset = file_offset.saturating_add(PAGE_BYTES);
        if frame >= MAX_FRAME {
            return;
        }
        let start = frame.saturating_mul(PAGE_BYTES);
        match self.segments.last_mut() {
            Some(last)
                if last.start.saturating_add(last.len_bytes) == start
                    && last.file_offset.saturating_add(last.len_bytes) == file_offset =>
            {
                last.len_bytes = last.len_bytes.saturating_add(PAGE_BYTES);
                last.stored_bytes = last.len_bytes;
            }
            _ => self.segments.push(Segment {
                start,
                len_bytes: PAGE_BYTES,
                file_offset,
                stored_bytes: PAGE_BYTES,
            }),
        }
        self.machine.extend(machine.map(|machine| (machine, frame)));
    }
}

fn sections(image: &Image) -> Result<Vec<Section>, DumpError> {
    let head = image.bytes(0, 64, "ELF header")?;
    let (Some(2), Some(table_at)) = (head.get(4), u64_at(&head, 40)) else { return Ok(Vec::new()) };
    let half = |at| u16_at(&head, at).unwrap_or(0);
    let (entry, count, names) = (half(58), half(60), half(62));
    if u64::from(entry) != SECTION_BYTES || count == 0 {
        return Ok(Vec::new());
    }
    let table = image.bytes(table_at, SECTION_BYTES.saturating_mul(u64::from(count)), "section headers")?;
    let headers: Vec<&[u8]> = table.chunks_exact(64).collect();
    let place = |header: &[u8]| Some((u64_at(header, 24)?, u64_at(header, 32)?));
    let Some((names_at, names_len)) = headers.get(usize::from(names)).and_then(|header| place(header)) else {
        return Ok(Vec::new());
    };
    let names = image.bytes(names_at, names_len.min(MAX_NAME_BYTES), "section names")?;
    let section = |header: &&[u8]| {
        let start = usize::try_from(u32_at(header, 0)?).ok()?;
        let name = names.get(start..)?.split(|byte| *byte == 0).next()?.to_vec();
        let (offset, len_bytes) = place(header)?;
        Some(Section { name, offset, len_bytes })
    };
    Ok(headers.iter().filter_map(section).collect())
}
