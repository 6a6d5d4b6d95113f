//! Addresses that cannot be mixed up: guest-physical, guest-virtual, guest frame number.
//!
//! None of them has operators. The guest picked the number, so every sum is checked.

use std::fmt;

/// Bytes in the smallest page.
pub const PAGE_BYTES: u64 = 4096;

/// A guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Gpa(pub u64);

/// A guest-virtual address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Gva(pub u64);

/// A guest frame number: a guest-physical address without its lowest 12 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Gfn(pub u64);

/// A run of guest-physical addresses, never wrapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GpaRange {
    /// First address.
    pub start: Gpa,
    /// Length in bytes.
    pub len_bytes: u64,
}

impl Gpa {
    /// `self + bytes`, or `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Gpa> {
        self.0.checked_add(bytes).map(Gpa)
    }
    /// The frame this address lies in.
    pub fn gfn(self) -> Gfn {
        Gfn(self.0 >> 12)
    }
    /// Offset within its 4 KiB page.
    pub fn page_offset(self) -> u64 {
        self.0 & (PAGE_BYTES - 1)
    }
}

impl Gva {
    /// `self + bytes`, or `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Gva> {
        self.0.checked_add(bytes).map(Gva)
    }
    /// `self - bytes`, or `None` below zero: from an embedded list node back to its object.
    pub fn checked_sub(self, bytes: u64) -> Option<Gva> {
        self.0.checked_sub(bytes).map(Gva)
    }
    /// `self + field offset`, wrapping: an address that wraps is non-canonical and fails when it is read.
    #[must_use]
    pub fn field(self, offset: u32) -> Gva {
        Gva(self.0.wrapping_add(u64::from(offset)))
    }
    /// Offset within its 4 KiB page.
    pub fn page_offset(self) -> u64 {
        self.0 & (PAGE_BYTES - 1)
    }
    /// Whether this is the null pointer.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }
    /// Whether this is in the kernel's half of the address space.
    pub fn is_kernel(self) -> bool {
        self.0 >> 63 == 1
    }
}

impl Gfn {
    /// The first address of the frame, or `None` where it does not fit.
    pub fn gpa(self) -> Option<Gpa> {
        self.0.checked_mul(PAGE_BYTES).map(Gpa)
    }
}

impl GpaRange {
    /// First address past the range, saturating.
    pub fn end(self) -> Gpa {
        Gpa(self.start.0.saturating_add(self.len_bytes))
    }
    /// Whether `len_bytes` bytes at `at` lie wholly inside.
    pub fn contains(self, at: Gpa, len_bytes: u64) -> bool {
        at >= self.start && at.0.checked_add(len_bytes).is_some_and(|end| end <= self.end().0)
    }
}

macro_rules! hex_fmt {
    ($($ty:ident),*) => {$(
        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($ty), "({:#x})"), self.0)
            }
        }
    )*};
}
hex_fmt!(Gpa, Gva, Gfn);
