//! The walk: one entry a level, from the root or from a table that a cache remembers.

use super::entry::{self, Entry, Fault};
use super::{Access, Mode, Root, TranslateError, Translation};
use crate::{Gfn, Gpa, GuestMemory, Gva};

/// A place on the way down: a table, and what the entries above it allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Level {
    /// Guest-physical address of the table.
    pub(crate) table: Gpa,
    /// 5 to 1.
    pub(crate) level: u8,
    /// What the entries that led here allow.
    pub(crate) access: Access,
}

impl Level {
    /// Where a walk starts.
    pub(crate) fn top(root: Root) -> Level {
        Level {
            table: Gpa(root.table.0 & root.mode.root_mask()),
            level: root.mode.levels(),
            access: Access::ALL,
        }
    }
}

/// What an entry leads to.
pub(super) enum Step {
    Down(Level),
    Page { base: Gpa, bytes: u64, access: Access },
}

/// Walks the tables once, with no cache.
pub fn walk(memory: &dyn GuestMemory, root: Root, at: Gva) -> Result<Translation, TranslateError> {
    walk_from(memory, root.mode, Level::top(root), at).map(|(translation, _)| translation)
}

/// Walks down from `from`. Returns the table that held the last entry as well.
pub(crate) fn walk_from(
    memory: &dyn GuestMemory,
    mode: Mode,
    from: Level,
    at: Gva,
) -> Result<(Translation, Level), TranslateError> {
    if !mode.is_canonical(at) {
        return Err(TranslateError::NonCanonical);
    }
    let mut here = from;
    // Every step goes one level down: five at most, whatever the tables say.
    loop {
        let entry = read_entry(memory, mode, here, at)?;
        match step(memory, mode, here, entry)? {
            Step::Down(next) => here = next,
            Step::Page { base, bytes, access: Access { writable, user, executable } } => {
                let offset = at.0 & bytes.wrapping_sub(1);
                let gpa =
                    base.checked_add(offset).ok_or(TranslateError::Malformed { level: here.level, entry })?;
                return Ok((Translation { gpa, page_bytes: bytes, writable, user, executable }, here));
            }
        }
    }
}

/// The entry for `at` in the table `here`.
fn read_entry(memory: &dyn GuestMemory, mode: Mode, here: Level, at: Gva) -> Result<u64, TranslateError> {
    let index = (at.0 >> mode.shift(here.level)) & mode.entries(here.level).wrapping_sub(1);
    let bytes = mode.entry_bytes();
    // The table's address has at most 52 bits: no overflow.
    let place = Gpa(here.table.0.wrapping_add(index.wrapping_mul(bytes as u64)));
    let mut buf = [0; 8];
    memory.read(place, buf.get_mut(..bytes).unwrap_or_default())?;
    Ok(u64::from_le_bytes(buf))
}

/// Follows `entry` of the table `here`.
pub(super) fn step(
    memory: &dyn GuestMemory,
    mode: Mode,
    here: Level,
    entry: u64,
) -> Result<Step, TranslateError> {
    let level = here.level;
    let decoded = entry::decode(mode, level, entry).map_err(|fault| match fault {
        Fault::NotPresent => TranslateError::NotPresent { level, entry },
        Fault::Malformed => TranslateError::Malformed { level, entry },
    })?;
    let access = here.access.and(entry::access(mode, level, entry));
    // A large page is named by its first frame; Xen PV, where frames are not in order, has no large pages.
    let place = |address: u64| {
        let frame = memory.frame_of_entry(address >> 12);
        frame.and_then(Gfn::gpa).ok_or(TranslateError::Foreign { level, entry })
    };
    Ok(match decoded {
        Entry::Table(address) => {
            Step::Down(Level { table: place(address)?, level: level.saturating_sub(1), access })
        }
        Entry::Page { base, bytes } => Step::Page { base: place(base)?, bytes, access },
    })
}
