//! Attack 4: pointers to nothing, to nowhere, into holes, and to objects that are not all there.

use crate::hostile::{Hostile, look_everywhere, unreadable};
use lynceus_introspect::Gva;

/// Structure and member of pointers that the views of a task follow, in the order in which they are reached.
const POINTERS: [(&str, &str, &str); 18] = [
    ("task", "task_struct", "real_parent"),
    ("task", "task_struct", "signal"),
    ("task", "task_struct", "real_cred"),
    ("task", "task_struct", "nsproxy"),
    ("task", "task_struct", "thread_pid"),
    ("task", "task_struct", "cgroups"),
    ("task", "task_struct", "fs"),
    ("task", "task_struct", "files"),
    ("task", "task_struct", "mm"),
    ("mm", "mm_struct", "exe_file"),
    ("mm", "mm_struct", "pgd"),
    ("files", "files_struct", "fdt"),
    ("table", "fdtable", "fd"),
    ("table", "fdtable", "open_fds"),
    ("file", "file", "f_path.dentry"),
    ("file", "file", "f_path.mnt"),
    ("file", "file", "f_inode"),
    ("dentry", "dentry", "d_parent"),
];
/// Those that may be null: a task of the kernel has no memory, a dead one neither files nor namespaces nor a directory, and
/// one that is being released no pid.
const OPTIONAL: [&str; 7] = ["real_parent", "thread_pid", "fs", "files", "mm", "nsproxy", "exe_file"];

/// Where the object called `name` is: a task of the lab with files, and what it leads to.
fn object(guest: &Hostile, name: &str) -> Gva {
    let task = guest.task("lab-files");
    let follow = |at, ty, member| Gva(guest.read_u64(guest.member(at, ty, member)));
    let table = || follow(task.files, "files_struct", "fdt");
    match name {
        "task" => task.at,
        "mm" => task.mm,
        "files" => task.files,
        "table" => table(),
        "file" => guest.file(),
        _ => guest.dentry(),
    }
}

/// Follows each of the pointers when it has the value that `value` gives: the rest of the guest is read, and a gap says so.
fn with_each(value: impl Fn(&mut Hostile) -> u64, may_be_none: bool) {
    let sound = Hostile::new().look(|view| view.tasks()).items.len();
    for (name, ty, member) in POINTERS {
        let mut guest = Hostile::new();
        let at = object(&guest, name);
        let place = guest.member(at, ty, member);
        let value = value(&mut guest);
        guest.u64(place, value);
        let gaps = guest.look(look_everywhere);
        if may_be_none && OPTIONAL.contains(&member) {
            assert!(gaps.is_empty(), "{ty}.{member} = {value:#x}: {gaps:?}");
        } else {
            assert!(!gaps.is_empty(), "{ty}.{member} = {value:#x} is no gap");
        }
        // One broken task does not hide the others.
        assert!(guest.look(|view| view.tasks()).items.len() + 1 >= sound, "{ty}.{member}");
    }
}

#[test]
fn null() {
    with_each(|_| 0, true);
}

#[test]
fn an_address_that_is_not_canonical() {
    with_each(|_| 0x0041_4141_4141_4141, false);
    with_each(|_| 0x8000_0000_0000_0000, false);
}

#[test]
fn the_end_of_the_address_space() {
    with_each(|_| u64::MAX - 7, false);
}

#[test]
fn user_space() {
    with_each(|_| 0x40_0000, false);
}

/// The kernel's direct map of memory that the guest does not have.
#[test]
fn a_hole_of_the_direct_map() {
    with_each(|guest| guest.read_u64(guest.symbol("page_offset_base")) + (200 << 30), false);
}

#[test]
fn a_page_that_was_taken_away() {
    let place = |guest: &mut Hostile| {
        let at = guest.scratch(1 << 20);
        let gpa = guest.gpa(at);
        guest.memory.take_away(gpa);
        at.0
    };
    with_each(place, false);
}

/// The first word of the object lies on a page, the rest on one that is not there.
#[test]
fn an_object_across_the_end_of_what_is_there() {
    let place = |guest: &mut Hostile| {
        let at = guest.scratch(1 << 20);
        let gpa = guest.gpa(Gva(at.0 + 4096));
        guest.memory.take_away(gpa);
        at.0 + 4096 - 8
    };
    with_each(place, false);
}

#[test]
fn a_task_whose_page_was_taken_away() {
    let mut guest = Hostile::new();
    let at = guest.gpa(guest.task("lab-plain").at);
    guest.memory.take_away(at);
    let tasks = guest.look(|view| view.tasks());
    assert!(unreadable(&tasks.gaps) && !tasks.items.is_empty());
    // The pid table leads to those behind it.
    let table = guest.look(|view| view.tasks_by_pid());
    assert!(table.items.iter().any(|task| task.comm == "intruder"));
}

/// Every page of the image's objects gone, one after the other: whatever is missing is said to be.
#[test]
fn pages_taken_away_one_after_the_other() {
    let guest = Hostile::new();
    let places: Vec<Gva> =
        ["task", "mm", "files", "table", "file", "dentry"].map(|name| object(&guest, name)).into();
    let symbols = [
        "init_task",
        "modules",
        "init_pid_ns",
        "prog_idr",
        "net_namespace_list",
        "prb",
        "mod_tree",
        "tcp_hashinfo",
    ];
    for at in places.into_iter().chain(symbols.map(|name| guest.symbol(name))) {
        let mut guest = guest.clone();
        let gpa = guest.gpa(at);
        guest.memory.take_away(gpa);
        assert!(!guest.look(look_everywhere).is_empty(), "{at}");
    }
}
