//! An address space: guest memory seen through a page-table root.

use crate::paging::{Root, TranslateError, Translation};
use crate::{GuestMemory, Gva, ReadError};

/// Guest memory seen through a page-table root, with a translation cache of its own.
///
/// Lives for one look: a running guest may change its tables between two.
pub struct AddressSpace<'m> {
    memory: &'m dyn GuestMemory,
    root: Root,
}

/// Why a virtual address could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AccessError {
    /// It does not translate.
    #[error("{at}: {why}")]
    Translate {
        /// The address.
        at: Gva,
        /// Why not.
        why: TranslateError,
    },
    /// It translates to something that is not RAM.
    #[error("{at}: {why}")]
    Memory {
        /// The address.
        at: Gva,
        /// Why not.
        why: ReadError,
    },
}

impl<'m> AddressSpace<'m> {
    /// `memory` seen through `root`.
    pub fn new(memory: &'m dyn GuestMemory, root: Root) -> Self {
        AddressSpace { memory, root }
    }
    /// The root it uses.
    pub fn root(&self) -> Root {
        self.root
    }
    /// The memory below.
    pub fn memory(&self) -> &'m dyn GuestMemory {
        self.memory
    }
    /// Where `at` leads.
    pub fn translate(&self, _at: Gva) -> Result<Translation, AccessError> {
        todo!()
    }
    /// Fills `buf` from `at`, across pages. All of it or an error.
    pub fn read(&self, _at: Gva, _buf: &mut [u8]) -> Result<(), AccessError> {
        todo!()
    }
}
