//! Decompressed blocks, kept up to a number of bytes; the one unused for longest goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that a dump keeps decompressed.
const CAPACITY_BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
pub(crate) struct BlockCache {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    blocks: HashMap<u64, (u64, Arc<[u8]>)>,
    /// Block by time of last use.
    by_use: BTreeMap<u64, u64>,
    clock: u64,
    bytes: usize,
}

impl BlockCache {
    /// The block `key`, made by `load` if it is not kept. Two callers may both load it: no lock is held
    /// meanwhile.
    pub(crate) fn get<E>(&self, key: u64, load: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Arc<[u8]>, E> {
        if let Some(block) = self.lock().touch(key) {
            return Ok(block);
        }
        let block: Arc<[u8]> = load()?.into();
        self.lock().insert(key, Arc::clone(&block));
        Ok(block)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere leaves at worst a block that is never evicted.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn touch(&mut self, key: u64) -> Option<Arc<[u8]>> {
        let (used, block) = self.blocks.get_mut(&key)?;
        self.by_use.remove(used);
        self.clock = self.clock.wrapping_add(1);
        *used = self.clock;
        self.by_use.insert(self.clock, key);
        Some(Arc::clone(block))
    }

    fn insert(&mut self, key: u64, block: Arc<[u8]>) {
        self.clock = self.clock.wrapping_add(1);
        self.bytes = self.bytes.saturating_add(block.len());
        self.by_use.insert(self.clock, key);
        if let Some((used, old)) = self.blocks.insert(key, (self.clock, block)) {
            self.by_use.remove(&used);
            self.bytes = self.bytes.saturating_sub(old.len());
        }
        while self.bytes > CAPACITY_BYTES {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some((_, old)) = self.blocks.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(old.len());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used_and_stays_small() {
        let cache = BlockCache::default();
        let mut loads = 0;
        let mut get = |key: u64| {
            let load = || -> Result<Vec<u8>, ()> {
                loads += 1;
                Ok(vec![key as u8; 1 << 20])
            };
            assert_eq!(cache.get(key, load).unwrap()[7], key as u8);
            loads
        };
        let full = (CAPACITY_BYTES >> 20) as u64;
        for key in 0..full {
            get(key);
        }
        assert_eq!(get(0), full, "kept");
        assert_eq!(get(full), full + 1, "pushes out 1, which is unused for longest");
        assert_eq!(get(0), full + 1);
        assert_eq!(get(1), full + 2);
        let inner = cache.lock();
        assert_eq!((inner.bytes, inner.blocks.len(), inner.by_use.len() as u64), (CAPACITY_BYTES, 8, full));
        drop(inner);
        assert_eq!(cache.get(999, || Err("no")), Err("no"), "a failure is not kept");
        assert!(cache.get::<()>(999, || Ok(vec![1])).is_ok());
    }
}
