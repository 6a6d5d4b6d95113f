//! The types of one compile unit, as it describes them.

use super::{LANG_RUST, Slice, Strings, Wrong};
use gimli::{
    Abbreviation, AttributeValue, DebugStrOffsetsBase, DwAt, DwTag, EntriesRaw, Format, LittleEndian,
    UnitHeader, constants as dw,
};

/// Longest name; BTF's limit is the same.
const MAX_NAME_BYTES: usize = 512;
/// Number of the type that is not there: `void`.
pub(super) const VOID: u32 = 0;

/// A type. Those that are referred to are numbers in the unit's table, once the whole unit is scanned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Local<'a> {
    /// `void`, a function, and what has no size.
    Opaque,
    Integer {
        bytes: u32,
        signed: bool,
    },
    Pointer {
        target: u32,
    },
    /// A typedef or qualifier.
    Alias {
        target: u32,
    },
    Array {
        element: u32,
        count: u32,
    },
    Composite {
        name: &'a [u8],
        bytes: u32,
        is_union: bool,
    },
    /// A structure without its members.
    Declared {
        name: &'a [u8],
        is_union: bool,
    },
    Enumeration {
        bytes: u32,
        signed: bool,
    },
}

/// A member of a structure or union.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalMember<'a> {
    pub(super) owner: u32,
    pub(super) name: &'a [u8],
    pub(super) ty: u32,
    pub(super) bit_offset: u32,
    /// Width of a bit field, 0 for none.
    pub(super) bit_size: u8,
    /// Bytes of the unit that a bit field counts from, where that is known without its type.
    unit_bytes: Option<u32>,
    /// Distance of a bit field from the top of its unit in bits, where that is how it is placed.
    from_top: Option<u32>,
}

/// An enumerator.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalEnumerator<'a> {
    pub(super) owner: u32,
    pub(super) name: &'a [u8],
    pub(super) value: i64,
}

/// A unit's types; the first one is [`VOID`]. Members and enumerators are sorted by owner.
pub(super) struct Unit<'a> {
    pub(super) types: Vec<Local<'a>>,
    pub(super) members: Vec<LocalMember<'a>>,
    pub(super) enumerators: Vec<LocalEnumerator<'a>>,
}

/// What is allocated once for all units.
#[derive(Default)]
pub(super) struct Scratch {
    /// Number of the type at each offset of the unit; 0 for none.
    numbers: Vec<u32>,
}

/// Attributes of one entry.
#[derive(Clone, Copy, Default)]
struct Entry<'a> {
    name: &'a [u8],
    ty: Option<u32>,
    bytes: Option<u64>,
    encoding: u64,
    declared: bool,
    location: Option<u64>,
    data_bit_offset: Option<u64>,
    bit_offset: Option<u64>,
    bit_size: u64,
    count: Option<u64>,
    upper_bound: Option<u64>,
    value: i64,
}

struct Scanner<'s, 'a> {
    strings: &'s Strings<'a>,
    format: Format,
    str_offsets_base: Option<usize>,
    unit: Unit<'a>,
    /// Types whose children are read, by the depth at which they lie.
    owners: Vec<(isize, u32)>,
}

/// Reads a unit's types; `None` for one that has none that count.
pub(super) fn scan<'a>(
    header: &UnitHeader<Slice<'a>>,
    strings: &Strings<'a>,
    scratch: &mut Scratch,
) -> Result<Option<Unit<'a>>, Wrong> {
    let abbreviations = header.abbreviations(&strings.abbrev)?;
    let mut entries = header.entries_raw(&abbreviations, None)?;
    let unit = Unit { types: vec![Local::Opaque], members: Vec::new(), enumerators: Vec::new() };
    let format = header.format();
    let mut scanner = Scanner { strings, format, str_offsets_base: None, unit, owners: Vec::new() };
    scratch.numbers.clear();
    scratch.numbers.resize(header.length_including_self(), 0);
    if !scanner.root(&mut entries)? {
        return Ok(None);
    }
    while !entries.is_empty() {
        let (at, depth) = (entries.next_offset().0, entries.next_depth());
        let Some(abbreviation) = entries.read_abbreviation()? else { continue };
        if let Some(number) = scanner.one(&mut entries, abbreviation, depth)?
            && let Some(place) = scratch.numbers.get_mut(at)
        {
            *place = number;
        }
    }
    scanner.finish(&scratch.numbers).map(Some)
}

