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
use super::fingerprint::{Digester, Fingerprint, WindowKey};
use super::windows::Near;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an entry costs beside its hits: key and value in the table, at its emptiest.
const ENTRY_BYTES: usize = 80;
const WINDOW_BYTES: usize = 96;
/// What a list of matches costs beside them.
const LIST_BYTES: usize = 48;
const HIT_BYTES: usize = 96;
/// Turns after which what nobody asked for makes room.
const MAX_AGE: u32 = 2;

/// What is known of a region's content.
#[derive(Clone, Default, Debug)]
pub(super) struct Known {
    /// What the rules say.
    pub(super) hits: Arc<[Hit]>,
    /// Its SHA-256, where somebody asked for it.
    pub(super) sha256: Option<[u8; 32]>,
}

/// Matches in a window; none where there are none, as in most.
pub(super) type Places = Option<Arc<Vec<Near>>>;

/// Verdicts of earlier scans, shared by all guests that are scanned in this process. In it are digests, no content.
#[derive(Debug)]
pub struct ScanCache {
    digester: Digester,
    limit_bytes: usize,
    /// Frames that the last scan read.
    frames: AtomicUsize,
    tables: Mutex<Tables>,
}

#[derive(Default, Debug)]
struct Tables {
    regions: HashMap<Fingerprint, Entry<Known>>,
    windows: HashMap<WindowKey, Entry<Places>>,
    bytes: usize,
    turn: u32,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    /// When it was last asked for.
    turn: u32,
}

impl ScanCache {
    /// An empty cache that holds at most so much. Its keys come from the host's random numbers.
    pub fn new(limit_bytes: usize) -> io::Result<ScanCache> {
        let (digester, frames, tables) = (Digester::new()?, AtomicUsize::new(0), Mutex::default());
        Ok(ScanCache { digester, limit_bytes, frames, tables })
    }

    /// The same for guests that have so much RAM together: it holds a hundredth of that at most.
    pub fn for_ram(bytes: u64) -> io::Result<ScanCache> {
        ScanCache::new(usize::try_from(bytes / 100).unwrap_or(usize::MAX))
    }

    /// Bytes that it holds, an upper estimate.
    pub fn len_bytes(&self) -> usize {
        self.tables().bytes
    }

    /// All guests were scanned once more: what none of them had for some turns now makes room when room is needed.
    pub fn end_turn(&self) {
        let mut tables = self.tables();
        tables.turn = tables.turn.saturating_add(1);
        if tables.bytes > self.limit_bytes / 2 {
            tables.forget_old();
        }
    }

    /// Whether any verdict is in it.
    pub(super) fn knows_something(&self) -> bool {
        !self.tables().regions.is_empty()
    }

    /// How many frames a scan may be expected to read: a table that grows is filled more than once.
    pub(super) fn frames(&self) -> usize {
        self.frames.load(Ordering::Relaxed)
    }

    pub(super) fn expect_frames(&self, count: usize) {
        self.frames.store(count, Ordering::Relaxed);
    }

    pub(super) fn digester(&self) -> &Digester {
        &self.digester
    }

    pub(super) fn get(&self, key: Fingerprint) -> Option<Known> {
        let mut tables = self.tables();
        let turn = tables.turn;
        let entry = tables.regions.get_mut(&key)?;
        entry.turn = turn;
        Some(entry.value.clone())
    }

    pub(super) fn put(&self, key: Fingerprint, value: Known) {
        let mut tables = self.tables();
        let (bytes, turn) = (cost(&value), tables.turn);
        if tables.bytes.saturating_add(bytes) <= self.limit_bytes {
            tables.bytes = tables.bytes.saturating_add(bytes);
            if let Some(before) = tables.regions.insert(key, Entry { value, turn }) {
                tables.bytes = tables.bytes.saturating_sub(cost(&before.value));
            }
        }
    }

    /// The matches in windows, where they are known.
    pub(super) fn windows(&self, keys: &[WindowKey]) -> Vec<Option<Places>> {
        let mut tables = self.tables();
        let turn = tables.turn;
        let known = |key| {
            let entry = tables.windows.get_mut(key)?;
            entry.turn = turn;
            Some(entry.value.clone())
        };
        keys.iter().map(known).collect()
    }

    pub(super) fn put_windows(&self, windows: Vec<(WindowKey, Places)>) {
        let mut tables = self.tables();
        let turn = tables.turn;
        for (key, value) in windows {
            let bytes = window_cost(&value);
            if tables.bytes.saturating_add(bytes) > self.limit_bytes {
                return;
            }
            tables.bytes = tables.bytes.saturating_add(bytes);
            if let Some(before) = tables.windows.insert(key, Entry { value, turn }) {
                tables.bytes = tables.bytes.saturating_sub(window_cost(&before.value));
            }
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn forget_old(&mut self) {
        let oldest = self.turn.saturating_sub(MAX_AGE);
        self.regions.retain(|_, entry| entry.turn >= oldest);
        self.windows.retain(|_, entry| entry.turn >= oldest);
        let regions = self.regions.values().map(|entry| cost(&entry.value));
        let windows = self.windows.values().map(|entry| window_cost(&entry.value));
        self.bytes = regions.chain(windows).fold(0, usize::saturating_add);
    }
}

fn window_cost(places: &Places) -> usize {
    let list = places.as_ref().map_or(0, |list| LIST_BYTES.saturating_add(size_of_val(list.as_slice())));
    WINDOW_BYTES.saturating_add(list)
}

fn cost(known: &Known) -> usize {
    let of_hit = |hit: &Hit| {
        let names: usize = hit.strings.iter().map(|string| string.name.len().saturating_add(HIT_BYTES)).sum();
        names.saturating_add(HIT_BYTES)
    };
    known.hits.iter().map(of_hit).fold(ENTRY_BYTES, usize::saturating_add)
}
