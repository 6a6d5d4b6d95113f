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
use super::table::{Table, growth, reserve};
use super::windows::Near;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a verdict of which there is something to say costs beside its hits.
const KNOWN_BYTES: usize = 96;
const HIT_BYTES: usize = 96;
/// Turns after which what nobody asked for makes room.
const MAX_AGE: u16 = 2;

/// What is known of a region's content.
#[derive(Clone, Default, Debug)]
pub(super) struct Known {
    /// What the rules say.
    pub(super) hits: Arc<[Hit]>,
    /// Its SHA-256, where somebody asked for it.
    pub(super) sha256: Option<[u8; 32]>,
}

/// Matches in a window.
pub(super) type Places = Box<[Near]>;

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
    regions: Table<Fingerprint, Entry>,
    /// What the verdicts take of which there is something to say.
    known_bytes: usize,
    windows: Table<WindowKey, Span>,
    /// The matches of all windows.
    places: Vec<Near>,
    /// It comes round again: what is old is forgotten before.
    turn: u16,
}

#[derive(Debug)]
struct Entry {
    /// None where nothing was found and nobody asked for a hash.
    known: Option<Box<Known>>,
    /// When it was last asked for.
    turn: u16,
}

/// Which matches are a window's.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u32,
    count: u16,
    turn: u16,
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
        self.tables().bytes()
    }

    /// All guests were scanned once more: what none of them had for some turns now makes room when room is needed.
    pub fn end_turn(&self) {
        let mut tables = self.tables();
        tables.turn = tables.turn.wrapping_add(1);
        // Nothing may become so old that its turn comes again.
        if tables.bytes() > self.limit_bytes / 2 || tables.turn == 0 {
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
        Some(entry.known.as_deref().cloned().unwrap_or_default())
    }

    pub(super) fn put(&self, key: Fingerprint, value: Known) {
        let mut tables = self.tables();
        let (bytes, turn) = (cost(&value), tables.turn);
        let known = (!value.is_nothing()).then(|| Box::new(value));
        let is_there = tables.regions.get_mut(&key).is_some();
        let more = if is_there { bytes } else { bytes.saturating_add(tables.regions.more_for_one()) };
        if tables.bytes().saturating_add(more) > self.limit_bytes {
            return;
        }
        let Tables { regions, known_bytes, .. } = &mut *tables;
        *known_bytes = known_bytes.saturating_add(bytes);
        let entry = Entry { known, turn };
        match regions.get_mut(&key) {
            Some(there) => {
                let before = std::mem::replace(there, entry).known.map_or(0, |known| cost(&known));
                *known_bytes = known_bytes.saturating_sub(before);
            }
            None => regions.insert(key, entry),
        }
    }

    /// The matches in windows, where they are known.
    pub(super) fn windows(&self, keys: &[WindowKey]) -> Vec<Option<Places>> {
        let mut tables = self.tables();
        let turn = tables.turn;
        let Tables { windows, places, .. } = &mut *tables;
        let known = |key| {
            let span = windows.get_mut(key)?;
            span.turn = turn;
            places.get(span.range()).map(Places::from)
        };
        keys.iter().map(known).collect()
    }

    pub(super) fn put_windows(&self, fresh: Vec<(WindowKey, Places)>) {
        let mut tables = self.tables();
        let turn = tables.turn;
        for (key, value) in fresh {
            let Tables { windows, places, .. } = &mut *tables;
            let (Ok(first), Ok(count)) = (u32::try_from(places.len()), u16::try_from(value.len())) else {
                return;
            };
            // Another thread has searched it as well.
            if windows.get_mut(&key).is_some() {
                continue;
            }
            let more = growth(places, value.len()).saturating_mul(size_of::<Near>());
            let more = more.saturating_add(windows.more_for_one());
            if tables.bytes().saturating_add(more) > self.limit_bytes {
                return;
            }
            let Tables { windows, places, .. } = &mut *tables;
            windows.insert(key, Span { first, count, turn });
            reserve(places, value.len());
            places.extend_from_slice(&value);
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_nothing(&self) -> bool {
        self.hits.is_empty() && self.sha256.is_none()
    }
}

impl Span {
    fn range(&self) -> Range<usize> {
        let first = self.first as usize;
        first..first.saturating_add(self.count.into())
    }
}

impl Tables {
    fn bytes(&self) -> usize {
        let places = self.places.capacity().saturating_mul(size_of::<Near>());
        [self.regions.bytes(), self.known_bytes, self.windows.bytes(), places]
            .into_iter()
            .fold(0, usize::saturating_add)
    }

    fn forget_old(&mut self) {
        let turn = self.turn;
        let is_young = |last: u16| turn.wrapping_sub(last) <= MAX_AGE;
        self.regions.retain(|entry| is_young(entry.turn));
        self.windows.retain(|span| is_young(span.turn));
        let known = self.regions.values_mut().filter_map(|entry| entry.known.as_deref()).map(cost);
        self.known_bytes = known.fold(0, usize::saturating_add);
        let count =
            self.windows.values_mut().map(|span| usize::from(span.count)).fold(0, usize::saturating_add);
        let before = std::mem::replace(&mut self.places, Vec::with_capacity(count));
        for span in self.windows.values_mut() {
            let own = before.get(span.range()).unwrap_or_default();
            // There were no more of them before.
            span.first = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
            self.places.extend_from_slice(own);
        }
    }
}

/// What a verdict takes beside its place in the table.
fn cost(known: &Known) -> usize {
    if known.is_nothing() {
        return 0;
    }
    let of_hit = |hit: &Hit| {
        let names: usize = hit.strings.iter().map(|string| string.name.len().saturating_add(HIT_BYTES)).sum();
        names.saturating_add(HIT_BYTES)
    };
    known.hits.iter().map(of_hit).fold(KNOWN_BYTES, usize::saturating_add)
}
