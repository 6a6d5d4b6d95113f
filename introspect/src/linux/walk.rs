//! Bounded walks over the kernel's own containers. Every one stops at a cycle and at a limit, and says so.

use super::View;
use crate::{AccessError, GapReason, Gva, Partial};
use std::collections::HashSet;

/// More nodes than any list of a real kernel holds.
pub(crate) const MAX_NODES: usize = 1 << 20;

/// What is wrong where a node's successor has another predecessor: a node may be skipped.
const BENT: GapReason = GapReason::Inconsistent("a list runs differently forwards and backwards");

/// Nodes met so many are held against each other one by one: most trees have fewer.
const FEW_NODES: usize = 16;

/// Nodes that a walk has met.
#[derive(Default)]
pub(crate) struct Met {
    few: Vec<Gva>,
    many: HashSet<Gva>,
}

impl Met {
    /// Whether a node is met for the first time.
    pub(crate) fn insert(&mut self, node: Gva) -> bool {
        if self.few.contains(&node) {
            return false;
        }
        if self.few.len() >= FEW_NODES {
            return self.many.insert(node);
        }
        self.few.push(node);
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.few.len().saturating_add(self.many.len())
    }
}

impl View<'_> {
    /// The addresses of the nodes on a circular `struct list_head` list, the head left out.
    /// `what` names the list in gaps. A node that its successor does not know is a gap: what lies between may be hidden.
    pub fn list(&self, what: &'static str, head: Gva) -> Partial<Gva> {
        let mut nodes = Partial::default();
        self.ring(what, head, &mut nodes, |nodes, node| nodes.items.push(node));
        nodes
    }

    /// Visits each node of such a list in turn; gaps go where the visits' do.
    pub(crate) fn ring<T>(
        &self,
        what: &'static str,
        head: Gva,
        found: &mut Partial<T>,
        mut visit: impl FnMut(&mut Partial<T>, Gva),
    ) {
        let (mut at, mut seen, mut visited) = (head, head, 0usize);
        let first = self.links(head);
        let Some((mut next, last)) = found.ok(what, head, first) else { return };
        while next != head {
            if next == seen {
                return found.gap(what, next, GapReason::Cycle);
            }
            if visited >= MAX_NODES {
                return found.gap(what, head, GapReason::Limit(MAX_NODES as u64));
            }
            visit(found, next);
            visited = visited.saturating_add(1);
            // Brent's cycle detection: remember the node at every power of two.
            if visited.is_power_of_two() {
                seen = next;
            }
            let links = self.links(next);
            let Some((after, before)) = found.ok(what, next, links) else { return };
            if before != at {
                found.gap(what, next, BENT);
            }
            (at, next) = (next, after);
        }
        if last != at {
            found.gap(what, head, BENT);
        }
    }

    /// Successor and predecessor of the `struct list_head` at `at`.
    fn links(&self, at: Gva) -> Result<(Gva, Gva), AccessError> {
        let both = u128::from_le_bytes(self.bytes(at)?);
        Ok((Gva(both as u64), Gva((both >> 64) as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_is_met_once() {
        let mut met = Met::default();
        let nodes = FEW_NODES as u64 * 3;
        for _ in 0..2 {
            let before = met.len();
            let new = (0..nodes).filter(|node| met.insert(Gva(*node))).count();
            assert_eq!((new, met.len()), (if before == 0 { nodes as usize } else { 0 }, nodes as usize));
        }
    }
}
