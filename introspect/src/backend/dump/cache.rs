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
    /// The block `key`, made by `load` if it is not kept. Two callers may both load it: no lock is held meanwhile.
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
