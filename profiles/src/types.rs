//! Structures, unions, their members, and enumerators, in flat arrays.
//!
//! A kernel has some ten thousand structures and a hundred thousand members: one heap object each would cost more
//! than all the rest of an attach. Names lie in one arena; structures and enumerators are sorted by name.
//!
//! *Trusts*: nothing. Type references may dangle or run in circles; every chase is bounded.

use crate::ProfileError;

/// Longest chain of typedefs, qualifiers and arrays followed.
const MAX_CHASE: usize = 64;
/// Most members met in search of one: no structure of a kernel has a tenth of it, those inside it included.
const MAX_MEMBERS_MET: usize = 1 << 16;

/// What a member holds; enough to read it without guessing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    /// An integer, enumeration or boolean.
    Integer {
        /// Whether it is sign-extended.
        signed: bool,
    },
    /// A pointer.
    Pointer,
    /// An embedded structure or union.
    Composite,
    /// An array; `count` 0 is a flexible one.
    Array {
        /// Number of elements.
        count: u32,
        /// Size of one element in bytes.
        element_bytes: u32,
    },
    /// Anything else.
    Other,
}

/// Where a member sits and what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Offset from the start of the outermost structure, in bytes.
    pub offset: u32,
    /// Size in bytes (of the storage unit for a bit field).
    pub size: u32,
    /// First bit within the byte at `offset` and the width, for a bit field.
    pub bits: Option<(u8, u8)>,
    /// What it holds.
    pub kind: FieldKind,
}

/// A type's number in one table. 0 is `void`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct TypeId(pub u32);

/// A type, as sources describe it to the [`TypesBuilder`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// An integer, boolean or character.
    Integer {
        /// Size in bytes.
        bytes: u32,
        /// Whether it is sign-extended.
        signed: bool,
        /// First bit and width, where the integer is itself a bit field (BTF without `kind_flag`).
        bits: Option<(u8, u8)>,
    },
    /// A pointer, 8 bytes.
    Pointer {
        /// What it points to.
        target: TypeId,
    },
    /// An array.
    Array {
        /// Element type.
        element: TypeId,
        /// Number of elements.
        count: u32,
    },
    /// A structure or union: index of its record.
    Composite {
        /// Which record.
        record: u32,
    },
    /// A typedef or qualifier.
    Alias(TypeId),
    /// A function, forward declaration or anything without a size.
    Opaque,
}

impl Type {
    /// What a pointer, array or typedef is of.
    fn inner(&self) -> Option<TypeId> {
        match self {
            Type::Pointer { target: inner } | Type::Array { element: inner, .. } | Type::Alias(inner) => {
                Some(*inner)
            }
            _ => None,
        }
    }

    fn inner_mut(&mut self) -> Option<&mut TypeId> {
        match self {
            Type::Pointer { target: inner } | Type::Array { element: inner, .. } | Type::Alias(inner) => {
                Some(inner)
            }
            _ => None,
        }
    }
}

/// A member, as sources describe it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    pub(crate) name: Span,
    pub(crate) ty: TypeId,
    pub(crate) bit_offset: u32,
    /// Width of a bit field, 0 for none.
    pub(crate) bit_size: u8,
}

/// A structure or union.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) name: Span,
    pub(crate) bytes: u32,
    pub(crate) members_start: u32,
    pub(crate) members_len: u32,
    pub(crate) is_union: bool,
}

/// A piece of the name arena. Empty for anonymous things.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) len: u16,
}

/// A compact, immutable table of types.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Types {
    pub(crate) names: String,
    pub(crate) types: Vec<Type>,
    pub(crate) records: Vec<Record>,
    pub(crate) members: Vec<Member>,
    /// Named records, sorted by name; of those that share a name, the one with the most members first.
    pub(crate) by_name: Vec<u32>,
    /// Enumerators, sorted by name.
    pub(crate) enumerators: Vec<(Span, i64)>,
}

