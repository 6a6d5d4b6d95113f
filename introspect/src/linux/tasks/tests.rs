//! Task lists that lie.

use super::*;
use crate::linux::testing::{BASE, Bench, composite, gva, number, pointer};

/// A `task_struct` of 256 bytes: the list node at 0, then the rest.
const TASK_BYTES: u64 = 256;

pub(in crate::linux) fn layout() -> TasksLayout {
    TasksLayout {
        init_task: gva(0x1000).0,
        tasks: composite(0, 16),
        pid: number(16, 4),
        tgid: number(20, 4),
        comm: composite(24, 16),
        state: number(40, 4),
        exit_state: number(44, 4),
        flags: number(48, 4),
        start_boottime: number(56, 8),
        real_parent: pointer(64),
        mm: pointer(72),
        files: pointer(80),
        fs: pointer(88),
        signal: pointer(96),
        thread_node: composite(104, 16),
        thread_head: composite(0, 16),
    }
}

fn at(index: u64) -> u64 {
    0x1000 + index * TASK_BYTES
}

/// `count` tasks on a sound list, pids from 0 up.
fn bench(count: u64) -> Bench {
    let mut bench = Bench::new();
    bench.layouts().tasks = Ok(layout());
    for index in 0..count {
        let (next, before) = ((index + 1) % count, (index + count - 1) % count);
        bench.link(at(index), at(next)).link(at(index) + 8, at(before));
        bench.u32(at(index) + 16, index as u32).u32(at(index) + 20, index as u32);
        bench.bytes(at(index) + 24, format!("task-{index}").as_bytes()).link(at(index) + 64, at(0));
    }
    bench
}

fn pids(bench: &Bench) -> (Vec<u32>, usize) {
    let tasks = bench.look(|view| view.tasks());
    let mut fast = Partial::default();
    bench.look(|view| view.pids(&mut fast));
    // The hot path and the full listing see the same.
    let listed: Vec<u32> = tasks.items.iter().map(|task| task.pid).collect();
    assert_eq!(listed, fast.items.iter().map(|pid| pid.pid).collect::<Vec<_>>());
    (listed, tasks.gaps.len())
}

#[test]
fn a_sound_list_is_complete_and_leaves_the_idle_task_out() {
    let tasks = bench(4).look(|view| view.tasks());
    assert_eq!(pids(&bench(4)), (vec![1, 2, 3], 0));
    assert_eq!((tasks.items[0].comm.as_str(), tasks.items[0].ppid), ("task-1", 0));
    assert_eq!(pids(&bench(1)), (vec![], 0));
}

#[test]
fn a_task_that_follows_itself_and_a_ring_beside_the_head_end_as_gaps() {
    let mut looped = bench(4);
    looped.link(at(2), at(2));
    let (found, gaps) = pids(&looped);
    assert!(found.len() <= 4 && gaps > 0, "{found:?} {gaps}");
    let mut ring = bench(6);
    ring.link(at(5), at(3));
    let (found, gaps) = pids(&ring);
    assert!(found.starts_with(&[1, 2, 3, 4, 5]) && found.len() < 12 && gaps > 0, "{found:?} {gaps}");
}

/// A ring beside the head is noticed by its nodes, not by what could be read of the tasks on it.
#[test]
fn a_ring_of_tasks_that_cannot_be_read_ends() {
    let mut ring = bench(4);
    ring.link(at(3), at(2));
    // Behind the end of RAM.
    ring.layouts().tasks = Ok(TasksLayout { pid: number(4 << 20, 4), ..layout() });
    let mut found = Partial::default();
    ring.look(|view| view.pids(&mut found));
    assert!(found.items.is_empty());
    assert!(found.gaps.iter().any(|gap| gap.reason == GapReason::Cycle), "{:?}", found.gaps);
}

#[test]
fn a_task_that_is_skipped_in_one_direction_is_a_gap() {
    for (from, offset, to) in [(1, 0, 3), (2, 8, 0), (0, 8, 2), (2, 0, 0)] {
        let mut bench = bench(4);
        bench.link(at(from) + offset, at(to));
        assert_eq!(pids(&bench).1, 1, "{from} {to}");
    }
}

#[test]
fn a_list_that_leaves_the_kernel_ends_as_a_gap() {
    for target in [0, 0x40_0000, 0x7fff_ffff_f000, 0x8000_0000_0000_0000, u64::MAX, BASE + (1 << 30)] {
        let mut bench = bench(4);
        bench.u64(at(2), target);
        let tasks = bench.look(|view| view.tasks());
        assert_eq!(tasks.items.len(), if target == u64::MAX { 2 } else { tasks.items.len() });
        assert!(tasks.items.iter().take(2).map(|task| task.pid).eq([1, 2]), "{target:#x}");
        assert!(!tasks.is_complete(), "{target:#x}");
    }
}

#[test]
fn a_name_without_an_end_is_cut_and_bad_text_replaced() {
    let mut bench = bench(2);
    bench.bytes(at(1) + 24, &[0xff; 16]);
    let tasks = bench.look(|view| view.tasks());
    assert_eq!(tasks.items[0].comm, "\u{fffd}".repeat(16));
}

#[test]
fn threads_hang_on_the_signal_structure() {
    let mut bench = bench(3);
    // The process's thread list: its own node, and that of a thread that is on no other list.
    bench.link(at(1) + 96, 0x8000).link(0x8000, at(1) + 104).link(at(1) + 104, 0x9000 + 104);
    bench.link(0x8008, 0x9000 + 104).link(at(1) + 112, 0x8000).link(0x9000 + 112, at(1) + 104);
    bench.link(0x9000 + 104, 0x8000).u32(0x9000 + 16, 77).u32(0x9000 + 20, 1).link(0x9000 + 64, at(0));
    let threads = bench.look(|view| {
        let process = view.tasks().items.swap_remove(0);
        view.threads(&process)
    });
    assert_eq!(
        threads.items.iter().map(|thread| (thread.tgid, thread.pid)).collect::<Vec<_>>(),
        [(1, 1), (1, 77)]
    );
    assert!(threads.is_complete());
}

#[test]
fn states_read_as_proc_shows_them() {
    let cases = [
        (0, 0, 'R'),
        (1, 0, 'S'),
        (2, 0, 'D'),
        (4, 0, 'T'),
        (8, 0, 't'),
        (0, 0x10, 'X'),
        (0, 0x20, 'Z'),
        (0x40, 0, 'P'),
    ];
    for (state, exit, letter) in cases {
        assert_eq!(state_letter(state, exit), letter, "{state:#x} {exit:#x}");
    }
    assert_eq!(state_letter(0x402, 0), 'I');
    assert_eq!(state_letter(0x8000, 0), 'D');
    assert_eq!(state_letter(0x80, 0x20), 'Z');
}
