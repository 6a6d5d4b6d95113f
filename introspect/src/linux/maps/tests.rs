//! Map lists that lie.

use super::*;
use crate::linux::testing::{Bench, gva, number, pointer};

/// `mm_struct` at 0x1000 with the first map at 0; maps of 128 bytes: next at 0, then start, end, flags, …
fn bench(maps: &[(u64, u64)]) -> Bench {
    let mut bench = Bench::new();
    let (start, end, flags, offset) = (number(8, 8), number(16, 8), number(24, 8), number(32, 8));
    let (file, operations, private) = (pointer(40), pointer(48), pointer(56));
    let anon = pointer(72);
    bench.layouts().maps = Ok(MapsLayout {
        members: Members::List { first: pointer(0), next: pointer(0) },
        span: Span::of(&[start, end, flags, offset, file, operations, private, anon]),
        start,
        end,
        flags,
        offset,
        file,
        operations,
        private,
        anon,
        anon_name: Some((pointer(64), number(4, 0))),
        files_have_names: true,
        operations_name: pointer(0),
        special_name: pointer(0),
        named_specially: None,
        gate: None,
        file_inode: pointer(0),
        inode_number: number(0, 8),
        inode_super: pointer(8),
        super_device: number(0, 4),
        context_flags: None,
    });
    for (index, (start, end)) in maps.iter().enumerate() {
        let (at, before) = (map_at(index), if index == 0 { 0x1000 } else { map_at(index - 1) });
        bench.link(before, at).u64(at + 8, *start).u64(at + 16, *end).u64(at + 24, 0x75);
    }
    bench
}

fn map_at(index: usize) -> u64 {
    0x2000 + index as u64 * 128
}

#[test]
fn copies_of_a_files_pages_are_told() {
    let mut bench = bench(&[(0x1000, 0x2000), (0x5000, 0x6000)]);
    bench.link(map_at(1) + 72, 0x8000);
    let found = maps(&bench);
    assert_eq!(found.items.iter().map(|map| map.has_own_pages).collect::<Vec<_>>(), [false, true]);
}

fn maps(bench: &Bench) -> Partial<Map> {
    let (none, heap, start_stack) = (Gva(0), (Gva(0x5000), Gva(0x6000)), Gva(0x9800));
    let mm = Mm {
        at: gva(0x1000),
        pgd: none,
        exe_file: none,
        args: (none, none),
        env: (none, none),
        heap,
        start_stack,
    };
    bench.look(|view| view.maps(&mm))
}

#[test]
fn heap_stack_and_named_memory_are_told_apart() {
    let mut bench = bench(&[(0x1000, 0x2000), (0x5000, 0x6000), (0x7000, 0x8000), (0x9000, 0xa000)]);
    bench.link(map_at(2) + 64, 0x8000).bytes(0x8004, b"pool\0");
    let found = maps(&bench);
    assert!(found.is_complete(), "{:?}", found.gaps);
    let paths: Vec<&str> = found.items.iter().map(|map| map.path.as_str()).collect();
    assert_eq!(paths, ["", "[heap]", "[anon:pool]", "[stack]"]);
    assert_eq!(found.items[0].perms(), "r-xp");
}

#[test]
fn a_list_that_goes_back_ends_as_a_gap() {
    let mut circle = bench(&[(0x1000, 0x2000), (0x3000, 0x4000)]);
    circle.link(map_at(1), map_at(0));
    let overlap = bench(&[(0x1000, 0x3000), (0x2000, 0x4000)]);
    let empty = bench(&[(0x1000, 0x1000)]);
    let mut lost = bench(&[(0x1000, 0x2000)]);
    lost.u64(map_at(0), 0x40_0000);
    for (bench, read) in [(circle, 2), (overlap, 1), (empty, 0), (lost, 1)] {
        let found = maps(&bench);
        assert_eq!((found.items.len(), found.gaps.len()), (read, 1));
    }
}
