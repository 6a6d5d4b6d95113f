//! Sinks that a full spool does not wait for.
//!
//! *Does*: makes room by leaving out what only they have not taken, the oldest first, and counts it. *Never*: removes what a sink that is waited for
//! does not have, or what no sink has.

use super::commit::lock;
use super::{Shared, Spool};
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

/// Which, and what they missed.
#[derive(Default)]
pub(super) struct Expendable {
    sinks: BTreeSet<String>,
    missed: BTreeMap<String, u64>,
}

impl Spool {
    /// These sinks are not waited for when the spool is full.
    pub fn expend(&self, sinks: &[&str]) {
        lock(&self.0.expendable).sinks = sinks.iter().map(|sink| (*sink).to_owned()).collect();
    }

    /// What they missed since this was asked for last, at most: sequences have gaps.
    pub fn take_missed(&self) -> BTreeMap<String, u64> {
        mem::take(&mut lock(&self.0.expendable).missed)
    }
}

impl Shared {
    /// Removes segments until so many bytes more are within the limit; whether they are.
    pub(super) fn make_room(&self, bytes: u64, limit: u64) -> bool {
        while self.used_bytes() + bytes > limit {
            let (first, last) = {
                let tail = lock(&self.tail);
                let mut segments = tail.segments.keys();
                match (segments.next(), segments.next()) {
                    (Some(first), Some(next)) if *first != tail.active => (*first, next.saturating_sub(1)),
                    _ => return false,
                }
            };
            if !self.leave_out(first, last) || self.reclaim().is_err() {
                return false;
            }
            if lock(&self.tail).segments.contains_key(&first) {
                return false;
            }
        }
        true
    }

    /// Moves sinks that are not waited for past these records; not if nobody else has them.
    fn leave_out(&self, first: u64, last: u64) -> bool {
        let mut cursors = lock(&self.cursors);
        let mut expendable = lock(&self.expendable);
        let Expendable { sinks, missed } = &mut *expendable;
        let waits = |(sink, cursor): (&String, &u64)| *cursor < last && !sinks.contains(sink);
        if cursors.iter().any(waits) || cursors.values().all(|cursor| *cursor < last) {
            return false;
        }
        for (sink, cursor) in cursors.iter_mut().filter(|(_, cursor)| **cursor < last) {
            *missed.entry(sink.clone()).or_default() += last - (*cursor).max(first.saturating_sub(1));
            // On disk it stays where it was: it begins with the oldest that is there.
            *cursor = last;
        }
        true
    }
}
