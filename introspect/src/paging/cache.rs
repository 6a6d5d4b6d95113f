//! A software translation cache: two small direct-mapped tables, for one address space during one look.
//!
//! *Does*: remembers 4 KiB pages in one table, and in the other, by 2 MiB of virtual addresses, either a large page or
//! the last-level table that maps them: a miss among small pages then costs one entry, not five, and a range ([`super::Pages`]) one table.
//! *Trusts*: that the tables may be taken as still during a look; whoever looks at a running guest validates what was
//! read (see [`crate::observe`]), the entries among it.
//! *Never*: locks, allocates, or remembers that something is not mapped.

use super::{Access, Level, Translation};
use crate::{Gpa, Gva};
use std::cell::Cell;

const SMALL_SLOTS: usize = 64;
const LARGE_SLOTS: usize = 64;
const SMALL_SHIFT: u32 = 12;
const LARGE_SHIFT: u32 = 21;

const WRITABLE: u64 = 1;
const USER: u64 = 1 << 1;
const EXECUTABLE: u64 = 1 << 2;
/// The slot holds a last-level table, not a page.
const TABLE: u64 = 1 << 3;
/// Bits 9 to 4 hold the base-2 logarithm of the page's size.
const SIZE_SHIFT: u32 = 4;
const FRAME: u64 = !0xfff;

/// How often translations were found in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CacheStats {
    /// Found: no table was read.
    pub hits: u64,
    /// One entry was read, from a last-level table that was found.
    pub table_hits: u64,
    /// Walked from the root.
    pub misses: u64,
}

/// `tag` is the virtual page number plus one, so that zero means empty.
#[derive(Clone, Copy, Default)]
struct Slot {
    tag: u64,
    value: u64,
}

/// Outcome of a look-up.
pub(crate) enum Cached {
    /// The byte's address, and how many bytes from it on the same slot serves.
    Page {
        gpa: Gpa,
        room: u64,
        value: u64,
    },
    /// The last-level table to go on from.
    Table(Level),
    Nothing,
}

/// See the module's text.
pub(crate) struct Cache {
    small: [Cell<Slot>; SMALL_SLOTS],
    large: [Cell<Slot>; LARGE_SLOTS],
    hits: Cell<u64>,
    table_hits: Cell<u64>,
    misses: Cell<u64>,
}

impl Cache {
    pub(crate) fn new() -> Cache {
        Cache {
            small: [const { Cell::new(Slot { tag: 0, value: 0 }) }; SMALL_SLOTS],
            large: [const { Cell::new(Slot { tag: 0, value: 0 }) }; LARGE_SLOTS],
            hits: Cell::new(0),
            table_hits: Cell::new(0),
            misses: Cell::new(0),
        }
    }

    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats { hits: self.hits.get(), table_hits: self.table_hits.get(), misses: self.misses.get() }
    }

    #[inline]
    pub(crate) fn find(&self, at: Gva) -> Cached {
        let large = slot(&self.large, at, LARGE_SHIFT).get();
        let large_found = large.tag == tag(at, LARGE_SHIFT);
        if large_found && large.value & TABLE == 0 {
            return self.hit(at, large.value, LARGE_SHIFT);
        }
        let small = slot(&self.small, at, SMALL_SHIFT).get();
        if small.tag == tag(at, SMALL_SHIFT) {
            return self.hit(at, small.value, SMALL_SHIFT);
        }
        if large_found {
            bump(&self.table_hits);
            return Cached::Table(last_table(large.value));
        }
        bump(&self.misses);
        Cached::Nothing
    }

    #[inline]
    fn hit(&self, at: Gva, value: u64, shift: u32) -> Cached {
        bump(&self.hits);
        let size = 1u64 << shift;
        let offset = at.0 & (size.wrapping_sub(1));
        // `keep` took only frames that leave room for the offset.
        Cached::Page {
            gpa: Gpa((value & FRAME).wrapping_add(offset)),
            room: size.wrapping_sub(offset),
            value,
        }
    }

    /// The last-level table that maps `at`, where it is remembered.
    pub(crate) fn last_table(&self, at: Gva) -> Option<Level> {
        let large = slot(&self.large, at, LARGE_SHIFT).get();
        (large.tag == tag(at, LARGE_SHIFT) && large.value & TABLE != 0).then(|| last_table(large.value))
    }

    /// Remembers the last-level table that maps `at`.
    pub(crate) fn keep_last_table(&self, at: Gva, last: Level) {
        keep_in(&self.large, at, LARGE_SHIFT, last.table.0 & FRAME | flags(last.access) | TABLE);
    }

    /// Remembers that `at` led to `found`, whose last entry lay in `last`.
    pub(crate) fn keep(&self, at: Gva, found: &Translation, last: Level) {
        let size = u64::from(found.page_bytes.trailing_zeros()) << SIZE_SHIFT;
        let rights = Access { writable: found.writable, user: found.user, executable: found.executable };
        let (slots, shift) = if found.page_bytes >> LARGE_SHIFT == 0 {
            self.keep_last_table(at, last);
            (&self.small, SMALL_SHIFT)
        } else {
            (&self.large, LARGE_SHIFT)
        };
        let offset = at.0 & ((1u64 << shift).wrapping_sub(1));
        keep_in(slots, at, shift, found.gpa.0.wrapping_sub(offset) & FRAME | size | flags(rights));
    }
}

/// The translation that a cached value stands for.
pub(crate) fn translation(gpa: Gpa, value: u64) -> Translation {
    let Access { writable, user, executable } = access(value);
    let page_bytes = 1u64.checked_shl((value >> SIZE_SHIFT & 0x3f) as u32).unwrap_or(0);
    Translation { gpa, page_bytes, writable, user, executable }
}

/// The table that a cached value stands for.
fn last_table(value: u64) -> Level {
    Level { table: Gpa(value & FRAME), level: 1, access: access(value) }
}

fn access(value: u64) -> Access {
    Access { writable: value & WRITABLE != 0, user: value & USER != 0, executable: value & EXECUTABLE != 0 }
}

fn flags(access: Access) -> u64 {
    let bit = |allowed: bool, flag: u64| if allowed { flag } else { 0 };
    bit(access.writable, WRITABLE) | bit(access.user, USER) | bit(access.executable, EXECUTABLE)
}

#[inline]
fn tag(at: Gva, shift: u32) -> u64 {
    (at.0 >> shift).wrapping_add(1)
}

#[inline]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // The remainder is below N.
fn slot<const N: usize>(slots: &[Cell<Slot>; N], at: Gva, shift: u32) -> &Cell<Slot> {
    &slots[(at.0 >> shift) as usize % N]
}

fn keep_in<const N: usize>(slots: &[Cell<Slot>; N], at: Gva, shift: u32, value: u64) {
    slot(slots, at, shift).set(Slot { tag: tag(at, shift), value });
}

#[inline]
fn bump(counter: &Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}
