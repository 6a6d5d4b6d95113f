//! Two accounts of one moment, line by line: the guest's own and ours.

use lynceus_introspect::Partial;
use std::collections::BTreeMap;

/// What one account says and the other does not.
#[derive(Default)]
pub(crate) struct Report {
    /// A line each: what it is about, who says it, and what.
    pub(crate) differences: Vec<String>,
    /// Lines that both accounts have.
    pub(crate) equal: usize,
}

impl Report {
    /// Holds two sets of lines against each other; a line that occurs twice must occur twice on both sides.
    pub(crate) fn compare(&mut self, what: &str, truth: Vec<String>, ours: Vec<String>) {
        let mut count: BTreeMap<String, i64> = BTreeMap::new();
        assert!(!truth.is_empty(), "the guest's truth has no {what}: comparing nothing proves nothing");
        truth.into_iter().for_each(|line| *count.entry(line).or_default() += 1);
        ours.into_iter().for_each(|line| *count.entry(line).or_default() -= 1);
        for (line, surplus) in count {
            match surplus {
                0 => self.equal += 1,
                1.. => self.differences.push(format!("{what}: missing: {line}")),
                ..0 => self.differences.push(format!("{what}: extra:   {line}")),
            }
        }
    }

    /// The items of a look; its gaps are differences.
    pub(crate) fn whole<T>(&mut self, what: &str, look: Partial<T>) -> Vec<T> {
        self.differences.extend(look.gaps.iter().map(|gap| format!("{what}: gap: {gap:?}")));
        look.items
    }

    /// A part of a look that must be readable.
    pub(crate) fn some<T, E: std::fmt::Debug>(&mut self, what: &str, read: Result<T, E>) -> Option<T> {
        read.map_err(|error| self.differences.push(format!("{what}: {error:?}"))).ok()
    }
}
