//! Fingerprints of a unit's types: equal where two units describe the same thing, whatever their numbers.
//!
//! What a pointer leads to counts by its name alone; what lies inside counts in full. So structures that refer to each other
//! end, and one that a unit knows by name only is the same as the full one of another unit.

use super::Wrong;
use super::unit::{Local, Unit};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Deepest nesting of structures and arrays; kernels have some 15.
const MAX_DEPTH: usize = 64;
/// Longest chain of typedefs and qualifiers.
const MAX_CHASE: usize = 64;
const UNKNOWN: u64 = 0;
const IN_WORK: u64 = 1;

/// Fingerprints of one unit's types, made when they are asked for.
pub(super) struct Prints<'u, 'a> {
    unit: &'u Unit<'a>,
    known: Vec<u64>,
}

impl<'u, 'a> Prints<'u, 'a> {
    pub(super) fn new(unit: &'u Unit<'a>) -> Self {
        Prints { unit, known: vec![UNKNOWN; unit.types.len()] }
    }

    /// Fingerprint of a type. One that lies inside itself has none.
    pub(super) fn of(&mut self, number: u32) -> Result<u64, Wrong> {
        self.at(number, 0)
    }

    fn at(&mut self, number: u32, depth: usize) -> Result<u64, Wrong> {
        match self.known.get(number as usize).copied() {
            Some(UNKNOWN) => {}
            Some(IN_WORK) => return Err(Wrong::Damaged("a type lies inside itself".to_owned())),
            Some(print) => return Ok(print),
            None => return Err(Wrong::Damaged("a type's number is out of the unit".to_owned())),
        }
        if depth > MAX_DEPTH {
            return Err(Wrong::Damaged("types nested too deeply".to_owned()));
        }
        self.set(number, IN_WORK);
        let print = self.make(number, depth.saturating_add(1))?.max(IN_WORK.saturating_add(1));
        self.set(number, print);
        Ok(print)
    }

    fn set(&mut self, number: u32, print: u64) {
        if let Some(place) = self.known.get_mut(number as usize) {
            *place = print;
        }
    }

    fn make(&mut self, number: u32, depth: usize) -> Result<u64, Wrong> {
        let unit = self.unit;
        let mut hash = DefaultHasher::new();
        match *unit.types.get(number as usize).unwrap_or(&Local::Opaque) {
            Local::Opaque | Local::Declared { .. } => 0u8.hash(&mut hash),
            Local::Integer { bytes, signed } | Local::Enumeration { bytes, signed, .. } => {
                (1u8, bytes, signed).hash(&mut hash);
            }
            Local::Pointer { target } => (2u8, self.pointee(target)).hash(&mut hash),
            Local::Alias { target } => return self.at(target, depth),
            Local::Array { element, count } => (3u8, count, self.at(element, depth)?).hash(&mut hash),
            Local::Composite { name, bytes, is_union } => {
                (4u8, name, bytes, is_union).hash(&mut hash);
                for member in unit.members_of(number) {
                    (member.bit_offset, member.bit_size, member.name).hash(&mut hash);
                    self.at(member.ty, depth)?.hash(&mut hash);
                }
            }
        }
        Ok(hash.finish())
    }

    /// What a pointer's target counts as.
    fn pointee(&self, mut target: u32) -> (u8, &'a [u8]) {
        for _ in 0..MAX_CHASE {
            match self.unit.types.get(target as usize) {
                Some(Local::Alias { target: next }) => target = *next,
                Some(Local::Composite { name, is_union, .. } | Local::Declared { name, is_union }) => {
                    return (u8::from(*is_union), name);
                }
                Some(Local::Integer { .. } | Local::Enumeration { .. }) => return (2, b""),
                Some(Local::Pointer { .. }) => return (3, b""),
                Some(Local::Array { .. }) => return (4, b""),
                Some(Local::Opaque) | None => break,
            }
        }
        (5, b"")
    }
}
