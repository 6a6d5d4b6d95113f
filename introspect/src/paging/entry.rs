//! What one page-table entry says, by mode and level.
//!
//! Reserved bits are checked for a processor with 52 physical address bits, the most that the architecture has:
//! a smaller one would refuse more, so an entry refused here is refused everywhere.

use super::{Access, Mode};
use crate::Gva;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// "Page size" above level 1; the PAT bit at level 1.
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Physical address bits 51 to 12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A present, well-formed entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// Names the next table, by its physical address.
    Table(u64),
    /// Names a page: physical address and size in bytes.
    Page { base: u64, bytes: u64 },
}

/// Why an entry leads nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    NotPresent,
    Malformed,
}

impl Mode {
    /// Levels of tables, the last one being level 1.
    pub fn levels(self) -> u8 {
        match self {
            Mode::Legacy32 => 2,
            Mode::Pae => 3,
            Mode::FourLevel => 4,
            Mode::FiveLevel => 5,
        }
    }

    /// Whether `at` is an address that this mode can have.
    pub fn is_canonical(self, at: Gva) -> bool {
        self.extend(at.0 & self.address_mask()) == at
    }

    /// The address bits that the tables translate.
    pub(super) fn address_mask(self) -> u64 {
        match self {
            Mode::Legacy32 | Mode::Pae => u32::MAX as u64,
            Mode::FourLevel => bits(0, 47),
            Mode::FiveLevel => bits(0, 56),
        }
    }

    /// The canonical address whose translated bits are `at`.
    pub(super) fn extend(self, at: u64) -> Gva {
        let unused = match self {
            Mode::Legacy32 | Mode::Pae => 0,
            Mode::FourLevel => 16,
            Mode::FiveLevel => 7,
        };
        Gva((at.cast_signed() << unused >> unused).cast_unsigned())
    }

    /// Bytes in an entry.
    pub(super) fn entry_bytes(self) -> usize {
        if self == Mode::Legacy32 { 4 } else { 8 }
    }

    /// Entries in a table of `level`.
    pub(super) fn entries(self, level: u8) -> u64 {
        match self {
            Mode::Legacy32 => 1024,
            Mode::Pae if level == 3 => 4,
            _ => 512,
        }
    }

    /// Lowest virtual address bit that an index into a table of `level` takes.
    pub(super) fn shift(self, level: u8) -> u32 {
        let index_bits = if self == Mode::Legacy32 { 10 } else { 9 };
        12u32.saturating_add(u32::from(level.clamp(1, 5)).saturating_sub(1).saturating_mul(index_bits))
    }

    /// The bits of CR3 that address the top table.
    pub(super) fn root_mask(self) -> u64 {
        match self {
            Mode::Legacy32 => 0xffff_f000,
            Mode::Pae => 0xffff_ffe0,
            Mode::FourLevel | Mode::FiveLevel => ADDRESS,
        }
    }
}

/// Takes `entry` of a table of `level` apart.
pub(super) fn decode(mode: Mode, level: u8, entry: u64) -> Result<Entry, Fault> {
    if entry & PRESENT == 0 {
        return Err(Fault::NotPresent);
    }
    let (found, reserved) = match (mode, level) {
        (_, 1) => (page(entry & ADDRESS, 12), pae_high(mode)),
        (Mode::Legacy32, _) if entry & LARGE != 0 => {
            // PSE-36: address bits 39 to 32 lie in bits 20 to 13.
            (page(entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32, 22), 1 << 21)
        }
        // No rights and hence no XD at the top of PAE, and no 1 GiB pages.
        (Mode::Pae, 3) => (Entry::Table(entry & ADDRESS), bits(1, 2) | bits(5, 8) | bits(52, 63)),
        (_, 2) if entry & LARGE != 0 => {
            (page(entry & ADDRESS & !bits(12, 20), 21), bits(13, 20) | pae_high(mode))
        }
        (_, 3) if entry & LARGE != 0 => (page(entry & ADDRESS & !bits(12, 29), 30), bits(13, 29)),
        (Mode::Legacy32, _) => (Entry::Table(entry & ADDRESS), 0),
        _ => (Entry::Table(entry & ADDRESS), LARGE | pae_high(mode)),
    };
    if entry & reserved == 0 { Ok(found) } else { Err(Fault::Malformed) }
}

/// What `entry` of a table of `level` allows.
pub(super) fn access(mode: Mode, level: u8, entry: u64) -> Access {
    if mode == Mode::Pae && level == 3 {
        return Access::ALL;
    }
    Access { writable: entry & WRITABLE != 0, user: entry & USER != 0, executable: entry & NO_EXECUTE == 0 }
}

impl Access {
    /// Everything: what the walk starts with.
    pub(crate) const ALL: Access = Access { writable: true, user: true, executable: true };

    /// What both allow.
    pub(super) fn and(self, other: Access) -> Access {
        Access {
            writable: self.writable && other.writable,
            user: self.user && other.user,
            executable: self.executable && other.executable,
        }
    }
}

fn page(base: u64, shift: u32) -> Entry {
    Entry::Page { base, bytes: 1 << shift }
}

/// PAE reserves what 64-bit paging leaves to the kernel.
fn pae_high(mode: Mode) -> u64 {
    if mode == Mode::Pae { bits(52, 62) } else { 0 }
}

/// Bits `low` to `high`, both included.
const fn bits(low: u32, high: u32) -> u64 {
    (u64::MAX >> 63u32.saturating_sub(high)) & (u64::MAX << low)
}
