//! Verdicts of content that was scanned before: in an earlier look, in another process, in another guest.
//!
//! *Does*: keeps what an engine said of a region, by a keyed digest of its bytes, its layout and the rules.
//! *Trusts*: nothing of a guest. A verdict is stored under the digest of the very bytes that were scanned, which no guest can
//! make equal to that of other bytes, so none can have its content taken for another's.
//! *Never*: keeps a guest's bytes, or a verdict that was cut short. Grows beyond its limit.
//!
//! What it cannot hide is time: content that was seen before is scanned faster. Who can measure how long a look at their guest
//! takes learns that some guest on this host has, or had, that page-cache file: see ARCHITECTURE.md.

use super::engine::Hit;
use super::fingerprint::{Digester, Fingerprint};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// What an entry costs beside its hits: key and value in the table, at its emptiest.
const ENTRY_BYTES: usize = 128;
const HIT_BYTES: usize = 96;

/// What is known of a region's content.
#[derive(Clone, Default, Debug)]
pub(super) struct Known {
    /// What the rules say.
    pub(super) hits: Arc<[Hit]>,
    /// Its SHA-256, where somebody asked for it.
    pub(super) sha256: Option<[u8; 32]>,
}

/// Verdicts of earlier scans, shared by all guests that are scanned in this process. In it are digests, no content.
#[derive(Debug)]
pub struct ScanCache {
    digester: Digester,
    limit_bytes: usize,
    generations: Mutex<Generations>,
}

/// Two halves: what is used moves to the younger one, and when that is full the older one is forgotten.
#[derive(Default, Debug)]
struct Generations {
    young: HashMap<Fingerprint, Known>,
    young_bytes: usize,
    old: HashMap<Fingerprint, Known>,
    old_bytes: usize,
}

impl ScanCache {
    /// An empty cache that holds at most so much. Its keys come from the host's random numbers.
    pub fn new(limit_bytes: usize) -> io::Result<ScanCache> {
        Ok(ScanCache { digester: Digester::new()?, limit_bytes, generations: Mutex::default() })
    }

    /// Bytes that it holds, an upper estimate.
    pub fn len_bytes(&self) -> usize {
        let known = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        known.young_bytes.saturating_add(known.old_bytes)
    }

    pub(super) fn digester(&self) -> &Digester {
        &self.digester
    }

    pub(super) fn get(&self, key: Fingerprint) -> Option<Known> {
        let mut known = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.young.get(&key) {
            return Some(found.clone());
        }
        let found = known.old.remove(&key)?;
        known.old_bytes = known.old_bytes.saturating_sub(cost(&found));
        known.keep(key, found.clone(), self.limit_bytes / 2);
        Some(found)
    }

    pub(super) fn put(&self, key: Fingerprint, value: Known) {
        let mut known = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        known.keep(key, value, self.limit_bytes / 2);
    }
}

impl Generations {
    fn keep(&mut self, key: Fingerprint, value: Known, limit: usize) {
        let bytes = cost(&value);
        if bytes > limit {
            return;
        }
        if self.young_bytes.saturating_add(bytes) > limit {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
        self.young_bytes = self.young_bytes.saturating_add(bytes);
        if let Some(before) = self.young.insert(key, value) {
            self.young_bytes = self.young_bytes.saturating_sub(cost(&before));
        }
    }
}

fn cost(known: &Known) -> usize {
    let of_hit = |hit: &Hit| {
        let names: usize = hit.strings.iter().map(|string| string.name.len().saturating_add(HIT_BYTES)).sum();
        names.saturating_add(HIT_BYTES)
    };
    known.hits.iter().map(of_hit).fold(ENTRY_BYTES, usize::saturating_add)
}
