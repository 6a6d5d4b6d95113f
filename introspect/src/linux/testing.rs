//! A kernel made by hand, for tests of hostile memory: a few structures in 2 MiB of RAM behind real page tables.

use super::{Kernel, Layouts, View};
use crate::backend::fake::Fake;
use crate::paging::{Mode, Root};
use crate::{Gpa, Gva};
use lynceus_profiles::{Field, FieldKind, Profile};
use std::sync::Arc;

/// Where RAM is mapped: the direct map of a 4-level kernel without KASLR.
pub(crate) const BASE: u64 = 0xffff_8880_0000_0000;
const RAM_BYTES: usize = 2 << 20;
/// The page tables lie at the end of RAM, out of the way of every test.
const TABLES: usize = RAM_BYTES - 3 * 4096;

/// RAM under construction. Offsets are from [`BASE`].
pub(crate) struct Bench {
    ram: Vec<u8>,
    kernel: Kernel,
}

/// An unsigned integer member.
pub(crate) const fn number(offset: u32, size: u32) -> Field {
    Field { offset, size, bits: None, kind: FieldKind::Integer { signed: false } }
}

/// A pointer member.
pub(crate) const fn pointer(offset: u32) -> Field {
    Field { offset, size: 8, bits: None, kind: FieldKind::Pointer }
}

/// An embedded structure or array.
pub(crate) const fn composite(offset: u32, size: u32) -> Field {
    Field { offset, size, bits: None, kind: FieldKind::Composite }
}

/// The address of the byte at `offset`.
pub(crate) fn gva(offset: u64) -> Gva {
    Gva(BASE + offset)
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let kernel = Kernel {
            profile: Arc::new(Profile::default()),
            slide: 0,
            text: Gpa(0),
            root: Root { table: Gpa(TABLES as u64), mode: Mode::FourLevel },
            layouts: Layouts::resolve(&Profile::default()),
        };
        let mut bench = Bench { ram: vec![0; RAM_BYTES], kernel };
        let (present, huge) = (0x63, 0xe3);
        let index = |level: u32| (BASE >> (12 + 9 * level) & 511) * 8;
        let tables = TABLES as u64;
        bench.u64(tables + index(3), tables + 0x1000 + present);
        bench.u64(tables + 0x1000 + index(2), tables + 0x2000 + present);
        bench.u64(tables + 0x2000 + index(1), huge);
        bench
    }
    pub(crate) fn layouts(&mut self) -> &mut Layouts {
        &mut self.kernel.layouts
    }
    pub(crate) fn bytes(&mut self, at: u64, bytes: &[u8]) -> &mut Bench {
        let at = at as usize;
        self.ram[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }
    pub(crate) fn u64(&mut self, at: u64, value: u64) -> &mut Bench {
        self.bytes(at, &value.to_le_bytes())
    }
    pub(crate) fn u32(&mut self, at: u64, value: u32) -> &mut Bench {
        self.bytes(at, &value.to_le_bytes())
    }
    /// A pointer to the byte at `to`.
    pub(crate) fn link(&mut self, at: u64, to: u64) -> &mut Bench {
        self.u64(at, BASE + to)
    }
    /// Looks at it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let memory = Fake::flat(self.ram.clone());
        look(&View::new(&memory, &self.kernel))
    }
}
