//! Types of all units, each kept once.

use super::Wrong;
use super::print::Prints;
use super::unit::{Local, Unit, VOID};
use crate::types::{Type, TypeId, Types, TypesBuilder};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Most types, members and enumerators kept, of each.
const MAX_KEPT: usize = 16 << 20;
/// Most bytes of names kept.
const MAX_NAME_BYTES: usize = 1 << 30;
/// Longest chain of pointers, arrays and typedefs.
const MAX_CHAIN: usize = 64;

/// What all units so far have told.
pub(super) struct Merged {
    out: TypesBuilder,
    /// Structures and unions by their fingerprint.
    composites: HashMap<u64, TypeId>,
    /// Structures and unions that were declared, by name.
    declared: HashMap<(bool, Vec<u8>), TypeId>,
    /// The first one described of each name.
    described: HashMap<(bool, Vec<u8>), TypeId>,
    integers: HashMap<(u32, bool), TypeId>,
    pointers: HashMap<TypeId, TypeId>,
    arrays: HashMap<(TypeId, u32), TypeId>,
    enumerations: HashSet<u64>,
    void: TypeId,
    kept: usize,
    name_bytes: usize,
}

impl Default for Merged {
    fn default() -> Merged {
        let mut out = TypesBuilder::default();
        let void = out.push(Type::Opaque);
        Merged {
            out,
            composites: HashMap::new(),
            declared: HashMap::new(),
            described: HashMap::new(),
            integers: HashMap::new(),
            pointers: HashMap::new(),
            arrays: HashMap::new(),
            enumerations: HashSet::new(),
            void,
            kept: 0,
            name_bytes: 0,
        }
    }
}

/// What is known of one unit while it is merged.
struct Pass<'u, 'a> {
    unit: &'u Unit<'a>,
    prints: Prints<'u, 'a>,
    /// Numbers in the result of the unit's types.
    ids: Vec<Option<TypeId>>,
    /// Structures that have a number and no members yet.
    open: Vec<(u32, TypeId)>,
}

impl Merged {
    /// Adds what `unit` tells that none before it did: its named structures, what lies in these, and its enumerators.
    pub(super) fn add(&mut self, unit: &Unit<'_>) -> Result<(), Wrong> {
        let ids = vec![None; unit.types.len()];
        let mut pass = Pass { unit, prints: Prints::new(unit), ids, open: Vec::new() };
        for (number, ty) in (0u32..).zip(&unit.types) {
            match ty {
                Local::Composite { name: [_, ..], .. } => {
                    self.id(&mut pass, number, 0)?;
                }
                Local::Enumeration { .. } => self.enumeration(unit, number)?,
                _ => {}
            }
            while let Some((number, id)) = pass.open.pop() {
                self.composite(&mut pass, number, id)?;
            }
        }
        Ok(())
    }

    /// The types in their final form. What was only declared becomes what another unit described.
    pub(super) fn build(mut self) -> Types {
        for (name, id) in &self.declared {
            if let Some(described) = self.described.get(name) {
                self.out.replace(*id, Type::Alias(*described));
            }
        }
        self.out.build()
    }

