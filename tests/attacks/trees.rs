//! Attack 2: maple trees, red-black trees and xarrays that no kernel would build.

use crate::hostile::{Hostile, has, inconsistent, look_everywhere, unreadable};
use lynceus_introspect::linux::Map;
use lynceus_introspect::{GapReason, Gva, Partial};

/// Kinds of maple node (`enum maple_type`).
const LEAF: u64 = 1;
const RANGE: u64 = 2;
const UNKNOWN: u64 = 7;

/// The guest, a process with maps, and scratch memory aligned to a maple node.
fn victim(scratch_bytes: u64) -> (Hostile, Gva) {
    let mut guest = Hostile::new();
    let scratch = guest.scratch(scratch_bytes);
    (guest, scratch)
}

fn maps(guest: &Hostile) -> Partial<Map> {
    let mm = guest.mm("lab-maps");
    guest.look(|view| view.maps(&mm))
}

fn root(guest: &Hostile) -> Gva {
    let mm = guest.mm("lab-maps").at;
    let tree = guest.member(mm, "mm_struct", "mm_mt");
    guest.member(tree, "maple_tree", "ma_root")
}

fn node(at: Gva, kind: u64) -> u64 {
    at.0 | kind << 3 | 2
}

/// Writes a slot of a maple node and the last address that it covers.
fn slot(guest: &mut Hostile, node: Gva, index: u64, last: u64, entry: u64) {
    let pivots = guest.member(node, "maple_range_64", "pivot");
    let slots = guest.member(node, "maple_range_64", "slot");
    guest.u64(Gva(pivots.0 + index * 8), last).u64(Gva(slots.0 + index * 8), entry);
}

#[test]
fn a_maple_node_that_is_its_own_child() {
    let (mut guest, at) = victim(4096);
    slot(&mut guest, at, 0, u64::MAX, node(at, RANGE));
    let root = root(&guest);
    guest.u64(root, node(at, RANGE));
    assert!(has(&maps(&guest).gaps, &GapReason::Cycle), "{:?}", maps(&guest).gaps);
    assert!(has(&guest.look(look_everywhere), &GapReason::Cycle));
}

#[test]
fn a_maple_tree_as_deep_as_memory_allows() {
    let (mut guest, at) = victim(1 << 20);
    for depth in 0..1000 {
        let (here, below) = (Gva(at.0 + depth * 256), Gva(at.0 + (depth + 1) * 256));
        slot(&mut guest, here, 0, u64::MAX, node(below, RANGE));
    }
    let root = root(&guest);
    guest.u64(root, node(at, RANGE));
    let maps = maps(&guest);
    assert!(maps.gaps.len() == 1 && maps.items.len() <= 1, "{maps:?}");
}

/// Sixteen to the power of thirty-one ways down.
#[test]
fn maple_nodes_whose_children_are_all_the_same_node() {
    let (mut guest, at) = victim(1 << 20);
    for depth in 0..31 {
        let (here, below) = (Gva(at.0 + depth * 256), Gva(at.0 + (depth + 1) * 256));
        for index in 0..15 {
            slot(&mut guest, here, index, index + 1, node(below, RANGE));
        }
    }
    let root = root(&guest);
    guest.u64(root, node(at, RANGE));
    assert!(!maps(&guest).is_complete());
}

#[test]
fn a_maple_node_of_no_known_type() {
    let mut guest = Hostile::new();
    let root = root(&guest);
    let entry = guest.read_u64(root);
    for kind in [0, UNKNOWN, 15] {
        guest.u64(root, entry & !(15 << 3) | kind << 3);
        assert!(inconsistent(&maps(&guest).gaps), "{kind}");
    }
}

#[test]
fn a_leaf_among_inner_maple_nodes_and_the_other_way_round() {
    let (mut guest, at) = victim(4096);
    let (below, map) = (Gva(at.0 + 256), maps(&guest).items[0].at);
    let root = root(&guest);
    slot(&mut guest, at, 0, u64::MAX, node(below, LEAF));
    guest.u64(root, node(at, LEAF));
    assert!(inconsistent(&maps(&guest).gaps));
    slot(&mut guest, at, 0, u64::MAX, map.0);
    guest.u64(root, node(at, RANGE));
    assert!(inconsistent(&maps(&guest).gaps));
}