impl Types {
    /// See [`crate::Profile::field`].
    pub fn field(&self, ty: &str, path: &str) -> Result<Field, ProfileError> {
        let mut record = self.record(ty).ok_or_else(|| ProfileError::NoType(ty.to_owned()))?;
        let missing = || ProfileError::NoField { ty: ty.to_owned(), path: path.to_owned() };
        let mut base_bits = 0u64;
        let mut found = None;
        for (step, name) in path.split('.').enumerate() {
            if step > 0 {
                let (_, member) = found.ok_or_else(missing)?;
                record = self.record_of(member).ok_or_else(missing)?;
            }
            let (bits, member) = self.member(record, name).ok_or_else(missing)?;
            base_bits = base_bits.saturating_add(bits);
            found = Some((bits, member));
        }
        let (_, member) = found.ok_or_else(missing)?;
        self.describe(base_bits, member).ok_or_else(missing)
    }

    /// Size of `struct ty` or `union ty` in bytes.
    pub fn size_of(&self, ty: &str) -> Option<u32> {
        self.record(ty).map(|record| record.bytes)
    }

    /// Value of an enumerator, such as `PIDTYPE_TGID`.
    pub fn enumerator(&self, name: &str) -> Option<i64> {
        let at = self.enumerators.binary_search_by(|(span, _)| self.text(*span).cmp(name)).ok()?;
        self.enumerators.get(at).map(|(_, value)| *value)
    }

    /// Number of types.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Names of all structures and unions, sorted.
    pub fn record_names(&self) -> impl Iterator<Item = &str> {
        self.by_name
            .iter()
            .filter_map(|index| self.records.get(*index as usize))
            .map(|record| self.text(record.name))
    }

    /// The members of `struct ty` as they are declared, anonymous ones with an empty name.
    pub fn members_of(&self, ty: &str) -> Option<Vec<(&str, Field)>> {
        let members = self.members_in(self.record(ty)?);
        Some(
            members
                .iter()
                .filter_map(|m| Some((self.text(m.name), self.describe(m.bit_offset.into(), m)?)))
                .collect(),
        )
    }

    pub(crate) fn text(&self, span: Span) -> &str {
        let start = span.start as usize;
        start.checked_add(span.len.into()).and_then(|end| self.names.get(start..end)).unwrap_or("")
    }

    /// Name of the record with that number; empty for an anonymous one.
    pub(crate) fn name_of(&self, index: u32) -> &str {
        self.records.get(index as usize).map_or("", |record| self.text(record.name))
    }

    pub(crate) fn record(&self, name: &str) -> Option<&Record> {
        let named = |index: &u32| self.name_of(*index);
        let at = self.by_name.partition_point(|index| named(index) < name);
        let index = self.by_name.get(at).filter(|index| named(index) == name)?;
        self.records.get(*index as usize)
    }

    pub(crate) fn members_in(&self, record: &Record) -> &[Member] {
        let start = record.members_start as usize;
        let end = start.saturating_add(record.members_len as usize);
        self.members.get(start..end).unwrap_or(&[])
    }

