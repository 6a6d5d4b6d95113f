//! Looks at a moving guest, as optimistic transactions.
//!
//! *Does*: runs a look over a recorder that logs every byte range it reads. At the end all ranges are read again and
//! compared. Equal: the look is consistent. Unequal: it is thrown away and made again, a few times, then once
//! more with the guest paused for a bounded time; after that the last look is returned and marked as moving.
//!
//! *Why that is enough*: call T the instant between the look's last read and the first re-read. A byte that had one
//! value before T and the same value after T, and did not change twice in between, had that value at T. So all bytes of
//! a consistent look were in memory **together, at T**, and the look is what a paused guest would have shown at T. It
//! also makes the look single-fetch: bytes read twice that differed cannot both hold at the end. A torn read, half old and
//! half new, fails in the same way.
//!
//! *What it does not say*: a byte that changed and changed back is not noticed (ABA), so the look may join states that never
//! were together if all of them were restored; and the guest at T may have been in the middle of an update of its own,
//! as a paused guest may: walkers must bear a half-linked object.
//!
//! *Why ranges and not pages*: kernel objects keep hot fields (run time, reference counts) beside cold ones (pid, name) in
//! one page and even one cache line. Comparing pages would make a look fail for what it never looked at.
//!
//! *Trusts*: the backend. *Never*: keeps more than [`Options::max_log_bytes`], tries without end, or leaves a guest
//! paused.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod recorder;
#[cfg(test)]
mod tests;

use crate::memory::Stability;
use crate::{ControlError, GapReason, GuestMemory, Partial, Pause};
use recorder::Recorder;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// How hard to try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Looks at the running guest before it is paused, one at least.
    pub tries: u32,
    /// The longest that the guest may be paused: after that reads are refused. Zero never pauses.
    pub max_pause: Duration,
    /// What the log may hold.
    pub max_log_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { tries: 8, max_pause: Duration::from_millis(20), max_log_bytes: 64 << 20 }
    }
}

/// A look's result, and how it came about.
#[derive(Clone, Debug)]
pub struct Observed<R> {
    /// What the look returned.
    pub result: R,
    /// How far it can be relied on.
    pub outcome: Outcome,
    /// Looks at the running guest, one at least.
    pub tries: u32,
    /// Bytes that the last look read and that were compared.
    pub bytes_read: u64,
    /// Ranges that those bytes lay in.
    pub ranges_read: u64,
    /// The pause, where one was asked for.
    pub pause: Option<PauseReport>,
}

/// How far a look can be relied on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Memory cannot change.
    Frozen,
    /// All that was read was in memory at one instant.
    Consistent,
    /// The guest changed what was read during every try.
    Moving,
    /// The look would have read more than the log may hold, and was cut short.
    TooLarge,
}

/// What became of a pause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PauseReport {
    /// From the request to the resumed guest.
    pub lasted: Duration,
    /// Why the guest could not be paused, or not be resumed: then somebody must be told.
    pub error: Option<ControlError>,
    /// The look was not done in time and was cut short.
    pub cut_short: bool,
}

impl<R> Observed<R> {
    /// Whether all that was read was in memory together.
    pub fn is_consistent(&self) -> bool {
        matches!(self.outcome, Outcome::Frozen | Outcome::Consistent)
    }

    /// The same, with another result.
    pub fn map<U>(self, change: impl FnOnce(R) -> U) -> Observed<U> {
        let Observed { result, outcome, tries, bytes_read, ranges_read, pause } = self;
        Observed { result: change(result), outcome, tries, bytes_read, ranges_read, pause }
    }
}

impl<T> Observed<Partial<T>> {
    /// Adds a gap to the result of a look that was not consistent.
    #[must_use]
    pub fn with_gap(mut self, options: &Options) -> Self {
        let reason = match self.outcome {
            Outcome::Frozen | Outcome::Consistent => return self,
            Outcome::Moving if self.pause.as_ref().is_some_and(|pause| pause.cut_short) => {
                GapReason::Hurried { tries: self.tries, pause: options.max_pause }
            }
            Outcome::Moving => GapReason::Moving(self.tries),
            Outcome::TooLarge => GapReason::TooLarge(options.max_log_bytes as u64),
        };
        self.result.gap("look", None, reason);
        self
    }
}

/// Runs `look` until what it read holds together. It must read nothing but the memory that it is given.
pub fn observe<R>(
    memory: &dyn GuestMemory,
    pause: Option<&dyn Pause>,
    options: &Options,
    mut look: impl FnMut(&dyn GuestMemory) -> R,
) -> Observed<R> {
    if memory.stability() == Stability::Frozen {
        let result = look(memory);
        return Observed {
            result,
            outcome: Outcome::Frozen,
            tries: 1,
            bytes_read: 0,
            ranges_read: 0,
            pause: None,
        };
    }
    let recorder = Recorder::new(memory, options.max_log_bytes);
    let mut tries = 0u32;
    let mut report = None;
    let (result, outcome) = loop {
        let (result, outcome) = attempt(&recorder, None, &mut look);
        tries = tries.saturating_add(1);
        if outcome != Outcome::Moving {
            break (result, outcome);
        }
        if tries >= options.tries {
            break last_resort(&recorder, pause, options, &mut look, &mut report)
                .unwrap_or((result, outcome));
        }
        back_off(tries);
    };
    let (bytes_read, ranges_read) = recorder.size();
    Observed { result, outcome, tries, bytes_read, ranges_read, pause: report }
}

/// One look and its validation.
fn attempt<R>(
    recorder: &Recorder<'_>,
    deadline: Option<Instant>,
    look: &mut impl FnMut(&dyn GuestMemory) -> R,
) -> (R, Outcome) {
    recorder.restart(deadline);
    let result = look(recorder);
    let outcome = match (recorder.is_exhausted(), recorder.still_holds()) {
        (false, true) => Outcome::Consistent,
        (true, true) => Outcome::TooLarge,
        // Too large for what it read wrongly, perhaps: worth another try.
        (_, false) => Outcome::Moving,
    };
    (result, outcome)
}

/// A look at the paused guest, or `None` where that is not to be had or did not help.
fn last_resort<R>(
    recorder: &Recorder<'_>,
    pause: Option<&dyn Pause>,
    options: &Options,
    look: &mut impl FnMut(&dyn GuestMemory) -> R,
    report: &mut Option<PauseReport>,
) -> Option<(R, Outcome)> {
    let pause = pause.filter(|_| !options.max_pause.is_zero())?;
    let start = Instant::now();
    let report = report.insert(PauseReport { lasted: Duration::ZERO, error: None, cut_short: false });
    let paused = match pause.pause() {
        Ok(paused) => paused,
        Err(error) => {
            report.error = Some(error);
            return None;
        }
    };
    let (result, outcome) = attempt(recorder, Instant::now().checked_add(options.max_pause), look);
    report.error = paused.resume().err();
    report.lasted = start.elapsed();
    report.cut_short = recorder.is_exhausted();
    // A look cut short by time knows less than the moving one before it.
    (outcome == Outcome::Consistent).then_some((result, outcome))
}

/// Waits a little, longer with every try and never twice the same: a guest that moves in step would win every time.
fn back_off(tries: u32) {
    let most = 20u64.saturating_mul(1 << tries.min(6));
    let random = RandomState::new().hash_one(tries);
    std::thread::sleep(Duration::from_micros(random.checked_rem(most).unwrap_or(0)));
}
