//! One kernel object copied out once, then taken apart.
//!
//! A walker that needs six members of a structure reads the bytes that cover them in one go: the guest cannot change
//! one member between the others, and a page is translated once instead of six times.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::View;
use crate::{AccessError, Gva};
use lynceus_profiles::{Field, FieldKind};

/// Members further apart than this are read one by one: no kernel structure that we copy whole is larger.
const MAX_SPAN_BYTES: u32 = 4096;

/// The stretch of a structure that covers a set of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Span {
    start: u32,
    len_bytes: u32,
}

/// The bytes of one object under a [`Span`].
pub(crate) struct Record<'v, 'a> {
    view: &'v View<'a>,
    base: Gva,
    start: u32,
    bytes: Vec<u8>,
}

impl Span {
    /// The stretch that covers all of `fields`.
    pub(crate) fn of(fields: &[Field]) -> Span {
        let start = fields.iter().map(|field| field.offset).min().unwrap_or(0);
        let end = fields.iter().map(|field| field.offset.saturating_add(field.size)).max().unwrap_or(0);
        Span { start, len_bytes: end.saturating_sub(start).min(MAX_SPAN_BYTES) }
    }
}

impl<'a> View<'a> {
    /// Copies the part of the object at `base` that `span` covers.
    pub(crate) fn record(&self, base: Gva, span: Span) -> Result<Record<'_, 'a>, AccessError> {
        let mut bytes = vec![0; usize::try_from(span.len_bytes).unwrap_or(0)];
        self.space().read(base.field(span.start), &mut bytes)?;
        Ok(Record { view: self, base, start: span.start, bytes })
    }
}

impl Record<'_, '_> {
    /// Where the object is.
    pub(crate) fn base(&self) -> Gva {
        self.base
    }
    /// The integer or pointer that `field` describes, from the copy; a member outside the span is read now.
    pub(crate) fn integer(&self, field: Field) -> Result<u64, AccessError> {
        match self.slice(field.offset, field.size.min(8)) {
            Some(part) => Ok(decode(part, field)),
            None => self.view.integer(self.base, field),
        }
    }
    /// The pointer that `field` holds.
    pub(crate) fn pointer(&self, field: Field) -> Result<Gva, AccessError> {
        self.integer(field).map(Gva)
    }
    /// The low 32 bits of what `field` holds.
    pub(crate) fn u32(&self, field: Field) -> Result<u32, AccessError> {
        self.integer(field).map(|value| (value & u64::from(u32::MAX)) as u32)
    }
    /// The low 16 bits of what `field` holds.
    pub(crate) fn u16(&self, field: Field) -> Result<u16, AccessError> {
        self.integer(field).map(|value| (value & u64::from(u16::MAX)) as u16)
    }
    /// `N` bytes from where `field` starts.
    pub(crate) fn bytes<const N: usize>(&self, field: Field) -> Result<[u8; N], AccessError> {
        let copied = u32::try_from(N).ok().and_then(|len| self.slice(field.offset, len)?.try_into().ok());
        match copied {
            Some(bytes) => Ok(bytes),
            None => self.view.bytes(self.base.field(field.offset)),
        }
    }
    /// The NUL-terminated text in the character array `field`, U+FFFD for bytes that are not UTF-8.
    pub(crate) fn text(&self, field: Field) -> Result<String, AccessError> {
        match self.slice(field.offset, field.size) {
            Some(part) => {
                let end = memchr::memchr(0, part).unwrap_or(part.len());
                Ok(String::from_utf8_lossy(part.get(..end).unwrap_or(part)).into_owned())
            }
            None => {
                let most = usize::try_from(field.size.min(MAX_SPAN_BYTES)).unwrap_or(0);
                self.view.string(self.base.field(field.offset), most)
            }
        }
    }

    /// The first `len_bytes` bytes of `field`, where they were copied and belong to it.
    pub(crate) fn slice_at(&self, field: Field, len_bytes: usize) -> Option<&[u8]> {
        let len_bytes = u32::try_from(len_bytes).ok().filter(|len| *len <= field.size)?;
        self.slice(field.offset, len_bytes)
    }

    fn slice(&self, offset: u32, len_bytes: u32) -> Option<&[u8]> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(usize::try_from(len_bytes).ok()?)?;
        self.bytes.get(from..to)
    }
}

/// The integer that `field` describes, from the first bytes of its storage: its own width, bits and sign.
pub(crate) fn decode(storage: &[u8], field: Field) -> u64 {
    let mut raw = [0; 8];
    raw.iter_mut().zip(storage).take(8).for_each(|(to, from)| *to = *from);
    let (shift, bits) = match field.bits {
        Some((shift, bits)) => (u32::from(shift), u32::from(bits)),
        None => (0, field.size.min(8).saturating_mul(8)),
    };
    let value = u64::from_le_bytes(raw).checked_shr(shift).unwrap_or(0);
    let unused = 64u32.saturating_sub(bits.clamp(1, 64));
    match field.kind {
        FieldKind::Integer { signed: true } => ((value << unused).cast_signed() >> unused).cast_unsigned(),
        _ => value << unused >> unused,
    }
}
