//! x86 page tables: from a guest-virtual address and a root to a guest-physical address.
//!
//! *Does*: 32-bit, PAE, 4-level and 5-level tables with every page size. Layouts: Intel SDM volume 3A, chapter 4
//! (32-bit 4.3, PAE 4.4, 4-level and 5-level 4.5).
//! *Trusts*: nothing in a table. An entry that a processor would refuse is an error, never an address.
//! *Never*: reads more than one entry a level, so a table that names itself costs no more than another.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod cache;
mod entry;
mod pages;
mod walk;

pub use cache::CacheStats;
pub(crate) use cache::{Cache, Cached, translation};
pub use pages::{MAX_ENTRIES, Pages, Run, Visited};
pub use walk::walk;
pub(crate) use walk::{Level, walk_from};

use crate::{Gpa, ReadError};

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
    /// Guest-physical address of the top table. Bits that CR3 uses for flags are ignored.
    pub table: Gpa,
    /// How to read it.
    pub mode: Mode,
}

/// What the entries on the way allow, all levels together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Writable at every level.
    pub writable: bool,
    /// Reachable from user mode at every level.
    pub user: bool,
    /// Executable at every level.
    pub executable: bool,
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
    /// The entry names a machine frame that is not the guest's (Xen PV only).
    #[error("page-table entry {entry:#x} at level {level} names a foreign frame")]
    Foreign {
        /// Level of the entry, 5 to 1.
        level: u8,
        /// The entry as found.
        entry: u64,
    },
    /// A table lies outside RAM.
    #[error("page table: {0}")]
    Table(#[from] ReadError),
}
