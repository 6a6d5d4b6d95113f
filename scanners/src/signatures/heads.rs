//! The first bytes of a region's runs: what conditions read most often, and what modules know programs by.
//!
//! *Never*: says that bytes are not there when it does not have them.

use std::ops::Range;

/// A region with more runs is not asked for them.
pub(super) const MAX_RUNS: usize = 16;

/// How each run begins.
#[derive(Default, Debug)]
pub(super) struct Heads {
    runs: Vec<(Range<u64>, Range<usize>)>,
    bytes: Vec<u8>,
}

/// Bytes at an offset of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bytes<'b> {
    These(&'b [u8]),
    /// They are not in one run.
    Absent,
    /// They are not at its beginning.
    Unknown,
}

impl Heads {
    /// Adds the next run, which has these offsets and begins with these bytes.
    pub(super) fn push(&mut self, run: Range<u64>, head: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(head);
        self.runs.push((run, start..self.bytes.len()));
    }

    pub(super) fn read(&self, at: u64, len: usize) -> Bytes<'_> {
        let behind = self.runs.partition_point(|(run, _)| run.start <= at);
        let Some((run, place)) = behind.checked_sub(1).and_then(|index| self.runs.get(index)) else {
            return Bytes::Absent;
        };
        if at.checked_add(len as u64).is_none_or(|end| end > run.end) {
            return Bytes::Absent;
        }
        let head = self.bytes.get(place.clone()).unwrap_or_default();
        let from = usize::try_from(at.saturating_sub(run.start)).unwrap_or(usize::MAX);
        let bytes = from.checked_add(len).and_then(|to| head.get(from..to));
        bytes.map_or(Bytes::Unknown, Bytes::These)
    }

    /// Whether a run begins with one of these.
    pub(super) fn begin_with_any(&self, magics: &[&[u8]]) -> bool {
        self.runs.iter().any(|(_, place)| {
            let head = self.bytes.get(place.clone()).unwrap_or_default();
            begins_with_any(head, magics)
        })
    }
}

/// Whether bytes begin with one of these.
pub(super) fn begins_with_any(bytes: &[u8], magics: &[&[u8]]) -> bool {
    magics.iter().any(|magic| bytes.starts_with(magic))
}
