//! Bounded walks over the kernel's own containers. Every one stops at a cycle and at a limit, and says so.

use super::View;
use crate::{AccessError, GapReason, Gva, Partial};

/// More nodes than any list of a real kernel holds.
pub(crate) const MAX_NODES: usize = 1 << 20;

/// What is wrong where a node's successor has another predecessor: a node may be skipped.
pub(crate) const BENT: GapReason = GapReason::Inconsistent("a list runs differently forwards and backwards");

impl View<'_> {
    /// Successor and predecessor of the `struct list_head` at `at`.
    pub(crate) fn links(&self, at: Gva) -> Result<(Gva, Gva), AccessError> {
        let both = u128::from_le_bytes(self.bytes(at)?);
        Ok((Gva(both as u64), Gva((both >> 64) as u64)))
    }

    /// The addresses of the nodes on a circular `struct list_head` list, the head left out.
    /// `what` names the list in gaps. A node that its successor does not know is a gap: what lies between may be hidden.
    pub fn list(&self, what: &'static str, head: Gva) -> Partial<Gva> {
        let mut nodes = Partial::default();
        let (mut at, mut seen) = (head, head);
        let first = self.links(head);
        let Some((mut next, last)) = nodes.ok(what, head, first) else { return nodes };
        while next != head {
            if next == seen {
                nodes.gap(what, next, GapReason::Cycle);
                return nodes;
            }
            if nodes.items.len() >= MAX_NODES {
                nodes.gap(what, head, GapReason::Limit(MAX_NODES as u64));
                return nodes;
            }
            nodes.items.push(next);
            // Brent's cycle detection: remember the node at every power of two.
            if nodes.items.len().is_power_of_two() {
                seen = next;
            }
            let links = self.links(next);
            let Some((after, before)) = nodes.ok(what, next, links) else { return nodes };
            if before != at {
                nodes.gap(what, next, BENT);
            }
            (at, next) = (next, after);
        }
        if last != at {
            nodes.gap(what, head, BENT);
        }
        nodes
    }
}
