//! The log of one look: what it read, and from where.

use crate::memory::Stability;
use crate::{Gfn, Gpa, GpaRange, GuestMemory, ReadError};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

const RECENT_SLOTS: usize = 128;
const CHUNK_BYTES: usize = 4096;
/// Larger buffers are not kept for the thread's next look.
const KEPT_BYTES: usize = 4 << 20;

/// Where the bytes and the ranges of a look are written down.
type Buffers = (Vec<u8>, Vec<Range>);

thread_local! {
    /// Those of this thread's last look, empty: a scan looks dozens of times, and each would have them grow anew.
    static LAST: Cell<Buffers> = const { Cell::new((Vec::new(), Vec::new())) };
}

/// Guest memory that writes down every byte range it reads, with the bytes.
pub(super) struct Recorder<'m> {
    memory: &'m dyn GuestMemory,
    max_bytes: usize,
    log: RefCell<Log>,
}

/// A range that was read; its bytes lie in the arena behind those of the ranges before it.
#[derive(Clone, Copy)]
struct Range {
    at: Gpa,
    len_bytes: usize,
}

/// Where the arena holds the bytes of a read.
#[derive(Clone, Copy, Default)]
struct Recent {
    try_number: u32,
    at: u64,
    from: usize,
    len_bytes: usize,
}

struct Log {
    arena: Vec<u8>,
    ranges: Vec<Range>,
    recent: [Recent; RECENT_SLOTS],
    try_number: u32,
    deadline: Option<Instant>,
    /// Why reads are refused for the rest of the try.
    exhausted: Option<&'static str>,
}

impl<'m> Recorder<'m> {
    pub(super) fn new(memory: &'m dyn GuestMemory, max_bytes: usize) -> Self {
        let (mut arena, mut ranges) = LAST.take();
        arena.reserve(max_bytes.min(32 << 10));
        ranges.reserve(1 << 10);
        let log = Log {
            arena,
            ranges,
            recent: [Recent::default(); RECENT_SLOTS],
            try_number: 0,
            deadline: None,
            exhausted: None,
        };
        Recorder { memory, max_bytes, log: RefCell::new(log) }
    }

    /// Forgets what was read, keeping the buffers. Reads after `deadline` are refused.
    pub(super) fn restart(&self, deadline: Option<Instant>) {
        let mut log = self.log.borrow_mut();
        log.arena.clear();
        log.ranges.clear();
        log.try_number = log.try_number.wrapping_add(1);
        log.deadline = deadline;
        log.exhausted = None;
    }

    /// Bytes and ranges read since the restart.
    pub(super) fn size(&self) -> (u64, u64) {
        let log = self.log.borrow();
        (log.arena.len() as u64, log.ranges.len() as u64)
    }

    /// Whether reads were refused since the restart.
    pub(super) fn is_exhausted(&self) -> bool {
        self.log.borrow().exhausted.is_some()
    }

    /// Whether all that was read is there still, byte for byte. A range that cannot be read any more is not.
    pub(super) fn still_holds(&self) -> bool {
        // No re-read may be taken before the last read: the instant between them is what the answer is about.
        fence(Ordering::SeqCst);
        let log = self.log.borrow();
        let mut rest = log.arena.as_slice();
        let mut buf = [0; CHUNK_BYTES];
        log.ranges.iter().all(|range| {
            let Some((bytes, later)) = rest.split_at_checked(range.len_bytes) else { return false };
            rest = later;
            holds(self.memory, range.at, bytes, &mut buf)
        })
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        let Log { arena, ranges, .. } = self.log.get_mut();
        let ranges_bytes = ranges.capacity().saturating_mul(size_of::<Range>());
        if arena.capacity().saturating_add(ranges_bytes) <= KEPT_BYTES {
            arena.clear();
            ranges.clear();
            LAST.set((std::mem::take(arena), std::mem::take(ranges)));
        }
    }
}

/// Whether `bytes` are at `at` now.
fn holds(memory: &dyn GuestMemory, at: Gpa, bytes: &[u8], buf: &mut [u8; CHUNK_BYTES]) -> bool {
    let mut at = Some(at);
    bytes.chunks(CHUNK_BYTES).all(|expected| {
        let (Some(here), Some(now)) = (at, buf.get_mut(..expected.len())) else { return false };
        at = here.checked_add(expected.len() as u64);
        memory.read(here, now).is_ok() && now == expected
    })
}

impl GuestMemory for Recorder<'_> {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let log = &mut *self.log.borrow_mut();
        log.check(at)?;
        if let Some(bytes) = log.recent(at, buf.len()) {
            buf.copy_from_slice(bytes);
            return Ok(());
        }
        log.make_room(at, buf.len(), self.max_bytes)?;
        // Straight from the guest into the caller's buffer, and from there into the log: the guest is read once.
        self.memory.read(at, buf)?;
        log.push(at, buf);
        Ok(())
    }

    fn ram(&self) -> &[GpaRange] {
        self.memory.ram()
    }

    fn frame_of_entry(&self, entry_frame: u64) -> Option<Gfn> {
        self.memory.frame_of_entry(entry_frame)
    }

    fn stability(&self) -> Stability {
        self.memory.stability()
    }
}

impl Log {
    /// The bytes of an earlier read of just this range.
    #[inline]
    fn recent(&self, at: Gpa, len_bytes: usize) -> Option<&[u8]> {
        let recent = self.recent.get(slot(at))?;
        if recent.at != at.0 || recent.len_bytes != len_bytes || recent.try_number != self.try_number {
            return None;
        }
        self.arena.get(recent.from..)?.get(..len_bytes)
    }

    /// Whether reads are still answered. Once refused, they are for the rest of the try, so that the look ends.
    #[inline]
    fn check(&mut self, at: Gpa) -> Result<(), ReadError> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.exhausted = Some("the look has paused the guest for as long as it may");
        }
        self.exhausted.map_or(Ok(()), |why| Err(ReadError::Exhausted { at, why }))
    }

    /// Whether the log has room for `len_bytes` more.
    #[inline]
    fn make_room(&mut self, at: Gpa, len_bytes: usize, max_bytes: usize) -> Result<(), ReadError> {
        // A range costs memory beyond its bytes: many tiny reads are bounded as well.
        let kept = self.ranges.len().saturating_mul(size_of::<Range>()).saturating_add(self.arena.len());
        if kept.saturating_add(len_bytes) > max_bytes {
            self.exhausted = Some("the look has read as much as it may");
        }
        self.exhausted.map_or(Ok(()), |why| Err(ReadError::Exhausted { at, why }))
    }

    #[inline]
    fn push(&mut self, at: Gpa, bytes: &[u8]) {
        let from = self.arena.len();
        self.arena.extend_from_slice(bytes);
        match self.ranges.last_mut() {
            // Reads in a row are one range.
            Some(last) if last.at.0.wrapping_add(last.len_bytes as u64) == at.0 => {
                last.len_bytes = last.len_bytes.saturating_add(bytes.len());
            }
            _ => self.ranges.push(Range { at, len_bytes: bytes.len() }),
        }
        if let Some(recent) = self.recent.get_mut(slot(at)) {
            *recent = Recent { try_number: self.try_number, at: at.0, from, len_bytes: bytes.len() };
        }
    }
}

/// Where an earlier read of `at` would be remembered. Kernel objects are aligned to 8 bytes and more.
#[inline]
fn slot(at: Gpa) -> usize {
    let mixed = (at.0 >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    mixed as usize & RECENT_SLOTS.wrapping_sub(1)
}
