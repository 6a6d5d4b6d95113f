//! What a range of virtual addresses maps, in order, without asking for every page.
//!
//! *Does*: reads each table once and only the entries that the range needs, from the last-level table on where the address space
//! remembers that one, skips what is not present, joins pages that are neighbours both ways.
//! *Trusts*: nothing. *Never*: reads more entries than it was allowed: one page mapped to terabytes, or a table
//! that names itself, ends early, and [`Visited::cut`] says so.

use super::walk::{Step, step};
use super::{Access, Cache, Level, Mode, Root, TranslateError};
use crate::addr::PAGE_BYTES;
use crate::{Gpa, GuestMemory, Gva};

/// Entries that any sane address space of a guest of some 16 GiB stays below, at 4 KiB a page.
pub const MAX_ENTRIES: u64 = 1 << 22;

/// Neighbouring pages, neighbours in guest-physical memory as well, that allow the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First virtual address.
    pub start: Gva,
    /// Where it leads.
    pub gpa: Gpa,
    /// Length in bytes.
    pub len_bytes: u64,
    /// What the entries allow.
    pub access: Access,
}

/// How much of the tables was seen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Visited {
    /// Entries read.
    pub entries: u64,
    /// Entries that a processor would refuse, or that name frames of others.
    pub malformed: u64,
    /// Tables that could not be read.
    pub unreadable: u64,
    /// The range maps more than was allowed to be read: what came is not all.
    pub cut: bool,
}

/// Iterator over [`Run`]s; see the module's text.
pub struct Pages<'m> {
    memory: &'m dyn GuestMemory,
    /// Last-level tables: maps that are neighbours have one.
    cache: &'m Cache,
    mode: Mode,
    /// First and last address of the range, without sign extension.
    first: u64,
    last: u64,
    max_entries: u64,
    stack: Vec<Table>,
    /// Entries of the tables under way as they were read, those of the innermost last.
    entries: Vec<u8>,
    pending: Option<Run>,
    visited: Visited,
}

/// A table under way.
struct Table {
    level: Level,
    /// The address, without sign extension, that the next entry maps.
    at: u64,
    /// Where its first entry and the next one are, among those of all.
    first: usize,
    next: usize,
}

impl<'m> Pages<'m> {
    /// What `root` maps from `start` to `last`, both included. `None` where one of them is not canonical.
    pub(crate) fn new(
        memory: &'m dyn GuestMemory,
        cache: &'m Cache,
        root: Root,
        start: Gva,
        last: Gva,
        max_entries: u64,
    ) -> Option<Self> {
        if !root.mode.is_canonical(start) || !root.mode.is_canonical(last) {
            return None;
        }
        let mask = root.mode.address_mask();
        let mut pages = Pages {
            memory,
            cache,
            mode: root.mode,
            first: start.0 & mask,
            last: last.0 & mask,
            max_entries,
            stack: Vec::with_capacity(5),
            entries: Vec::new(),
            pending: None,
            visited: Visited::default(),
        };
        if pages.first <= pages.last {
            pages.entries.reserve(expected_bytes(pages.first, pages.last));
            let (from, base) = pages.top(root);
            pages.descend(from, base);
        }
        Some(pages)
    }

    /// How much of the tables was seen so far; all of it when the iterator has ended.
    pub fn visited(&self) -> Visited {
        self.visited
    }

    /// The lowest table that is known to map all of the range, and the first address that it maps.
    fn top(&self, root: Root) -> (Level, u64) {
        let mapped = self.mode.entries(1) << self.mode.shift(1);
        let base = self.first & !mapped.wrapping_sub(1);
        let is_in_one = self.last.wrapping_sub(base) < mapped;
        let last = self.cache.last_table(self.mode.extend(self.first)).filter(|_| is_in_one);
        last.map_or((Level::top(root), 0), |last| (last, base))
    }

