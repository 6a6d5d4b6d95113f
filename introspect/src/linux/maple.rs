//! The kernel's maple tree, which holds a process's memory maps from 6.1 on.
//!
//! *Trusts*: nothing. A node is visited once, the depth and the number of entries are limited, and a node may only cover
//! the range that its parent gave it: nodes that point at each other end as a gap.
//!
//! Layout: `struct maple_node` (`include/linux/maple_tree.h`), `mte_node_type`, `mas_safe_pivot` (`lib/maple_tree.c`), 6.1 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::walk::MAX_NODES;
use super::{Resolved, View};
use crate::{GapReason, Gva, Partial};
use lynceus_profiles::{Field, FieldKind, Profile, ProfileError};
use std::collections::HashSet;

/// `MAPLE_NODE_MASK`: nodes are 256 bytes, aligned.
const NODE_MASK: u64 = 255;
/// `MAPLE_HEIGHT_MAX`.
const MAX_DEPTH: u32 = 31;
/// Types of node, in bits 3 to 6 of a pointer to one (`enum maple_type`).
const LEAF_64: u64 = 1;
const RANGE_64: u64 = 2;
const ARANGE_64: u64 = 3;
/// Low bits of an internal entry (`xa_is_internal`): of a root that is a node (`mte_mk_root`), and of reserved values
/// (`XA_ZERO_ENTRY`), which are below [`SMALLEST_NODE`]. A node below the root does not have them.
const INTERNAL: u64 = 2;
const SMALLEST_NODE: u64 = 4096;

/// Members of maple trees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapleLayout {
    root: Field,
    range: NodeLayout,
    arange: NodeLayout,
}

#[derive(Clone, Copy, Debug)]
struct NodeLayout {
    pivots: (u32, u32),
    slots: (u32, u32),
}

/// An entry: what it covers, both ends included, and the pointer that is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MapleEntry {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) at: Gva,
}

/// A slot that is still to be read.
struct Open {
    entry: u64,
    /// Whether it holds a node or what is stored.
    is_node: bool,
    first: u64,
    last: u64,
    depth: u32,
}

impl MapleLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        Ok(MapleLayout {
            root: profile.field("maple_tree", "ma_root")?,
            range: NodeLayout::resolve(profile, "maple_range_64")?,
            arange: NodeLayout::resolve(profile, "maple_arange_64")?,
        })
    }
}

impl NodeLayout {
    fn resolve(profile: &Profile, ty: &str) -> Result<NodeLayout, ProfileError> {
        let array = |member| {
            let field = profile.field(ty, member)?;
            let count = match field.kind {
                FieldKind::Array { count, .. } => count.min(31),
                _ => 0,
            };
            Ok((field.offset, count))
        };
        Ok(NodeLayout { pivots: array("pivot")?, slots: array("slot")? })
    }
}

