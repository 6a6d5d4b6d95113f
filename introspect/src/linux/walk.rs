//! Bounded walks over the kernel's own containers. Every one stops at a cycle and at a limit, and says so.

use super::View;
use crate::{GapReason, Gva, Partial};

/// More nodes than any list of a real kernel holds.
pub(crate) const MAX_NODES: usize = 1 << 20;

impl View<'_> {
    /// The addresses of the nodes on a circular `struct list_head` list, the head left out.
    /// `what` names the list in gaps.
    pub fn list(&self, what: &'static str, head: Gva) -> Partial<Gva> {
        let mut nodes = Partial::default();
        let (mut at, mut seen) = (head, head);
        loop {
            let next = self.pointer(at);
            let Some(next) = nodes.ok(what, at, next) else { break };
            if next == head {
                break;
            }
            if next == seen {
                nodes.gap(what, next, GapReason::Cycle);
                break;
            }
            if nodes.items.len() >= MAX_NODES {
                nodes.gap(what, head, GapReason::Limit(MAX_NODES as u64));
                break;
            }
            nodes.items.push(next);
            // Brent's cycle detection: remember the node at every power of two.
            if nodes.items.len().is_power_of_two() {
                seen = next;
            }
            at = next;
        }
        nodes
    }
}
