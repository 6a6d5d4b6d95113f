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

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::linux::testing::{Bench, gva};

    /// Nodes 16 bytes apart from 0x1000 on, the next pointer 8 bytes into each.
    fn walk(next: &[u64]) -> Partial<Gva> {
        let mut bench = Bench::new();
        for (index, next) in next.iter().enumerate() {
            bench.u64(0x1008 + 16 * index as u64, *next);
        }
        bench.look(|view| view.chain("test", gva(0x1000), 8))
    }

    #[test]
    fn null_and_odd_pointers_end_it() {
        for end in [0, 1, 0x1234_5677] {
            let nodes = walk(&[gva(0x1010).0, end]);
            assert_eq!(nodes.items, [gva(0x1000), gva(0x1010)]);
            assert!(nodes.is_complete());
        }
    }

    #[test]
    fn loops_end() {
        for next in [vec![gva(0x1000).0], vec![gva(0x1010).0, gva(0x1020).0, gva(0x1010).0]] {
            let nodes = walk(&next);
            assert_eq!(nodes.gaps[0].reason, GapReason::Cycle);
            assert!(nodes.items.len() < 8);
        }
    }

    #[test]
    fn a_chain_into_user_space_is_a_gap() {
        let nodes = walk(&[0x40_0000]);
        assert_eq!(nodes.items.len(), 2);
        assert!(!nodes.is_complete());
    }
}