    /// Reads what the range needs of a table that maps addresses from `base` on.
    fn descend(&mut self, level: Level, base: u64) {
        let shift = self.mode.shift(level.level);
        let top = self.mode.entries(level.level).wrapping_sub(1);
        let from = self.first.saturating_sub(base) >> shift;
        let to = (self.last.saturating_sub(base) >> shift).min(top);
        let left = self.max_entries.saturating_sub(self.visited.entries);
        let wanted = to.saturating_sub(from).saturating_add(1);
        let count = wanted.min(left);
        self.visited.cut |= count < wanted;
        self.visited.entries = self.visited.entries.saturating_add(count);

        let size = self.mode.entry_bytes();
        let bytes = usize::try_from(count).unwrap_or(0).saturating_mul(size);
        let first = self.entries.len();
        self.entries.resize(first.saturating_add(bytes), 0);
        let Some(buf) = self.entries.get_mut(first..).filter(|buf| !buf.is_empty()) else { return };
        let place = level.table.checked_add(from.saturating_mul(size as u64));
        if place.is_none_or(|place| self.memory.read(place, buf).is_err()) {
            self.visited.unreadable = self.visited.unreadable.saturating_add(1);
            self.entries.truncate(first);
            return;
        }
        let at = base | from << shift;
        if level.level == 1 {
            self.cache.keep_last_table(self.mode.extend(at), level);
        }
        self.stack.push(Table { level, at, first, next: first });
    }

    /// The next page or part of one that lies in the range.
    fn next_piece(&mut self) -> Option<Run> {
        loop {
            let table = self.stack.last_mut()?;
            let (here, at) = (table.level, table.at);
            let Some((entry, behind)) = entry(&self.entries, self.mode, table.next) else {
                self.entries.truncate(table.first);
                self.stack.pop();
                continue;
            };
            table.next = behind;
            table.at = at.wrapping_add(1 << self.mode.shift(here.level));
            match step(self.memory, self.mode, here, entry) {
                Ok(Step::Down(next)) => self.descend(next, at),
                Ok(Step::Page { base, bytes, access }) => {
                    let from = at.max(self.first);
                    let to = at.saturating_add(bytes.wrapping_sub(1)).min(self.last);
                    let start = self.mode.extend(from);
                    let gpa = Gpa(base.0.wrapping_add(from.wrapping_sub(at)));
                    let len_bytes = to.wrapping_sub(from).wrapping_add(1);
                    return Some(Run { start, gpa, len_bytes, access });
                }
                Err(TranslateError::NotPresent { .. }) => {}
                Err(_) => self.visited.malformed = self.visited.malformed.saturating_add(1),
            }
        }
    }
}

/// The entry there, and where the one behind it is.
fn entry(entries: &[u8], mode: Mode, at: usize) -> Option<(u64, usize)> {
    let rest = entries.get(at..)?;
    let size = mode.entry_bytes();
    let entry = match size {
        4 => u32::from_le_bytes(*rest.first_chunk()?).into(),
        _ => u64::from_le_bytes(*rest.first_chunk()?),
    };
    Some((entry, at.saturating_add(size)))
}

/// What the entries for a range take that lies in one last-level table, which is a page: one for each page that it touches, and one of
/// each table above.
fn expected_bytes(first: u64, last: u64) -> usize {
    let own = (last.saturating_sub(first) / PAGE_BYTES).saturating_mul(8).min(PAGE_BYTES);
    usize::try_from(own).unwrap_or(0).saturating_add(6 * 8)
}

impl Iterator for Pages<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        loop {
            let piece = self.next_piece();
            match (&mut self.pending, piece) {
                (Some(run), Some(piece)) if run.goes_on_with(&piece) => {
                    run.len_bytes = run.len_bytes.saturating_add(piece.len_bytes);
                }
                (None, None) => return None,
                (None, _) => self.pending = piece,
                (Some(_), _) => return std::mem::replace(&mut self.pending, piece),
            }
        }
    }
}

impl Run {
    /// Whether `next` is its neighbour in both address spaces and allows the same.
    fn goes_on_with(&self, next: &Run) -> bool {
        self.access == next.access
            && self.start.checked_add(self.len_bytes) == Some(next.start)
            && self.gpa.checked_add(self.len_bytes) == Some(next.gpa)
    }
}
