//! Paths that were built in a look: many files lie in one folder.

use super::PathAt;
use crate::Gva;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// Most text that one look's cache holds.
const MAX_CACHE_BYTES: usize = 8 << 20;
/// What an entry costs beside its text.
const ENTRY_BYTES: usize = 64;

/// Paths already built in this look.
#[derive(Default)]
pub(crate) struct PathCache {
    paths: RefCell<HashMap<PathAt, String>>,
    /// Of folders, within their file systems.
    folders: RefCell<HashMap<Gva, String>>,
    bytes: Cell<usize>,
}

impl PathCache {
    pub(super) fn path(&self, at: PathAt) -> Option<String> {
        self.paths.borrow().get(&at).cloned()
    }

    pub(super) fn keep(&self, at: PathAt, text: &str) {
        if self.has_room(text) {
            self.paths.borrow_mut().insert(at, text.to_owned());
        }
    }

    /// A folder's path within its file system, empty for a root.
    pub(super) fn folder(&self, folder: Gva) -> Option<String> {
        self.folders.borrow().get(&folder).cloned()
    }

    /// Remembers the path of a folder that a file with this path lies in, whose own name takes so many bytes of it.
    pub(super) fn keep_folder(&self, folder: Gva, path: &str, own_bytes: usize) {
        // Where a name is not UTF-8 its length is not what it was.
        let end = path.len().checked_sub(own_bytes).filter(|_| !path.contains(char::REPLACEMENT_CHARACTER));
        let Some(text) = end.and_then(|end| path.get(..end)) else { return };
        if !self.folders.borrow().contains_key(&folder) && self.has_room(text) {
            self.folders.borrow_mut().insert(folder, text.to_owned());
        }
    }

    fn has_room(&self, text: &str) -> bool {
        let bytes = self.bytes.get().saturating_add(text.len()).saturating_add(ENTRY_BYTES);
        let fits = bytes <= MAX_CACHE_BYTES;
        if fits {
            self.bytes.set(bytes);
        }
        fits
    }
}