    /// The member called `name`, also inside anonymous members, with its offset in bits from `record`'s start.
    /// The member `name` of `record` or of an anonymous structure in it, and its offset in bits.
    fn member<'t>(&'t self, record: &'t Record, name: &str) -> Option<(u64, &'t Member)> {
        self.named_members(record).find(|(_, member)| self.text(member.name) == name)
    }

    /// All members that have a name, those of anonymous structures at their place among them, with their offsets in bits.
    ///
    /// Anonymous structures may contain each other where a table lies: it ends after [`MAX_MEMBERS_MET`].
    pub(crate) fn named_members<'t>(
        &'t self,
        record: &'t Record,
    ) -> impl Iterator<Item = (u64, &'t Member)> + 't {
        let mut open = vec![(0u64, self.members_in(record).iter())];
        let mut met = 0usize;
        std::iter::from_fn(move || {
            loop {
                let (base, members) = open.last_mut()?;
                let base = *base;
                let Some(member) = members.next() else {
                    open.pop();
                    continue;
                };
                met = met.saturating_add(1);
                if met > MAX_MEMBERS_MET {
                    return None;
                }
                let bits = base.saturating_add(member.bit_offset.into());
                if member.name.len > 0 {
                    return Some((bits, member));
                }
                if let Some(inner) = self.record_of(member) {
                    open.push((bits, self.members_in(inner).iter()));
                }
            }
        })
    }

    fn record_of(&self, member: &Member) -> Option<&Record> {
        match self.resolve(member.ty)? {
            Type::Composite { record } => self.records.get(record as usize),
            _ => None,
        }
    }

    /// `id` without typedefs and qualifiers.
    pub(crate) fn resolve(&self, mut id: TypeId) -> Option<Type> {
        for _ in 0..MAX_CHASE {
            match *self.types.get(id.0 as usize)? {
                Type::Alias(next) => id = next,
                other => return Some(other),
            }
        }
        None
    }

    /// Size of a type in bytes; `None` for a size that overflows, or a chain without an end.
    pub(crate) fn bytes_of(&self, mut id: TypeId) -> Option<u32> {
        let mut factor = 1u32;
        for _ in 0..MAX_CHASE {
            let own = match self.resolve(id)? {
                Type::Array { element, count } => {
                    factor = factor.checked_mul(count)?;
                    id = element;
                    continue;
                }
                Type::Integer { bytes, .. } => bytes,
                Type::Pointer { .. } => 8,
                Type::Composite { record } => self.records.get(record as usize)?.bytes,
                Type::Alias(_) | Type::Opaque => 0,
            };
            return factor.checked_mul(own);
        }
        None
    }

    pub(crate) fn describe(&self, bit_offset: u64, member: &Member) -> Option<Field> {
        let ty = self.resolve(member.ty)?;
        let size = self.bytes_of(member.ty)?;
        let kind = match ty {
            Type::Integer { signed, .. } => FieldKind::Integer { signed },
            Type::Pointer { .. } => FieldKind::Pointer,
            Type::Composite { .. } => FieldKind::Composite,
            Type::Array { element, count } => {
                FieldKind::Array { count, element_bytes: self.bytes_of(element)? }
            }
            Type::Alias(_) | Type::Opaque => FieldKind::Other,
        };
        let inner = match ty {
            Type::Integer { bits: Some((first, width)), bytes, .. }
                if u32::from(width) < bytes.saturating_mul(8) =>
            {
                Some((first, width))
            }
            _ => None,
        };
        let (first_bit, width) = match (member.bit_size, inner) {
            (0, None) => return Some(Field { offset: byte(bit_offset)?, size, bits: None, kind }),
            (0, Some((first, width))) => (bit_offset.checked_add(first.into())?, width),
            (width, _) => (bit_offset, width),
        };
        let bits = Some(((first_bit % 8) as u8, width));
        Some(Field {
            offset: byte(first_bit)?,
            size: (first_bit % 8).checked_add(width.into())?.div_ceil(8) as u32,
            bits,
            kind,
        })
    }
}

fn byte(bits: u64) -> Option<u32> {
    u32::try_from(bits / 8).ok()
}

/// Collects types in any order.
#[derive(Debug, Default)]
pub struct TypesBuilder {
    types: Types,
}

impl TypesBuilder {
    /// Adds one type and returns its number. The first one added gets 0, which is `void`: add [`Type::Opaque`].
    pub fn push(&mut self, ty: Type) -> TypeId {
        let id = TypeId(self.types.types.len() as u32);
        self.types.types.push(ty);
        id
    }

    /// Puts another type in the place of one that was added: for a number that has to be known before what it stands for.
    pub(crate) fn replace(&mut self, id: TypeId, ty: Type) {
        if let Some(place) = self.types.types.get_mut(id.0 as usize) {
            *place = ty;
        }
    }