impl<'a> Scanner<'_, 'a> {
    /// The unit's own entry; `false` for a language whose types do not count.
    fn root(&mut self, entries: &mut EntriesRaw<'_, Slice<'a>>) -> Result<bool, Wrong> {
        let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(false) };
        let mut language = 0;
        for spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            match (attribute.name(), attribute.value()) {
                (dw::DW_AT_str_offsets_base, AttributeValue::DebugStrOffsetsBase(base)) => {
                    self.str_offsets_base = Some(base.0);
                }
                (dw::DW_AT_language, AttributeValue::Language(found)) => language = u64::from(found.0),
                (dw::DW_AT_dwo_name | dw::DW_AT_GNU_dwo_name, _) => {
                    return Err(Wrong::Unsupported("its types in split files (.dwo)"));
                }
                _ => {}
            }
        }
        Ok(language != LANG_RUST)
    }

    /// One entry; gives the number of the type that it is.
    fn one(
        &mut self,
        entries: &mut EntriesRaw<'_, Slice<'a>>,
        abbreviation: &Abbreviation,
        depth: isize,
    ) -> Result<Option<u32>, Wrong> {
        let tag = abbreviation.tag();
        if !counts(tag) {
            entries.skip_attributes(abbreviation.attributes())?;
            return Ok(None);
        }
        while self.owners.last().is_some_and(|(at, _)| *at >= depth) {
            self.owners.pop();
        }
        let owner =
            self.owners.last().filter(|(at, _)| at.checked_add(1) == Some(depth)).map(|(_, owner)| *owner);
        let mut entry = Entry::default();
        for spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            self.attribute(&mut entry, attribute.name(), attribute.raw_value())?;
        }
        match (tag, owner) {
            (dw::DW_TAG_member, Some(owner)) => self.member(owner, &entry)?,
            (dw::DW_TAG_enumerator, Some(owner)) => self.enumerator(owner, &entry),
            (dw::DW_TAG_subrange_type, Some(owner)) => self.dimension(owner, &entry),
            (dw::DW_TAG_member | dw::DW_TAG_enumerator | dw::DW_TAG_subrange_type, None) => {}
            _ => {
                let number = u32::try_from(self.unit.types.len()).map_err(|_| Wrong::TooMany("types"))?;
                self.unit.types.push(local(tag, &entry)?);
                if abbreviation.has_children() {
                    self.owners.push((depth, number));
                }
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn attribute(
        &self,
        entry: &mut Entry<'a>,
        name: DwAt,
        value: AttributeValue<Slice<'a>>,
    ) -> Result<(), Wrong> {
        match name {
            dw::DW_AT_name => entry.name = self.text(value)?,
            dw::DW_AT_type => entry.ty = Some(reference(value)?),
            dw::DW_AT_byte_size => entry.bytes = number(&value),
            dw::DW_AT_encoding => entry.encoding = number(&value).unwrap_or(0),
            dw::DW_AT_declaration => entry.declared = !matches!(value, AttributeValue::Flag(false)),
            dw::DW_AT_data_member_location => entry.location = Some(location(&value)?),
            dw::DW_AT_data_bit_offset => entry.data_bit_offset = number(&value),
            dw::DW_AT_bit_offset => entry.bit_offset = number(&value),
            dw::DW_AT_bit_size => entry.bit_size = number(&value).unwrap_or(0),
            dw::DW_AT_count => entry.count = number(&value),
            dw::DW_AT_upper_bound => entry.upper_bound = number(&value),
            dw::DW_AT_const_value => entry.value = number(&value).unwrap_or(0).cast_signed(),
            _ => {}
        }
        Ok(())
    }

    fn text(&self, value: AttributeValue<Slice<'a>>) -> Result<&'a [u8], Wrong> {
        let outside = || Wrong::Damaged("a name outside the strings".to_owned());
        let until_zero = |bytes: &'a [u8]| {
            let name = memchr::memchr(0, bytes).and_then(|end| bytes.get(..end)).ok_or_else(outside)?;
            let long = || Wrong::Damaged("a name of more than 512 bytes".to_owned());
            if name.len() > MAX_NAME_BYTES { Err(long()) } else { Ok(name) }
        };
        let at = match value {
            AttributeValue::String(text) if text.slice().len() <= MAX_NAME_BYTES => return Ok(text.slice()),
            AttributeValue::DebugLineStrRef(at) => {
                return until_zero(self.strings.line_str.get(at.0..).ok_or_else(outside)?);
            }
            AttributeValue::DebugStrRef(at) => at,
            AttributeValue::DebugStrOffsetsIndex(index) => {
                let base = self.str_offsets_base.ok_or_else(outside)?;
                self.strings.str_offsets.get_str_offset(self.format, DebugStrOffsetsBase(base), index)?
            }
            _ => return Err(Wrong::Damaged("a name that is no string".to_owned())),
        };
        until_zero(self.strings.str.get(at.0..).ok_or_else(outside)?)
    }

    fn member(&mut self, owner: u32, entry: &Entry<'a>) -> Result<(), Wrong> {
        let absurd = || Wrong::Damaged("a member's place is absurd".to_owned());
        let start = entry.location.unwrap_or(0).checked_mul(8).ok_or_else(absurd)?;
        let bits = start.checked_add(entry.data_bit_offset.unwrap_or(0)).ok_or_else(absurd)?;
        let from_top = entry.bit_offset.filter(|_| entry.data_bit_offset.is_none());
        let member = LocalMember {
            owner,
            name: entry.name,
            ty: entry.ty.unwrap_or(VOID),
            bit_offset: u32::try_from(bits).map_err(|_| absurd())?,
            bit_size: u8::try_from(entry.bit_size).ok().filter(|width| *width <= 128).ok_or_else(absurd)?,
            unit_bytes: entry.bytes.and_then(|bytes| u32::try_from(bytes).ok()),
            from_top: from_top.map(u32::try_from).transpose().map_err(|_| absurd())?,
        };
        self.unit.members.push(member);
        Ok(())
    }

    fn enumerator(&mut self, owner: u32, entry: &Entry<'a>) {
        self.unit.enumerators.push(LocalEnumerator { owner, name: entry.name, value: entry.value });
        if entry.value < 0
            && let Some(Local::Enumeration { signed, .. }) = self.unit.types.get_mut(owner as usize)
        {
            *signed = true;
        }
    }

    /// Dimensions multiply, as they do in BTF. One without a bound is a flexible array's.
    fn dimension(&mut self, owner: u32, entry: &Entry<'a>) {
        let bound = |bound: u64| bound.checked_add(1).filter(|_| bound != 0xffff_ffff).unwrap_or(0);
        let own = entry.count.or(entry.upper_bound.map(bound)).unwrap_or(0);
        if let Some(Local::Array { count, .. }) = self.unit.types.get_mut(owner as usize) {
            *count = count.saturating_mul(u32::try_from(own).unwrap_or(u32::MAX));
        }
    }

    /// Turns offsets into numbers.
    fn finish(mut self, numbers: &[u32]) -> Result<Unit<'a>, Wrong> {
        let dangling = || Wrong::Damaged("it refers to a type that is none".to_owned());
        let number = |offset: &mut u32| {
            if *offset != VOID {
                *offset =
                    *numbers.get(*offset as usize).filter(|number| **number > 0).ok_or_else(dangling)?;
            }
            Ok::<(), Wrong>(())
        };
        for ty in &mut self.unit.types {
            match ty {
                Local::Pointer { target } | Local::Alias { target } => number(target)?,
                Local::Array { element, .. } => number(element)?,
                _ => {}
            }
        }
        for member in &mut self.unit.members {
            number(&mut member.ty)?;
        }
        for at in 0..self.unit.members.len() {
            let Some(member) = self.unit.members.get(at).copied() else { continue };
            let Some(from_top) = member.from_top else { continue };
            let bit_offset = self.unit.bits_from_bottom(&member, from_top)?;
            if let Some(member) = self.unit.members.get_mut(at) {
                member.bit_offset = bit_offset;
            }
        }
        // Structures that lie inside of others come between these' members.
        self.unit.members.sort_by_key(|member| member.owner);
        self.unit.enumerators.sort_by_key(|enumerator| enumerator.owner);
        Ok(self.unit)
    }
}

