//! Suspects that are none, and tables that lie.

use super::*;
use crate::linux::testing::{Bench, composite, gva, number};

/// `task_struct`: list at 0, pid 16, tgid 20, state 40, exit state 44, pid links 120, users 128.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.layouts().tasks = Ok(crate::linux::tasks::tests::layout());
    bench.layouts().hunt = Ok(HuntLayout {
        usage: number(128, 4),
        exit_state: number(44, 4),
        state: number(40, 4),
        pid: number(16, 4),
        tgid: number(20, 4),
        tasks: composite(0, 16),
        pids: Err(ProfileError::NoType("left out".to_owned())),
        queues: Err(ProfileError::NoType("left out".to_owned())),
        slabs: Err(ProfileError::NoType("left out".to_owned())),
    });
    bench.link(0x1000, 0x1000).u32(0x1010, 7).u32(0x1014, 7).u32(0x1000 + 128, 1);
    bench
}

fn alive(bench: &Bench, pid: u32) -> bool {
    bench.look(|view| view.is_living_task(gva(0x1000), pid))
}

#[test]
fn only_a_living_task_counts() {
    assert!(alive(&bench(), 7));
    assert!(!alive(&bench(), 8), "another task may live there by now");
    for (offset, value) in [(128, 0), (44, 0x10), (40, 0x800), (16, 0), (16, u32::MAX), (20, 0)] {
        let mut bench = bench();
        bench.u32(0x1000 + offset, value);
        assert!(!alive(&bench, 7), "{offset} {value}");
    }
    let mut bench = bench();
    bench.u64(0x1000, 0x40_0000);
    assert!(!alive(&bench, 7), "its list leads into user space");
}

#[test]
fn a_view_that_the_kernel_cannot_give_is_a_gap_of_that_view() {
    let found = bench().look(|view| [view.tasks_by_pid(), view.tasks_in_queues(), view.tasks_carved()]);
    for found in found {
        assert_eq!((found.items.len(), found.gaps.len()), (0, 1));
    }
}