    /// Number in the result of one of the unit's types.
    fn id(&mut self, pass: &mut Pass<'_, '_>, number: u32, depth: usize) -> Result<TypeId, Wrong> {
        if let Some(Some(id)) = pass.ids.get(number as usize) {
            return Ok(*id);
        }
        if depth > MAX_CHAIN {
            return Err(Wrong::Damaged("a chain of types too long".to_owned()));
        }
        let below = depth.saturating_add(1);
        let id = match *pass.unit.types.get(number as usize).unwrap_or(&Local::Opaque) {
            Local::Opaque => self.void,
            Local::Integer { bytes, signed } | Local::Enumeration { bytes, signed, .. } => {
                self.integer(bytes, signed)
            }
            Local::Alias { target } => self.id(pass, target, below)?,
            Local::Pointer { target } => {
                let target = self.id(pass, target, below)?;
                let out = &mut self.out;
                *self.pointers.entry(target).or_insert_with(|| out.push(Type::Pointer { target }))
            }
            Local::Array { element, count } => {
                let element = self.id(pass, element, below)?;
                let out = &mut self.out;
                *self
                    .arrays
                    .entry((element, count))
                    .or_insert_with(|| out.push(Type::Array { element, count }))
            }
            Local::Declared { name, is_union } => self.declared(name, is_union),
            Local::Composite { name, is_union, .. } => {
                let print = pass.prints.of(number)?;
                match self.composites.get(&print) {
                    Some(id) => *id,
                    None => {
                        let id = self.out.push(Type::Opaque);
                        self.composites.insert(print, id);
                        if !name.is_empty() {
                            self.described.entry((is_union, name.to_vec())).or_insert(id);
                        }
                        pass.open.push((number, id));
                        id
                    }
                }
            }
        };
        if let Some(place) = pass.ids.get_mut(number as usize) {
            *place = Some(id);
        }
        Ok(id)
    }

    fn integer(&mut self, bytes: u32, signed: bool) -> TypeId {
        let out = &mut self.out;
        *self
            .integers
            .entry((bytes, signed))
            .or_insert_with(|| out.push(Type::Integer { bytes, signed, bits: None }))
    }

    fn declared(&mut self, name: &[u8], is_union: bool) -> TypeId {
        let key = (is_union, name.to_vec());
        if let Some(id) = self.described.get(&key).or_else(|| self.declared.get(&key)) {
            return *id;
        }
        let id = self.out.push(Type::Opaque);
        self.declared.insert(key, id);
        id
    }

    /// Writes a structure and its members.
    fn composite(&mut self, pass: &mut Pass<'_, '_>, number: u32, id: TypeId) -> Result<(), Wrong> {
        let unit = pass.unit;
        let Some(Local::Composite { name, bytes, is_union }) = unit.types.get(number as usize) else {
            return Ok(());
        };
        let members = unit.members_of(number);
        self.count(members.len().saturating_add(1))?;
        let name = self.name(name)?;
        let record = self.out.record(name, *bytes, *is_union);
        for member in members {
            if member.bit_offset / 8 > *bytes {
                return Err(Wrong::Damaged(format!("a member lies outside of {name}")));
            }
            let ty = if member.ty == VOID { self.void } else { self.id(pass, member.ty, 0)? };
            let name = self.name(member.name)?;
            self.out.member(name, ty, member.bit_offset, member.bit_size);
        }
        self.out.replace(id, Type::Composite { record });
        Ok(())
    }

    fn enumeration(&mut self, unit: &Unit<'_>, number: u32) -> Result<(), Wrong> {
        let enumerators = unit.enumerators_of(number);
        let mut hash = DefaultHasher::new();
        for enumerator in enumerators {
            (enumerator.name, enumerator.value).hash(&mut hash);
        }
        if self.enumerations.insert(hash.finish()) {
            self.count(enumerators.len())?;
            for enumerator in enumerators {
                let name = self.name(enumerator.name)?;
                self.out.enumerator(name, enumerator.value);
            }
        }
        Ok(())
    }

    fn name<'n>(&mut self, name: &'n [u8]) -> Result<&'n str, Wrong> {
        self.name_bytes = self.name_bytes.saturating_add(name.len());
        if self.name_bytes > MAX_NAME_BYTES {
            return Err(Wrong::TooMany("names"));
        }
        std::str::from_utf8(name).map_err(|_| Wrong::Damaged("a name that is not text".to_owned()))
    }

    fn count(&mut self, more: usize) -> Result<(), Wrong> {
        self.kept = self.kept.saturating_add(more);
        if self.kept > MAX_KEPT { Err(Wrong::TooMany("types and members")) } else { Ok(()) }
    }
}