    /// Opens a structure or union; the members that follow are its own. An empty name is anonymous.
    pub fn record(&mut self, name: &str, bytes: u32, is_union: bool) -> u32 {
        let name = self.name(name);
        let members_start = self.types.members.len() as u32;
        self.types.records.push(Record { name, bytes, members_start, members_len: 0, is_union });
        (self.types.records.len() as u32).saturating_sub(1)
    }

    /// Adds a member to the structure opened last. `bit_size` 0 is no bit field.
    pub fn member(&mut self, name: &str, ty: TypeId, bit_offset: u32, bit_size: u8) {
        let name = self.name(name);
        if let Some(record) = self.types.records.last_mut() {
            record.members_len = record.members_len.saturating_add(1);
            self.types.members.push(Member { name, ty, bit_offset, bit_size });
        }
    }

    /// Adds an enumerator.
    pub fn enumerator(&mut self, name: &str, value: i64) {
        let name = self.name(name);
        self.types.enumerators.push((name, value));
    }

    /// Whether a type or member refers to a type that was not added.
    pub(crate) fn dangling(&self) -> Option<TypeId> {
        let there = |id: &TypeId| (id.0 as usize) < self.types.types.len();
        let members = self.types.members.iter().map(|member| member.ty);
        self.types.types.iter().filter_map(Type::inner).chain(members).find(|id| !there(id))
    }

    /// Keeps of the types only those that a member is made of: most are functions, which no member holds.
    fn compact(&mut self) {
        const UNSEEN: u32 = u32::MAX;
        let old = std::mem::take(&mut self.types.types);
        let mut numbers = vec![UNSEEN; old.len()];
        let mut kept = vec![Type::Opaque];
        for member in &mut self.types.members {
            let (mut from, to) = (member.ty, TypeId(kept.len() as u32));
            member.ty = to;
            // Along the chain of pointers and arrays, up to what is known already.
            loop {
                let Some((ty, number)) = old.get(from.0 as usize).zip(numbers.get_mut(from.0 as usize))
                else {
                    break kept.push(Type::Opaque);
                };
                if *number != UNSEEN {
                    let known = TypeId(*number);
                    // The last link, or the member itself, leads there.
                    match kept.get_mut(to.0 as usize..).and_then(<[Type]>::last_mut).and_then(Type::inner_mut)
                    {
                        Some(inner) => *inner = known,
                        None => member.ty = known,
                    }
                    break;
                }
                if *ty == Type::Opaque {
                    *number = 0;
                    continue;
                }
                *number = kept.len() as u32;
                kept.push(*ty);
                let Some(next) = ty.inner() else { break };
                if let Some(inner) = kept.last_mut().and_then(Type::inner_mut) {
                    *inner = TypeId(number.saturating_add(1));
                }
                from = next;
            }
        }
        self.types.types = kept;
    }

    /// Sorts and freezes the table.
    pub fn build(mut self) -> Types {
        self.compact();
        let mut types = self.types;
        let mut by_name: Vec<u32> = (0..types.records.len() as u32).collect();
        let record = |index: &u32| types.records.get(*index as usize).copied();
        by_name.retain(|index| record(index).is_some_and(|record| record.name.len > 0));
        by_name.sort_by_cached_key(|index| {
            let (name, members) = record(index).map_or(("", 0), |r| (types.text(r.name), r.members_len));
            (name.to_owned(), u32::MAX.saturating_sub(members))
        });
        types.by_name = by_name;
        let mut enumerators = std::mem::take(&mut types.enumerators);
        enumerators.sort_by(|(a, _), (b, _)| types.text(*a).cmp(types.text(*b)));
        types.enumerators = enumerators;
        types
    }

    fn name(&mut self, name: &str) -> Span {
        let start = self.types.names.len() as u32;
        let len = u16::try_from(name.len()).unwrap_or(0);
        if len > 0 {
            self.types.names.push_str(name);
        }
        Span { start, len }
    }
}
