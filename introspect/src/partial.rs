//! Results that say what they could not read.

use crate::{AccessError, ControlError, Gva};
use lynceus_profiles::ProfileError;

/// More gaps than this are counted, not kept: a hostile guest can make millions.
pub const MAX_GAPS: usize = 256;

/// Items that were read, and the guest state that could not be. A look with gaps is never reported as clean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partial<T> {
    /// What was read.
    pub items: Vec<T>,
    /// What could not be, the first [`MAX_GAPS`] of it.
    pub gaps: Vec<Gap>,
    /// Gaps beyond those kept.
    pub more_gaps: u64,
}

/// Guest state that could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// Which kernel object: `"task list"`, `"task.comm"`.
    pub what: &'static str,
    /// Where it was looked for.
    pub at: Option<Gva>,
    /// Why it could not be read.
    pub reason: GapReason,
}

/// Why guest state could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GapReason {
    /// The address does not translate or is not RAM.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A list or tree came back to where it had been.
    #[error("it runs in a circle")]
    Cycle,
    /// More objects than any real kernel has.
    #[error("more than {0} entries")]
    Limit(u64),
    /// Two fields that must agree do not.
    #[error("inconsistent: {0}")]
    Inconsistent(&'static str),
    /// This kernel lacks a type, field or symbol that the view needs.
    #[error("view not available on this kernel: {0}")]
    Unavailable(#[from] ProfileError),
    /// The guest kept changing what was being read.
    #[error("the guest changed it during each of {0} tries")]
    Moving(u32),
    /// The same, and reading it took longer than the guest may be paused.
    #[error(
        "the guest changed it during each of {tries} tries, and reading it took longer than a pause of {pause:?}"
    )]
    Hurried {
        /// Looks at the running guest.
        tries: u32,
        /// The longest that the guest may be paused.
        pause: std::time::Duration,
    },
    /// The look would have read more than it may keep.
    #[error("the look reads more than {0} bytes")]
    TooLarge(u64),
    /// The hypervisor was asked, and gave no answer.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It took longer than it may.
    #[error("it took longer than {0:?}")]
    Time(std::time::Duration),
}

impl<T> Default for Partial<T> {
    fn default() -> Self {
        Partial { items: Vec::new(), gaps: Vec::new(), more_gaps: 0 }
    }
}

impl<T> Partial<T> {
    /// Nothing read, for one reason.
    pub fn unavailable(what: &'static str, reason: impl Into<GapReason>) -> Self {
        let mut partial = Partial::default();
        partial.gap(what, None, reason);
        partial
    }
    /// Whether everything was read.
    pub fn is_complete(&self) -> bool {
        self.gaps.is_empty()
    }
    /// Records what could not be read.
    pub fn gap(&mut self, what: &'static str, at: impl Into<Option<Gva>>, reason: impl Into<GapReason>) {
        self.add(Gap { what, at: at.into(), reason: reason.into() });
    }
    /// Keeps `result`'s value, or its error as a gap.
    pub fn ok<V, E: Into<GapReason>>(
        &mut self,
        what: &'static str,
        at: Gva,
        result: Result<V, E>,
    ) -> Option<V> {
        result.map_err(|error| self.gap(what, at, error)).ok()
    }
    /// Adds `result`'s value to the items, or its error to the gaps.
    pub fn keep<E: Into<GapReason>>(&mut self, what: &'static str, at: Gva, result: Result<T, E>) {
        let item = self.ok(what, at, result);
        self.items.extend(item);
    }
    /// The same with `change` applied to each item.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> Partial<U> {
        let Partial { items, gaps, more_gaps } = self;
        Partial { items: items.into_iter().map(change).collect(), gaps, more_gaps }
    }
    /// Takes over another look's gaps and returns its items.
    pub fn absorb<U>(&mut self, other: Partial<U>) -> Vec<U> {
        self.more_gaps = self.more_gaps.saturating_add(other.more_gaps);
        other.gaps.into_iter().for_each(|gap| self.add(gap));
        other.items
    }
    fn add(&mut self, gap: Gap) {
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push(gap);
        } else {
            self.more_gaps = self.more_gaps.saturating_add(1);
        }
    }
}
