//! Singly linked chains: `hlist`, `hlist_nulls` and plain `next` pointers. Bounded, and stopped at a cycle.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::View;
use crate::{GapReason, Gva, Partial};

/// More nodes than any hash chain of a real kernel holds.
const MAX_CHAIN: usize = 1 << 16;

impl View<'_> {
    /// The nodes on a chain that starts with `first` and goes on at `next_offset` in each, until null or an odd
    /// pointer (the end marker of an `hlist_nulls`). `what` names the chain in gaps.
    pub(crate) fn chain(&self, what: &'static str, first: Gva, next_offset: u32) -> Partial<Gva> {
        let mut nodes = Partial::default();
        let (mut at, mut seen) = (first, Gva(0));
        while !at.is_null() && at.0 & 1 == 0 {
            if at == seen {
                nodes.gap(what, at, GapReason::Cycle);
                break;
            }
            if nodes.items.len() >= MAX_CHAIN {
                nodes.gap(what, first, GapReason::Limit(MAX_CHAIN as u64));
                break;
            }
            nodes.items.push(at);
            // Brent's cycle detection: remember the node at every power of two.
            if nodes.items.len().is_power_of_two() {
                seen = at;
            }
            let next = self.pointer(at.field(next_offset));
            let Some(next) = nodes.ok(what, at, next) else { break };
            at = next;
        }
        nodes
    }
}