impl<'a> Unit<'a> {
    /// Place of a bit field that was counted from the top of its unit, as on a big-endian machine (DWARF 4, 5.5.6).
    fn bits_from_bottom(&self, member: &LocalMember<'a>, from_top: u32) -> Result<u32, Wrong> {
        let absurd = || Wrong::Damaged("a bit field's place is absurd".to_owned());
        let mut ty = member.ty;
        let mut bytes = member.unit_bytes;
        for _ in 0..16 {
            match self.types.get(ty as usize) {
                Some(Local::Alias { target }) => ty = *target,
                Some(Local::Integer { bytes: own, .. } | Local::Enumeration { bytes: own, .. }) => {
                    bytes = bytes.or(Some(*own));
                    break;
                }
                _ => break,
            }
        }
        let inside = |bytes: u32| {
            let end = member.bit_offset.checked_add(bytes.checked_mul(8)?)?;
            end.checked_sub(from_top)?.checked_sub(member.bit_size.into())
        };
        bytes.and_then(inside).ok_or_else(absurd)
    }

    /// Members of the structure with that number.
    pub(super) fn members_of(&self, owner: u32) -> &[LocalMember<'a>] {
        let from = self.members.partition_point(|member| member.owner < owner);
        let rest = self.members.get(from..).unwrap_or_default();
        rest.get(..rest.partition_point(|member| member.owner == owner)).unwrap_or_default()
    }

