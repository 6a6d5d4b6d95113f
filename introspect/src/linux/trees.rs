//! The kernel's red-black trees and xarrays. Bounded: no node is visited twice, and the number of nodes is limited.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::walk::{MAX_NODES, Met};
use super::{Resolved, View};
use crate::{GapReason, Gva, Partial};
use lynceus_profiles::{Field, FieldKind, Profile};
use std::collections::HashSet;

/// Slots of an xarray node (`XA_CHUNK_SIZE`).
const MAX_SLOTS: u32 = 64;

/// Members of tree nodes.
#[derive(Clone, Debug)]
pub struct TreesLayout {
    left: Field,
    right: Field,
    head: Field,
    shift: Field,
    slots: Field,
    slot_count: u32,
}

impl TreesLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let slots = profile.field("xa_node", "slots")?;
        let slot_count = match slots.kind {
            FieldKind::Array { count, .. } => count.min(MAX_SLOTS),
            _ => MAX_SLOTS,
        };
        Ok(TreesLayout {
            left: profile.field("rb_node", "rb_left")?,
            right: profile.field("rb_node", "rb_right")?,
            head: profile.field("xarray", "xa_head")?,
            shift: profile.field("xa_node", "shift")?,
            slots,
            slot_count,
        })
    }
}

impl View<'_> {
    /// The nodes of the `struct rb_root` at `root`, smallest first. `what` names the tree in gaps.
    pub(crate) fn rb_tree(&self, what: &'static str, root: Gva) -> Partial<Gva> {
        let layout = match &self.kernel().layouts.trees {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let mut nodes = Partial::default();
        let (mut seen, mut above) = (HashSet::new(), Vec::new());
        let top = self.pointer(root);
        let mut at = nodes.ok(what, root, top).unwrap_or_default();
        loop {
            // Down to the left; a node met again is a cycle or a crossed link.
            while !at.is_null() {
                // Everything below is lost, so this is said even where the walk ends by itself.
                if above.len() >= MAX_NODES {
                    nodes.gap(what, at, GapReason::Limit(MAX_NODES as u64));
                    break;
                }
                if !seen.insert(at) {
                    nodes.gap(what, at, GapReason::Cycle);
                    break;
                }
                above.push(at);
                let left = self.integer(at, layout.left).map(Gva);
                at = nodes.ok(what, at, left).unwrap_or_default();
            }
            let Some(node) = above.pop() else { break };
            if nodes.items.len() >= MAX_NODES {
                nodes.gap(what, root, GapReason::Limit(MAX_NODES as u64));
                break;
            }
            nodes.items.push(node);
            let right = self.integer(node, layout.right).map(Gva);
            at = nodes.ok(what, node, right).unwrap_or_default();
        }
        nodes
    }

    /// Index and pointer of every entry of the `struct xarray` at `array`; entries that are values are left out.
    pub(crate) fn xarray(&self, what: &'static str, array: Gva) -> Partial<(u64, Gva)> {
        let mut found = Partial::default();
        let runs = self.xarray_runs(what, array);
        found.items = found.absorb(runs).into_iter().map(|(index, at, _)| (index, at)).collect();
        found
    }

    /// The same, with the number of indices that each entry stands for.
    pub(crate) fn xarray_runs(&self, what: &'static str, array: Gva) -> Partial<(u64, Gva, u64)> {
        let layout = match &self.kernel().layouts.trees {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let mut found = Partial::default();
        let head = self.integer(array, layout.head);
        let Some(entry) = found.ok(what, array, head) else { return found };
        let mut seen = Met::default();
        let mut open = vec![Slot { index: 0, entry, above: 64, span: 1 }];
        while let Some(Slot { index, entry, above, span }) = open.pop() {
            // Nodes may overlap: the number of entries is not bounded by that of the nodes.
            if found.items.len() >= MAX_NODES {
                found.gap(what, array, GapReason::Limit(MAX_NODES as u64));
                break;
            }
            if entry & 3 != INTERNAL {
                if entry != 0 && entry & 1 == 0 {
                    found.items.push((index, Gva(entry), span));
                }
                continue;
            }
            let node = Gva(entry & !3);
            // A retry mark.
            if entry < SMALLEST_NODE {
                continue;
            }
            if !seen.insert(node) || seen.len() > MAX_NODES {
                found.gap(what, node, GapReason::Cycle);
                continue;
            }
            let children = self.xa_children(layout, node, (index, above), &mut open);
            found.ok(what, node, children);
        }
        found
    }

    /// Adds the slots of a node, last one first: what is added last is looked at first. A sibling belongs to the slot before it.
    fn xa_children(
        &self,
        layout: &TreesLayout,
        node: Gva,
        (index, above): (u64, u64),
        open: &mut Vec<Slot>,
    ) -> Result<(), GapReason> {
        let shift = self.integer(node, layout.shift)?;
        if shift >= above {
            return Err(GapReason::Inconsistent("an xarray node is not below its parent"));
        }
        let mut slots = [0; 8 * MAX_SLOTS as usize];
        let len = usize::try_from(layout.slot_count).unwrap_or(0).saturating_mul(8);
        let slots = slots.get_mut(..len).unwrap_or_default();
        self.space().read(node.field(layout.slots.offset), slots)?;
        let width = 1u64.checked_shl(u32::try_from(shift).unwrap_or(63)).unwrap_or(0);
        let first = open.len();
        for (slot, entry) in (0u64..).zip(slots.as_chunks::<8>().0) {
            let entry = u64::from_le_bytes(*entry);
            let is_sibling = entry & 3 == INTERNAL && entry < SIBLINGS_END;
            match open.get_mut(first..).and_then(<[Slot]>::last_mut) {
                Some(before) if is_sibling => before.span = before.span.saturating_add(width),
                _ if entry == 0 || is_sibling => {}
                _ => {
                    let index = index.wrapping_add(slot.wrapping_mul(width));
                    open.push(Slot { index, entry, above: shift, span: width });
                }
            }
        }
        open.get_mut(first..).unwrap_or_default().reverse();
        Ok(())
    }
}

/// An entry of an xarray, on the way down.
struct Slot {
    index: u64,
    entry: u64,
    /// The shift of the node that it lies in.
    above: u64,
    /// Indices that it stands for.
    span: u64,
}

/// Low bits of an internal entry (`xa_is_internal`).
const INTERNAL: u64 = 2;
/// Internal entries below this name a slot of the same node (`xa_is_sibling`).
const SIBLINGS_END: u64 = (MAX_SLOTS as u64) << 2;
/// Internal entries above this are nodes (`xa_is_node`).
const SMALLEST_NODE: u64 = 4096;

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::linux::testing::{Bench, composite, gva, number, pointer};

    fn bench() -> Bench {
        let mut bench = Bench::new();
        let slots = Field { kind: FieldKind::Array { count: 4, element_bytes: 8 }, ..composite(8, 32) };
        bench.layouts().trees = Ok(TreesLayout {
            left: pointer(0),
            right: pointer(8),
            head: pointer(0),
            shift: number(0, 1),
            slots,
            slot_count: 4,
        });
        bench
    }

    fn tree(bench: &Bench) -> Partial<Gva> {
        bench.look(|view| view.rb_tree("test", gva(0x800)))
    }

    #[test]
    fn a_tree_comes_in_order() {
        let mut bench = bench();
        bench.link(0x800, 0x1000).link(0x1000, 0x1100).link(0x1008, 0x1200).link(0x1108, 0x1300);
        assert_eq!(tree(&bench).items, [gva(0x1100), gva(0x1300), gva(0x1000), gva(0x1200)]);
        assert!(tree(&bench).is_complete());
        assert_eq!(tree(&self::bench()), Partial::default());
    }

    #[test]
    fn a_node_met_again_ends_its_branch() {
        let mut bench = bench();
        bench.link(0x800, 0x1000).link(0x1000, 0x1000).link(0x1008, 0x1100).link(0x1108, 0x1000);
        let nodes = tree(&bench);
        assert_eq!(nodes.items, [gva(0x1000), gva(0x1100)]);
        assert!(nodes.gaps.iter().all(|gap| gap.reason == GapReason::Cycle) && nodes.gaps.len() == 2);
    }

    #[test]
    fn an_xarray_numbers_its_entries() {
        let mut bench = bench();
        // A node of shift 2 whose second slot holds a leaf node; a value entry is left out.
        bench.link(0x800, 0x1002).bytes(0x1000, &[2]).link(0x1008, 0x1102 - 2).u64(0x1018, 7);
        bench.link(0x1010, 0x1202).bytes(0x1200, &[0]).link(0x1208, 0x3000).link(0x1220, 0x4000);
        let found = bench.look(|view| view.xarray("test", gva(0x800)));
        assert_eq!(found.items, [(0, gva(0x1100)), (4, gva(0x3000)), (7, gva(0x4000))]);
        assert!(found.is_complete());
    }

    #[test]
    fn xarray_nodes_that_name_themselves_or_do_not_shrink_are_gaps() {
        let mut bench = bench();
        bench.link(0x800, 0x1002).bytes(0x1000, &[2]).link(0x1008, 0x1002).link(0x1010, 0x1202);
        bench.bytes(0x1200, &[6]);
        let found = bench.look(|view| view.xarray("test", gva(0x800)));
        assert_eq!((found.items.len(), found.gaps.len()), (0, 2));
    }
}