#[test]
fn maple_pivots_that_do_not_rise() {
    let (mut guest, at) = victim(4096);
    let map = maps(&guest).items[0].at;
    slot(&mut guest, at, 0, 0x5000, 0);
    slot(&mut guest, at, 1, 0x4000, map.0);
    let root = root(&guest);
    guest.u64(root, node(at, LEAF));
    assert!(inconsistent(&maps(&guest).gaps));
}

/// One map in every slot of every leaf: only at one place it is what it says.
#[test]
fn one_map_at_many_places_of_a_maple_tree() {
    let (mut guest, at) = victim(4096);
    let map = maps(&guest).items[0].at;
    for index in 0..15 {
        slot(&mut guest, at, index, (index + 1) * 0x1000 - 1, map.0);
    }
    let root = root(&guest);
    guest.u64(root, node(at, LEAF));
    assert!(maps(&guest).gaps.len() >= 14 && inconsistent(&maps(&guest).gaps));
}

#[test]
fn more_maps_than_a_process_can_have() {
    const LEAVES: u64 = 90_000;
    let (mut guest, at) = victim(64 << 20);
    let map = maps(&guest).items.iter().find(|map| map.path.is_empty()).expect("an anonymous map").at;
    // Four levels of inner nodes with 15 children each; children at their index in one array.
    let nodes: Vec<Gva> = (0..LEAVES).map(|index| Gva(at.0 + index * 256)).collect();
    let inner = (LEAVES - 2) / 15;
    let mut bytes = vec![0u8; (LEAVES * 256) as usize];
    let field = |path| guest.field("maple_range_64", path).offset as usize;
    let (pivots, slots) = (field("pivot"), field("slot"));
    // Breadth first: each node covers as many addresses as it must hold, 2^56 at the top.
    let mut covers = vec![(0u64, 0u64); LEAVES as usize];
    covers[0] = (0, (1 << 56) - 1);
    for index in 0..LEAVES {
        let (first, last) = covers[index as usize];
        if last == 0 {
            continue;
        }
        let step = (last - first + 1) / 15;
        for child in 0..15 {
            let end = if child == 14 { last } else { first + (child + 1) * step - 1 };
            let below = index * 15 + 1 + child;
            let is_inner = index < inner;
            if is_inner {
                covers[below as usize] = (first + child * step, end);
            }
            let kind = if below < inner { RANGE } else { LEAF };
            let entry = if is_inner { node(nodes[below as usize], kind) } else { map.0 };
            let at = index as usize * 256;
            bytes[at + pivots + child as usize * 8..][..8].copy_from_slice(&end.to_le_bytes());
            bytes[at + slots + child as usize * 8..][..8].copy_from_slice(&entry.to_le_bytes());
        }
    }
    guest.write(at, &bytes);
    let root = root(&guest);
    guest.u64(root, node(at, RANGE));
    let maps = maps(&guest);
    assert!(maps.items.len() <= 1 << 20, "{} maps", maps.items.len());
    assert!(has(&maps.gaps, &GapReason::Limit(1 << 20)), "{:?}", maps.gaps.last());
}

#[test]
fn a_map_that_overlaps_the_next() {
    for mut guest in [Hostile::new(), Hostile::old()] {
        let all = maps(&guest).items;
        let (map, next) = (&all[3], &all[4]);
        let end = guest.member(map.at, "vm_area_struct", "vm_end");
        guest.u64(end, next.end.0);
        assert!(inconsistent(&maps(&guest).gaps), "{:?}", maps(&guest).gaps);
    }
}

/// The kernel's tree of modules by address, both halves of the latch.
fn module_node(guest: &Hostile, index: usize) -> [Gva; 2] {
    let module = guest.look(|view| view.modules()).items[index].at;
    let area = guest.member(module, "module", "core_layout");
    let node = guest.member(guest.member(area, "module_layout", "mtn"), "mod_tree_node", "node");
    let size = guest.kernel.profile.size_of("rb_node").expect("a type");
    [node, node.field(size)]
}

#[test]
fn a_red_black_node_that_is_its_own_child() {
    for side in ["rb_left", "rb_right"] {
        let mut guest = Hostile::new();
        for half in module_node(&guest, 0) {
            let child = guest.member(half, "rb_node", side);
            guest.u64(child, half.0);
        }
        let found = guest.look(|view| view.modules_in_tree());
        assert!(has(&found.gaps, &GapReason::Cycle), "{:?}", found.gaps);
        // None comes twice.
        assert!(found.items.len() <= guest.look(|view| view.modules()).items.len());
    }
}

