//! An address space: guest memory seen through a page-table root.

use crate::paging::{self, Cache, CacheStats, Cached, Level, Pages, Root, TranslateError, Translation};
use crate::{Gpa, GuestMemory, Gva, ReadError};

/// Guest memory seen through a page-table root, with a translation cache of its own.
///
/// Lives for one look: a running guest may change its tables between two.
pub struct AddressSpace<'m> {
    memory: &'m dyn GuestMemory,
    root: Root,
    cache: Cache,
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
        AddressSpace { memory, root, cache: Cache::new() }
    }
    /// The root it uses.
    pub fn root(&self) -> Root {
        self.root
    }
    /// The memory below.
    pub fn memory(&self) -> &'m dyn GuestMemory {
        self.memory
    }
    /// How well the translation cache did so far.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Where `at` leads.
    pub fn translate(&self, at: Gva) -> Result<Translation, AccessError> {
        match self.cache.find(at) {
            Cached::Page { gpa, value, .. } => Ok(paging::translation(gpa, value)),
            Cached::Table(table) => self.walk(at, table),
            Cached::Nothing => self.walk(at, Level::top(self.root)),
        }
    }

    /// Fills `buf` from `at`, across pages. All of it or an error.
    #[inline]
    pub fn read(&self, at: Gva, buf: &mut [u8]) -> Result<(), AccessError> {
        if let Cached::Page { gpa, room, .. } = self.cache.find(at)
            && room >= buf.len() as u64
        {
            return self.memory.read(gpa, buf).map_err(|why| AccessError::Memory { at, why });
        }
        self.read_across(at, buf)
    }

    /// What is mapped from `start` to `last`, both included, reading no more than `max_entries` entries
    /// ([`paging::MAX_ENTRIES`] where the caller knows no better).
    pub fn pages(&self, start: Gva, last: Gva, max_entries: u64) -> Result<Pages<'_>, AccessError> {
        let refused = AccessError::Translate { at: start, why: TranslateError::NonCanonical };
        Pages::new(self.memory, &self.cache, self.root, start, last, max_entries).ok_or(refused)
    }

    /// The general case of [`AddressSpace::read`].
    #[cold]
    fn read_across(&self, at: Gva, buf: &mut [u8]) -> Result<(), AccessError> {
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let (gpa, room) = self.place(at)?;
            let take = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            self.memory.read(gpa, now).map_err(|why| AccessError::Memory { at, why })?;
            rest = later;
            if !rest.is_empty() {
                let past_the_end = AccessError::Translate { at, why: TranslateError::NonCanonical };
                at = at.checked_add(take as u64).ok_or(past_the_end)?;
            }
        }
        Ok(())
    }

    /// Where `at` leads, and how many bytes from there are one page.
    fn place(&self, at: Gva) -> Result<(Gpa, u64), AccessError> {
        let found = self.translate(at)?;
        let offset = at.0 & found.page_bytes.wrapping_sub(1);
        Ok((found.gpa, found.page_bytes.wrapping_sub(offset)))
    }

    fn walk(&self, at: Gva, from: Level) -> Result<Translation, AccessError> {
        let (found, last) = paging::walk_from(self.memory, self.root.mode, from, at)
            .map_err(|why| AccessError::Translate { at, why })?;
        self.cache.keep(at, &found, last);
        Ok(found)
    }
}
