//! Attack 6: names without an end, in circles, of no encoding, and made to break the terminal or log that shows them.

use crate::hostile::{Hostile, has, look_everywhere, unreadable};
use lynceus_introspect::{GapReason, Gva};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};

/// Names that are dangerous to show, as they fit into `task_struct.comm`.
const DANGEROUS: [&[u8]; 6] = [
    b"\x1b[2J\x1b[31mowned\0",
    b"a\n0 0 root init\0",
    b"\",\"pid\":1,\"x\0",
    b"\xff\xfe\x80\xc0 bad\0",
    b"\xe2\x80\xae\xd7\x90rtl\0",
    b"\r\x08\x08\x07\x00",
];

/// The command line on the attacked image.
fn lynceus(guest: &Hostile, args: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    fs::copy(guest.image(), &image).expect("a copy of the image");
    let file = File::options().write(true).open(&image).expect("the copy");
    for (at, page) in guest.memory.written() {
        file.write_all_at(page, at.0).expect("a page of it");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_lynceus"));
    command.args(args).arg(&image).env("LYNCEUS_PROFILES", folder.path().join("profiles"));
    command.output().expect("lynceus starts")
}

#[test]
fn a_process_name_without_an_end() {
    let mut guest = Hostile::new();
    let comm = guest.member(guest.task("lab-plain").at, "task_struct", "comm");
    guest.write(comm, &[b'A'; 16]);
    let tasks = guest.look(|view| view.tasks());
    assert!(tasks.is_complete());
    assert!(tasks.items.iter().any(|task| task.comm == "A".repeat(16)));
}

#[test]
fn a_module_name_without_an_end() {
    let mut guest = Hostile::new();
    let module = guest.look(|view| view.modules()).items.swap_remove(0);
    let name = guest.field("module", "name");
    guest.write(module.at.field(name.offset), &vec![b'A'; name.size as usize]);
    let modules = guest.look(|view| view.modules());
    assert!(modules.items.iter().any(|module| module.name == "A".repeat(name.size as usize)));
    guest.look(look_everywhere);
}

#[test]
fn an_interface_name_without_an_end() {
    let mut guest = Hostile::new();
    let name = guest.field("net_device", "name");
    let head = guest.member(guest.symbol("init_net"), "net", "dev_base_head");
    let device = Gva(guest.read_u64(head) - u64::from(guest.field("net_device", "dev_list").offset));
    guest.write(device.field(name.offset), &vec![b'A'; name.size as usize]);
    let found = guest.look(|view| view.interfaces());
    assert!(found.items.iter().any(|interface| interface.name == "A".repeat(name.size as usize)));
}

/// The name says that it is longer than the page that it lies on, and the next one is not there.
#[test]
fn a_file_name_that_runs_off_the_end_of_memory() {
    let mut guest = Hostile::new();
    let (dentry, scratch) = (guest.dentry(), guest.scratch(1 << 20));
    let gone = guest.gpa(Gva(scratch.0 + 4096));
    guest.memory.take_away(gone);
    guest.write(Gva(scratch.0 + 4088), b"endless!");
    let places = ["d_name.name", "d_name.len"].map(|member| guest.member(dentry, "dentry", member));
    guest.u64(places[0], scratch.0 + 4088).u32(places[1], 200);
    let files = guest.look(|view| view.files(guest.task("lab-files").files));
    assert!(unreadable(&files.gaps), "{:?}", files.gaps);
}

#[test]
fn directories_that_are_each_others_parents() {
    let mut guest = Hostile::new();
    // Not at the top of its mount, where no parent is read.
    let parent = |at: Gva| Gva(guest.read_u64(guest.member(at, "dentry", "d_parent")));
    let tasks = guest.look(|view| view.tasks()).items;
    let deep = tasks.iter().filter(|task| !task.mm.is_null()).find_map(|task| {
        let mm = guest.look(|view| view.mm(task.mm)).ok().filter(|mm| !mm.exe_file.is_null())?;
        let dentry = Gva(guest.read_u64(guest.member(mm.exe_file, "file", "f_path.dentry")));
        (parent(parent(dentry)) != parent(dentry)).then_some((mm, dentry))
    });
    let (mm, dentry) = deep.expect("a program in a directory");
    let above = parent(dentry);
    let place = guest.member(above, "dentry", "d_parent");
    guest.u64(place, dentry.0);
    assert_eq!(guest.look(|view| view.exe(&mm)), Err(GapReason::Cycle));
    assert!(has(&guest.look(look_everywhere), &GapReason::Cycle));
}

#[test]
fn mounts_that_are_each_others_parents() {
    let mut guest = Hostile::new();
    let task = guest.task("lab-plain");
    let root = guest.look(|view| view.root_of(&task)).expect("a root").expect("a living task");
    let mount = Gva(root.mount.0 - u64::from(guest.field("mount", "mnt").offset));
    let space = guest.scratch(1 << 20);
    let bytes = guest.field("mount", "mnt_ns").offset as usize + 64;
    // Its copy lies above it, and it above its copy.
    guest.copy(mount, space, bytes);
    let above = guest.member(mount, "mount", "mnt_parent");
    let below = guest.member(space, "mount", "mnt_parent");
    guest.u64(above, space.0).u64(below, mount.0);
    let gaps = guest.look(look_everywhere);
    assert!(has(&gaps, &GapReason::Cycle), "{gaps:?}");
}

#[test]
fn names_in_no_encoding_stay_text() {
    for name in DANGEROUS {
        let mut guest = Hostile::new();
        let comm = guest.member(guest.task("lab-plain").at, "task_struct", "comm");
        guest.write(comm, name);
        let tasks = guest.look(|view| view.tasks());
        let end = name.iter().position(|byte| *byte == 0).expect("an end");
        let expected = String::from_utf8_lossy(&name[..end]);
        assert!(tasks.items.iter().any(|task| task.comm == expected), "{expected:?}");
    }
}

/// A row stays a row, and no byte of the guest's reaches the terminal as a command.
#[test]
fn a_terminal_sees_no_escapes_and_no_lines_of_the_guest() {
    let rows = |output: &Output| String::from_utf8(output.stdout.clone()).expect("UTF-8").lines().count();
    let sound = rows(&lynceus(&Hostile::new(), &["ps"]));
    for name in DANGEROUS {
        let mut guest = Hostile::new();
        let comm = guest.member(guest.task("lab-plain").at, "task_struct", "comm");
        guest.write(comm, name);
        for listing in ["ps", "tree"] {
            let output = lynceus(&guest, &[listing]);
            assert_eq!(output.status.code(), Some(0), "{name:?}");
            let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
            let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
            assert_eq!(bad, None, "{listing} {name:?}");
            assert!(listing == "tree" || rows(&output) == sound, "{name:?}: {text}");
        }
    }
}

/// A line of JSON stays one, and carries the name as the guest has it.
#[test]
fn json_carries_names_that_would_break_it() {
    for name in DANGEROUS {
        let mut guest = Hostile::new();
        let task = guest.task("lab-plain");
        let comm = guest.member(task.at, "task_struct", "comm");
        guest.write(comm, name);
        let output = lynceus(&guest, &["--json", "ps"]);
        let end = name.iter().position(|byte| *byte == 0).expect("an end");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let rows: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a line is a value")).collect();
        let row = rows.iter().find(|row| row["pid"] == task.pid).expect("its row");
        assert_eq!(row["comm"], *String::from_utf8_lossy(&name[..end]));
    }
}
