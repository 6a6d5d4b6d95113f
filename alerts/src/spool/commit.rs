//! Group commit: who comes while the disk is busy is written together with the others, by one of them.
//!
//! *Does*: numbers records in the order in which they come, and returns when they are on disk.
//! *Never*: lets one wait for a timer: the first to come writes at once.

use super::{Shared, SpoolError, record};
use std::mem;
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};

/// Records that go to the disk together.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    first: u64,
    records: u64,
    outcome: Arc<OnceLock<Result<(), SpoolError>>>,
}

/// What waits for the disk.
pub(super) struct Queue {
    /// The next free sequence.
    pub(super) next: u64,
    pending: Batch,
    writing: bool,
}

impl Queue {
    pub(super) fn new(next: u64) -> Queue {
        Queue { next, pending: Batch::default(), writing: false }
    }
}

/// Records that were numbered and are not on disk yet.
#[must_use = "the records may not be on disk"]
pub struct Ticket(Arc<OnceLock<Result<(), SpoolError>>>);

impl Shared {
    /// Numbers `payloads`. What may not be stored any more, because the spool would be larger than it may, is refused as a whole.
    pub(super) fn enqueue(&self, payloads: &[Vec<u8>], reserved: bool) -> Result<Ticket, SpoolError> {
        let needed: u64 = payloads.iter().map(|payload| (payload.len() + record::HEADER_BYTES) as u64).sum();
        if payloads.iter().any(|payload| payload.len() > record::MAX_PAYLOAD_BYTES) {
            return Err(SpoolError::TooLong { limit_bytes: record::MAX_PAYLOAD_BYTES });
        }
        let mut queue = lock(&self.queue);
        let used = self.used_bytes() + queue.pending.bytes.len() as u64;
        let limit = if reserved { self.limit_bytes } else { self.limit_bytes - self.reserve_bytes };
        if used + needed > limit && !self.make_room(queue.pending.bytes.len() as u64 + needed, limit) {
            return Err(SpoolError::Full { limit_bytes: self.limit_bytes });
        }
        if queue.pending.records == 0 {
            queue.pending.first = queue.next;
        }
        for payload in payloads {
            let sequence = queue.next;
            record::write(sequence, payload, &mut queue.pending.bytes);
            queue.next += 1;
            queue.pending.records += 1;
        }
        Ok(Ticket(queue.pending.outcome.clone()))
    }
    /// Returns when the records are on disk, or could not be brought there.
    pub(super) fn wait(&self, ticket: Ticket) -> Result<(), SpoolError> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(outcome) = ticket.0.get() {
                return outcome.clone();
            }
            if queue.writing {
                queue = self.written.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let batch = mem::take(&mut queue.pending);
            queue.writing = true;
            drop(queue);
            let outcome = self.write(&batch);
            queue = lock(&self.queue);
            queue.writing = false;
            batch.outcome.get_or_init(|| outcome);
            self.written.notify_all();
        }
    }
    fn write(&self, batch: &Batch) -> Result<(), SpoolError> {
        if batch.records == 0 {
            return Ok(());
        }
        let mut writer = lock(&self.writer);
        let outcome = writer.append(&batch.bytes, batch.first, self.segment_bytes);
        let mut tail = lock(&self.tail);
        tail.segments.insert(writer.first, writer.end);
        tail.active = writer.first;
        if outcome.is_ok() {
            tail.last = batch.first + batch.records - 1;
            tail.records += batch.records;
            self.grown.notify_all();
            return outcome;
        }
        drop((tail, writer));
        // The disk may be full of what everybody has.
        self.reclaim().and(outcome)
    }
}

/// A lock whose data is whole at every moment: a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
