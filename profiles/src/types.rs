//! Structures, unions, their members, and enumerators.

use crate::ProfileError;

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

/// A compact, immutable table of types.
#[derive(Clone, Debug, Default)]
pub struct Types {}

/// Collects types in any order.
#[derive(Debug, Default)]
pub struct TypesBuilder {}

impl Types {
    /// See [`crate::Profile::field`].
    pub fn field(&self, _ty: &str, _path: &str) -> Result<Field, ProfileError> {
        todo!()
    }
    /// Size of `struct ty` or `union ty` in bytes.
    pub fn size_of(&self, _ty: &str) -> Option<u32> {
        todo!()
    }
    /// Value of an enumerator, such as `PIDTYPE_TGID` or `MAPLE_LEAF_64` (kernel names are unique enough in practice).
    pub fn enumerator(&self, _name: &str) -> Option<i64> {
        todo!()
    }
}
