//! x86 page tables: from a guest-virtual address and a root to a guest-physical address.
//!
//! Layouts: Intel SDM volume 3A, chapter 4 (32-bit 4.3, PAE 4.4, 4-level and 5-level 4.5).

use crate::{Gpa, GuestMemory, Gva, ReadError};

/// How the guest translates. Read from the guest, never assumed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// 32-bit, two levels, 4 MiB pages.
    Legacy32,
    /// 32-bit PAE, three levels.
    Pae,
    /// 64-bit, four levels, 48-bit addresses.
    FourLevel,
    /// 64-bit, five levels (LA57), 57-bit addresses.
    FiveLevel,
}

/// A page-table root: the table's address (CR3 without its flags) and the mode that reads it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Root {
    /// Guest-physical address of the top table.
    pub table: Gpa,
    /// How to read it.
    pub mode: Mode,
}

/// Where a guest-virtual address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Guest-physical address of the byte asked for.
    pub gpa: Gpa,
    /// Size of the page it lies in, in bytes.
    pub page_bytes: u64,
    /// Writable at every level.
    pub writable: bool,
    /// Reachable from user mode at every level.
    pub user: bool,
    /// Executable at every level.
    pub executable: bool,
}

/// Why an address does not translate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TranslateError {
    /// Not a canonical address in this mode.
    #[error("non-canonical address")]
    NonCanonical,
    /// An entry is not present; `level` 1 is the last one. `entry` is its value: swapped-out pages keep data there.
    #[error("not mapped (level {level})")]
    NotPresent {
        /// Level of the entry, 5 to 1.
        level: u8,
        /// The entry as found.
        entry: u64,
    },
    /// Reserved bits are set, or a page size that the level does not have.
    #[error("malformed page-table entry {entry:#x} at level {level}")]
    Malformed {
        /// Level of the entry, 5 to 1.
        level: u8,
        /// The entry as found.
        entry: u64,
    },
    /// A table lies outside RAM.
    #[error("page table: {0}")]
    Table(#[from] ReadError),
}

/// Walks the tables once, with no cache.
pub fn walk(_memory: &dyn GuestMemory, _root: Root, _at: Gva) -> Result<Translation, TranslateError> {
    todo!()
}
