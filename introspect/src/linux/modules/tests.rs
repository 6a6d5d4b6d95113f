//! Modules by hand.

use super::*;
use crate::linux::testing::{Bench, composite, gva, number};

fn bench() -> Bench {
    let mut bench = Bench::new();
    let missing = || ProfileError::NoType("left out".to_owned());
    let (state, list, name) = (number(0, 4), composite(8, 16), composite(24, 56));
    bench.layouts().modules = Ok(ModulesLayout {
        first: Err(missing()),
        list,
        head: Span::of(&[state, list, name]),
        state,
        name,
        refcount: number(80, 4),
        taints: number(88, 8),
        areas: vec![(number(96, 8), number(104, 4)), (number(112, 8), number(120, 4))],
        code: None,
        tree: Err(missing()),
        sysfs: Err(missing()),
    });
    bench
}

fn module(bench: &Bench) -> Module {
    let layout = match bench.look(|view| view.kernel().layouts.modules.clone()) {
        Ok(layout) => layout,
        Err(missing) => panic!("{missing}"),
    };
    bench.look(|view| view.module_at(&layout, gva(0x1000))).unwrap()
}

#[test]
fn a_module_counts_all_its_areas_and_not_its_own_reference() {
    let mut bench = bench();
    bench.bytes(0x1000 + 24, b"veth\0").u32(0x1000 + 80, 3).u64(0x1000 + 88, 1 | 1 << 12);
    bench.u64(0x1000 + 96, 0xffff_ffff_c000_0000).u32(0x1000 + 104, 4096).u32(0x1000 + 120, 99);
    let module = module(&bench);
    assert_eq!((module.name.as_str(), module.refcount, module.taints.as_str()), ("veth", 2, "PO"));
    assert_eq!((module.size_bytes, module.areas.len()), (4195, 1));
    assert_eq!(module.base.0, 0xffff_ffff_c000_0000);
}

#[test]
fn an_unknown_state_and_a_name_without_an_end_are_shown_as_they_are() {
    let mut bench = bench();
    bench.u32(0x1000, 77).bytes(0x1000 + 24, &[b'x'; 56]);
    let module = module(&bench);
    assert_eq!((module.state, module.name.len()), (ModuleState::Unknown(77), NAME_BYTES));
}

#[test]
fn views_that_the_kernel_cannot_give_are_gaps() {
    let found = bench().look(|view| [view.modules(), view.modules_in_tree(), view.modules_in_sysfs()]);
    for found in found {
        assert_eq!((found.items.len(), found.gaps.len()), (0, 1));
    }
}