impl View<'_> {
    /// The entries of the `struct maple_tree` at `tree`, in ascending order.
    pub(crate) fn maple_tree(
        &self,
        what: &'static str,
        layout: &MapleLayout,
        tree: Gva,
    ) -> Partial<MapleEntry> {
        let mut found = Partial::default();
        let root = self.integer(tree, layout.root);
        let Some(root) = found.ok(what, tree, root) else { return found };
        let mut seen = HashSet::new();
        let is_node = root & 3 == INTERNAL && root >= SMALLEST_NODE;
        let mut open = vec![Open { entry: root, is_node, first: 0, last: u64::MAX, depth: 0 }];
        while let Some(next) = open.pop() {
            // Nodes may overlap: the number of entries is not bounded by that of the nodes.
            if found.items.len() >= MAX_NODES {
                found.gap(what, tree, GapReason::Limit(MAX_NODES as u64));
                break;
            }
            if !next.is_node {
                if next.entry != 0 && next.entry & 3 != INTERNAL {
                    found.items.push(MapleEntry { first: next.first, last: next.last, at: Gva(next.entry) });
                }
                continue;
            }
            let node = Gva(next.entry & !NODE_MASK);
            if next.depth > MAX_DEPTH || !seen.insert(node) || seen.len() > MAX_NODES {
                found.gap(what, node, GapReason::Cycle);
                continue;
            }
            let children = self.maple_children(layout, &next, node);
            let children = found.ok(what, node, children).unwrap_or_default();
            open.extend(children.into_iter().rev());
        }
        found
    }

    /// What a node holds, in ascending order.
    fn maple_children(&self, layout: &MapleLayout, open: &Open, node: Gva) -> Result<Vec<Open>, GapReason> {
        let kind = (open.entry >> 3) & 15;
        let shape = match kind {
            LEAF_64 | RANGE_64 => layout.range,
            ARANGE_64 => layout.arange,
            _ => return Err(GapReason::Inconsistent("a maple node of an unknown type")),
        };
        let bytes: [u8; 256] = self.bytes(node)?;
        let word = |(offset, count): (u32, u32), index: u32| {
            let at = offset.checked_add(index.checked_mul(8)?).filter(|_| index < count)?;
            let part = bytes.get(usize::try_from(at).ok()?..)?.first_chunk()?;
            Some(u64::from_le_bytes(*part))
        };
        let (mut children, mut first) = (Vec::new(), open.first);
        for slot in 0..shape.slots.1 {
            // The last slot has no pivot; an unused pivot is zero. Both mean: up to the node's own end.
            let pivot =
                word(shape.pivots, slot).filter(|pivot| *pivot != 0 || (slot == 0 && open.first == 0));
            let last = pivot.unwrap_or(open.last);
            if last < first || last > open.last {
                return Err(GapReason::Inconsistent("the pivots of a maple node are not in order"));
            }
            let entry = word(shape.slots, slot).unwrap_or(0);
            let is_node = kind != LEAF_64;
            if !is_node && entry & 3 == INTERNAL && entry >= SMALLEST_NODE {
                return Err(GapReason::Inconsistent("a maple leaf's slot names a node"));
            }
            if entry != 0 {
                children.push(Open { entry, is_node, first, last, depth: open.depth.saturating_add(1) });
            }
            if last == open.last {
                break;
            }
            first = last.saturating_add(1);
        }
        Ok(children)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::linux::testing::{Bench, gva, pointer};

    const LAYOUT: MapleLayout = MapleLayout {
        root: pointer(0),
        range: NodeLayout { pivots: (8, 15), slots: (128, 16) },
        arange: NodeLayout { pivots: (8, 9), slots: (80, 10) },
    };
    const TREE: u64 = 0x800;

    fn entries(bench: &Bench) -> Partial<MapleEntry> {
        bench.look(|view| view.maple_tree("maps", &LAYOUT, gva(TREE)))
    }

    /// A pointer to the node at `at` of a type, as another node holds it (`mt_mk_node`).
    fn node(at: u64, kind: u64) -> u64 {
        gva(at).0 | kind << 3 | 4
    }

    /// The same as the root holds it.
    fn root(at: u64, kind: u64) -> u64 {
        node(at, kind) | 2
    }

    #[test]
    fn two_levels_come_in_order() {
        let mut bench = Bench::new();
        bench.u64(TREE, root(0x1000, ARANGE_64));
        bench.u64(0x1008, 0x4fff).u64(0x1050, node(0x1100, LEAF_64)).u64(0x1058, node(0x1200, LEAF_64));
        bench.u64(0x1108, 0xfff).u64(0x1110, 0x1fff).u64(0x1118, 0x4fff);
        bench.link(0x1188, 0x3000);
        bench.u64(0x1208, 0x5fff).link(0x1280, 0x3100);
        let found = entries(&bench);
        assert!(found.is_complete(), "{:?}", found.gaps);
        let first = MapleEntry { first: 0x1000, last: 0x1fff, at: gva(0x3000) };
        assert_eq!(found.items, [first, MapleEntry { first: 0x5000, last: 0x5fff, at: gva(0x3100) }]);
    }

    #[test]
    fn nodes_that_point_at_each_other_are_gaps() {
        let mut bench = Bench::new();
        bench.u64(TREE, root(0x1000, RANGE_64));
        bench.u64(0x1080, node(0x1100, RANGE_64)).u64(0x1180, node(0x1000, RANGE_64));
        let found = entries(&bench);
        assert_eq!((found.items.len(), found.gaps.len()), (0, 1));
        assert_eq!(found.gaps[0].reason, GapReason::Cycle);
    }

    #[test]
    fn wrong_types_slots_and_pivots_are_gaps() {
        for (kind, pivot, entry) in
            [(7, 0, 0), (LEAF_64, 0, root(0x1100, LEAF_64)), (RANGE_64, 0, gva(0x3000).0)]
        {
            let mut bench = Bench::new();
            bench.u64(TREE, root(0x1000, kind)).u64(0x1008, pivot).u64(0x1080, entry);
            assert_eq!(entries(&bench).gaps.len(), 1, "{kind} {entry:#x}");
        }
        let mut bench = Bench::new();
        bench.u64(TREE, root(0x1000, LEAF_64)).u64(0x1008, 0x5000).u64(0x1010, 0x4000).link(0x1088, 0x3000);
        assert_eq!(entries(&bench).gaps.len(), 1);
    }

    #[test]
    fn an_empty_tree_is_empty() {
        assert_eq!(entries(&Bench::new()), Partial::default());
    }
}
