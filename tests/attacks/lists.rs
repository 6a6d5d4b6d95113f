//! Attack 1: the kernel's lists, bent.

use crate::hostile::{Hostile, has, inconsistent, look_everywhere, unreadable};
use lynceus_introspect::Partial;
use lynceus_introspect::{GapReason, Gva};

/// Neighbours on the task list.
fn neighbours(guest: &Hostile) -> [Gva; 4] {
    ["lab-plain", "lab-user", "lab-caps", "lab-threads"].map(|comm| guest.node(&guest.task(comm)))
}

/// The three ways to list processes and a look at everything end, and say that they are not whole.
fn ends_incomplete(guest: &Hostile, why: impl Fn(&[lynceus_introspect::Gap]) -> bool) {
    let tasks = guest.look(|view| view.tasks());
    assert!(why(&tasks.gaps), "tasks: {:?}", tasks.gaps);
    assert!(tasks.items.len() < 2_000, "{} tasks of 65", tasks.items.len());
    let mut pids = Partial::default();
    guest.look(|view| view.pids(&mut pids));
    assert!(why(&pids.gaps), "pids: {:?}", pids.gaps);
    assert!(why(&guest.look(look_everywhere)));
}

fn cycle(gaps: &[lynceus_introspect::Gap]) -> bool {
    has(gaps, &GapReason::Cycle)
}

#[test]
fn a_task_that_is_its_own_successor() {
    let mut guest = Hostile::new();
    let [at, ..] = neighbours(&guest);
    guest.u64(at, at.0).u64(Gva(at.0 + 8), at.0);
    ends_incomplete(&guest, cycle);
}

#[test]
fn a_list_that_comes_back_to_its_middle() {
    let mut guest = Hostile::new();
    let [second, _, _, last] = neighbours(&guest);
    guest.u64(last, second.0).u64(Gva(second.0 + 8), last.0);
    ends_incomplete(&guest, cycle);
}

#[test]
fn a_task_list_that_runs_on_into_the_module_list() {
    let mut guest = Hostile::new();
    let [at, ..] = neighbours(&guest);
    let modules = guest.symbol("modules");
    guest.u64(at, modules.0).u64(Gva(modules.0 + 8), at.0);
    ends_incomplete(&guest, cycle);
}

/// A task is skipped forwards only, as by a rootkit that unlinks carelessly, or by one that wants to confuse.
#[test]
fn a_successor_whose_predecessor_is_another() {
    let mut guest = Hostile::new();
    let [before, _, after, _] = neighbours(&guest);
    guest.u64(before, after.0);
    ends_incomplete(&guest, inconsistent);
}

#[test]
fn a_last_task_that_the_head_does_not_know() {
    let mut guest = Hostile::new();
    let head = guest.head();
    let [before, _, _, _] = neighbours(&guest);
    guest.u64(before, head.0);
    ends_incomplete(&guest, inconsistent);
}

#[test]
fn a_successor_in_user_space() {
    let mut guest = Hostile::new();
    let [at, ..] = neighbours(&guest);
    guest.u64(at, 0x7fff_1234_5000);
    ends_incomplete(&guest, unreadable);
}

#[test]
fn a_list_of_more_than_a_million_nodes() {
    const NODES: u64 = (1 << 20) + 16;
    let mut guest = Hostile::new();
    let start = guest.scratch(NODES * 16 + (1 << 20)).0 + (1 << 16);
    let node = |index: u64| start + index % NODES * 16;
    let mut bytes = Vec::new();
    for index in 0..NODES {
        bytes.extend(node(index + 1).to_le_bytes());
        bytes.extend(node(index + NODES - 1).to_le_bytes());
    }
    guest.write(Gva(start), &bytes);
    // A ring that is sound and never meets its head: neither a cycle nor an end is in reach.
    let nodes = guest.look(|view| view.list("test", Gva(start)));
    assert_eq!(nodes.items.len(), 1 << 20);
    assert!(
        matches!(nodes.gaps[..], [ref gap] if matches!(gap.reason, GapReason::Limit(_))),
        "{:?}",
        nodes.gaps
    );
    let [at, ..] = neighbours(&guest);
    guest.u64(at, start).u64(Gva(start + 8), at.0);
    let mut pids = Partial::default();
    guest.look(|view| view.pids(&mut pids));
    assert!(pids.items.len() <= 1 << 20 && !pids.is_complete());
}

#[test]
fn a_thread_list_that_never_comes_back() {
    let mut guest = Hostile::new();
    let task = guest.task("lab-threads");
    let threads = guest.look(|view| view.threads(&task)).items;
    let node = |at| guest.member(at, "task_struct", "thread_node");
    let [first, last] = [node(threads[1].at), node(threads[4].at)];
    guest.u64(last, first.0).u64(Gva(first.0 + 8), last.0);
    let threads = guest.look(|view| view.threads(&task));
    assert!(cycle(&threads.gaps) && threads.items.len() < 20, "{:?}", threads.gaps);
}

#[test]
fn a_module_list_that_never_comes_back() {
    let mut guest = Hostile::new();
    let modules = guest.look(|view| view.modules()).items;
    let at = guest.member(modules[1].at, "module", "list");
    guest.u64(at, at.0).u64(Gva(at.0 + 8), at.0);
    let modules = guest.look(|view| view.modules());
    assert!(cycle(&modules.gaps) && modules.items.len() == 2, "{:?}", modules.gaps);
}

/// Attaching after the attack: the list is evidence, and is said to have failed.
#[test]
fn attaching_to_a_list_that_is_bent_at_its_head() {
    let mut guest = Hostile::new();
    let head = guest.head();
    let first = guest.read_u64(head);
    guest.u64(Gva(first), first);
    let attached = guest.attach().expect("still the right kernel");
    assert_eq!(attached.guest.kernel().text, guest.kernel.text);
    assert!(attached.evidence.failed.contains(&lynceus_introspect::find::Check::TaskList));
}

/// Linux 5.10 keeps a process's maps in a list.
#[test]
fn a_map_that_is_its_own_successor() {
    let mut guest = Hostile::old();
    let mm = guest.mm("lab-plain");
    let maps = guest.look(|view| view.maps(&mm)).items;
    let at = maps[2].at;
    let next = guest.member(at, "vm_area_struct", "vm_next");
    guest.u64(next, at.0);
    let maps = guest.look(|view| view.maps(&mm));
    assert!(inconsistent(&maps.gaps) && maps.items.len() <= 4, "{:?}", maps.gaps);
}