#[test]
fn red_black_nodes_that_share_a_child_or_lead_into_user_space() {
    let mut guest = Hostile::new();
    for (first, second) in module_node(&guest, 0).into_iter().zip(module_node(&guest, 1)) {
        let (left, right) =
            (guest.member(first, "rb_node", "rb_left"), guest.member(first, "rb_node", "rb_right"));
        guest.u64(left, second.0).u64(right, second.0);
    }
    assert!(!guest.look(|view| view.modules_in_tree()).is_complete());
    let mut guest = Hostile::new();
    for half in module_node(&guest, 0) {
        let child = guest.member(half, "rb_node", "rb_left");
        guest.u64(child, 0x40_0000);
    }
    assert!(unreadable(&guest.look(|view| view.modules_in_tree()).gaps));
}

/// A tree that is a chain to one side, longer than any tree is large.
#[test]
fn a_red_black_tree_of_more_than_a_million_nodes() {
    const NODES: u64 = (1 << 20) + 16;
    for side in ["rb_left", "rb_right"] {
        let mut guest = Hostile::new();
        let start = guest.scratch(NODES * 32 + 4096);
        let offset = guest.field("rb_node", side).offset as usize;
        let mut bytes = vec![0u8; (NODES * 32) as usize];
        for (index, node) in bytes.chunks_exact_mut(32).enumerate() {
            let next = start.0 + (index as u64 + 1) * 32;
            node[offset..offset + 8].copy_from_slice(&next.to_le_bytes());
        }
        guest.write(start, &bytes);
        let tree = guest.symbol("mod_tree");
        let trees = guest.member(tree, "mod_tree_root", "root.tree");
        guest.u64(trees, start.0).u64(Gva(trees.0 + 8), start.0);
        let found = guest.look(|view| view.modules_in_tree());
        assert!(has(&found.gaps, &GapReason::Limit(1 << 20)), "{side}: {:?}", found.gaps);
    }
}

/// The xarray of process ids, and its top node.
fn pid_table(guest: &Hostile) -> (Gva, Gva) {
    let array = guest.member(guest.symbol("init_pid_ns"), "pid_namespace", "idr.idr_rt");
    let head = guest.member(array, "xarray", "xa_head");
    (head, Gva(guest.read_u64(head) & !3))
}

#[test]
fn an_xarray_node_that_is_its_own_child() {
    let mut guest = Hostile::new();
    let (_, top) = pid_table(&guest);
    let slots = guest.member(top, "xa_node", "slots");
    guest.u64(slots, top.0 | 2);
    let found = guest.look(|view| view.tasks_by_pid());
    assert!(has(&found.gaps, &GapReason::Cycle) && found.items.len() < 100, "{:?}", found.gaps);
}

#[test]
fn an_xarray_node_that_is_not_below_its_parent() {
    let mut guest = Hostile::new();
    let (_, top) = pid_table(&guest);
    let shift = guest.member(top, "xa_node", "shift");
    guest.write(shift, &[200]);
    let found = guest.look(|view| view.tasks_by_pid());
    assert!(inconsistent(&found.gaps) && found.items.is_empty());
}

/// Each entry of the table of process ids costs a guest eight bytes, and nodes may even overlap.
#[test]
fn an_xarray_of_more_entries_than_there_are_ids() {
    const NODES: u64 = 1 + 64 + 64 * 64 + 17_000;
    let mut guest = Hostile::new();
    let at = guest.scratch(32 << 20);
    let (head, _) = pid_table(&guest);
    let field = |path| guest.field("xa_node", path).offset as usize;
    let (shift, slots) = (field("shift"), field("slots"));
    let node = |index: u64| at.0 + index * 640;
    let mut bytes = vec![0u8; (640 * NODES) as usize];
    for (index, here) in (0..).zip(bytes.chunks_exact_mut(640)) {
        let level = [1, 65, 4161].iter().filter(|first| index >= **first).count() as u8;
        here[shift] = 18 - 6 * level;
        for child in 0..64 {
            let below = index * 64 + 1 + child as u64;
            let entry = match level {
                3 => at.0 + (31 << 20),
                _ if below < NODES => node(below) | 2,
                _ => 0,
            };
            here[slots + child * 8..][..8].copy_from_slice(&entry.to_le_bytes());
        }
    }
    guest.write(at, &bytes).u64(head, node(0) | 2);
    let found = guest.look(|view| view.tasks_by_pid());
    assert!(found.items.is_empty() && has(&found.gaps, &GapReason::Limit(1 << 20)), "{:?}", found.gaps);
}