    /// Enumerators of the enumeration with that number.
    pub(super) fn enumerators_of(&self, owner: u32) -> &[LocalEnumerator<'a>] {
        let from = self.enumerators.partition_point(|enumerator| enumerator.owner < owner);
        let rest = self.enumerators.get(from..).unwrap_or_default();
        rest.get(..rest.partition_point(|enumerator| enumerator.owner == owner)).unwrap_or_default()
    }
}

/// Whether entries of that kind are read.
fn counts(tag: DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_base_type
            | dw::DW_TAG_pointer_type
            | dw::DW_TAG_structure_type
            | dw::DW_TAG_class_type
            | dw::DW_TAG_union_type
            | dw::DW_TAG_enumeration_type
            | dw::DW_TAG_array_type
            | dw::DW_TAG_typedef
            | dw::DW_TAG_const_type
            | dw::DW_TAG_volatile_type
            | dw::DW_TAG_restrict_type
            | dw::DW_TAG_atomic_type
            | dw::DW_TAG_subroutine_type
            | dw::DW_TAG_unspecified_type
            | dw::DW_TAG_member
            | dw::DW_TAG_enumerator
            | dw::DW_TAG_subrange_type
    )
}

/// The type that an entry describes; its references are offsets still.
fn local<'a>(tag: DwTag, entry: &Entry<'a>) -> Result<Local<'a>, Wrong> {
    let absurd = |_| Wrong::Damaged("a type of more than 4 GiB".to_owned());
    let bytes = u32::try_from(entry.bytes.unwrap_or(0)).map_err(absurd)?;
    let ty = entry.ty.unwrap_or(VOID);
    let (name, is_union) = (entry.name, tag == dw::DW_TAG_union_type);
    Ok(match tag {
        // BTF takes floating-point numbers for signed ones as well.
        dw::DW_TAG_base_type if bytes <= 16 => {
            let is = |encoding: gimli::DwAte| entry.encoding == u64::from(encoding.0);
            let signed = is(dw::DW_ATE_signed) || is(dw::DW_ATE_signed_char) || is(dw::DW_ATE_float);
            Local::Integer { bytes, signed }
        }
        dw::DW_TAG_pointer_type => Local::Pointer { target: ty },
        dw::DW_TAG_array_type => Local::Array { element: ty, count: 1 },
        dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type if entry.declared => {
            Local::Declared { name, is_union }
        }
        dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type => {
            Local::Composite { name, bytes, is_union }
        }
        // Whether it is signed shows in its values.
        dw::DW_TAG_enumeration_type => Local::Enumeration { bytes, signed: false },
        dw::DW_TAG_typedef
        | dw::DW_TAG_const_type
        | dw::DW_TAG_volatile_type
        | dw::DW_TAG_restrict_type
        | dw::DW_TAG_atomic_type => Local::Alias { target: ty },
        _ => Local::Opaque,
    })
}

fn reference(value: AttributeValue<Slice<'_>>) -> Result<u32, Wrong> {
    match value {
        AttributeValue::UnitRef(at) => {
            u32::try_from(at.0).map_err(|_| Wrong::Damaged("a reference out of the unit".to_owned()))
        }
        AttributeValue::DebugInfoRef(_) => Err(Wrong::Unsupported("references to other units (LTO, dwz)")),
        AttributeValue::DebugTypesRef(_) => Err(Wrong::Unsupported("references to type units")),
        _ => Err(Wrong::Damaged("a reference that is none".to_owned())),
    }
}

/// A constant. Fixed-size forms are unsigned: a negative number has a signed form.
fn number(value: &AttributeValue<Slice<'_>>) -> Option<u64> {
    match value {
        AttributeValue::Data1(value) => Some((*value).into()),
        AttributeValue::Data2(value) => Some((*value).into()),
        AttributeValue::Data4(value) => Some((*value).into()),
        AttributeValue::Data8(value) | AttributeValue::Udata(value) => Some(*value),
        AttributeValue::Sdata(value) => Some(value.cast_unsigned()),
        _ => None,
    }
}

/// Where a member lies, in bytes: a number, or the expression that adds it (which is what older compilers write).
fn location(value: &AttributeValue<Slice<'_>>) -> Result<u64, Wrong> {
    let unknown = || Wrong::Damaged("a member's place is not a constant".to_owned());
    let code = match value {
        AttributeValue::Exprloc(expression) => expression.0,
        AttributeValue::Block(code) => *code,
        other => return number(other).ok_or_else(unknown),
    };
    match code.slice().split_first() {
        Some((opcode, number)) if *opcode == dw::DW_OP_plus_uconst.0 => {
            Ok(gimli::Reader::read_uleb128(&mut Slice::new(number, LittleEndian))?)
        }
        _ => Err(unknown()),
    }
}
