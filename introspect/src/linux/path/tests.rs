//! Paths in hand-made memory: what `d_path` prints, and what a hostile guest may put there.

use super::*;
use crate::linux::testing::{Bench, composite, gva, number, pointer};

const EMBEDDED: u64 = 32;

/// A made-up layout: dentries of 96 bytes, mounts of 64 bytes.
fn bench() -> Bench {
    let mut bench = Bench::new();
    let (hash, parent, name_len, name) = (pointer(0), pointer(8), number(20, 4), pointer(24));
    let (inline_name, inode) = (composite(32, 24), pointer(56));
    let (operations, super_block) = (pointer(64), pointer(72));
    let (mount_parent, mount_point, mount_root) = (pointer(0), pointer(8), pointer(32));
    bench.layouts().path = Ok(PathLayout {
        dentry: Span::of(&[hash, parent, name_len, name, inline_name, inode, operations, super_block]),
        hash,
        parent,
        name_len,
        name,
        inline_name,
        inode,
        operations,
        super_block,
        fs_data: pointer(80),
        dname: pointer(0),
        mount_embedded: composite(EMBEDDED as u32, 24),
        mount: Span::of(&[mount_parent, mount_point, mount_root]),
        mount_parent,
        mount_point,
        mount_root,
        mount_ns: pointer(56),
        inode_number: number(0, 8),
        inode_private: pointer(8),
        fs_type: pointer(0),
        fs_name: pointer(0),
        ns_operations: pointer(0),
        ns_name: pointer(0),
        ns_by_inode: false,
    });
    bench
}

/// A hashed dentry with an inline name.
fn dentry(bench: &mut Bench, at: u64, parent: u64, name: &str) {
    bench.u64(at, 1).link(at + 8, parent).u32(at + 20, name.len() as u32);
    bench.link(at + 24, at + 32).bytes(at + 32, name.as_bytes());
}

fn mount(bench: &mut Bench, at: u64, parent: u64, point: u64, root: u64) {
    bench.link(at, parent).link(at + 8, point).link(at + 32, root).u64(at + 56, 1);
}

/// `/` (0x1000) has `mnt` (0x1100); a second mount there has `/` (0x1200) with `file` (0x1300).
fn two_mounts() -> Bench {
    let mut bench = bench();
    dentry(&mut bench, 0x1000, 0x1000, "/");
    dentry(&mut bench, 0x1100, 0x1000, "mnt");
    dentry(&mut bench, 0x1200, 0x1200, "/");
    dentry(&mut bench, 0x1300, 0x1200, "file");
    mount(&mut bench, 0x2000, 0x2000, 0x1000, 0x1000);
    mount(&mut bench, 0x2100, 0x2000, 0x1100, 0x1200);
    bench
}

fn path(bench: &Bench, mount: u64, dentry: u64) -> Result<String, GapReason> {
    bench.look(|view| view.path(gva(mount + EMBEDDED), gva(dentry)))
}

#[test]
fn crosses_mount_points() {
    assert_eq!(path(&two_mounts(), 0x2100, 0x1300), Ok("/mnt/file".to_owned()));
    assert_eq!(path(&two_mounts(), 0x2100, 0x1200), Ok("/mnt".to_owned()));
    assert_eq!(path(&two_mounts(), 0x2000, 0x1000), Ok("/".to_owned()));
}

#[test]
fn stops_at_the_root_asked_for() {
    let at = PathAt { mount: gva(0x2100 + EMBEDDED), dentry: gva(0x1300) };
    let root = PathAt { dentry: gva(0x1200), ..at };
    let seen = two_mounts().look(|view| view.path_below(at, Some(root)));
    assert_eq!(seen, Ok(("/file".to_owned(), Reach::Root)));
}

#[test]
fn a_detached_mount_says_so() {
    let mut bench = two_mounts();
    bench.link(0x2100, 0x2100).u64(0x2100 + 56, 0);
    let at = PathAt { mount: gva(0x2100 + EMBEDDED), dentry: gva(0x1300) };
    assert_eq!(bench.look(|view| view.path_below(at, None)), Ok(("/file".to_owned(), Reach::Detached)));
}

#[test]
fn unlinked_files_are_marked() {
    let mut bench = two_mounts();
    bench.u64(0x1300, 0);
    assert_eq!(path(&bench, 0x2100, 0x1300), Ok("/mnt/file (deleted)".to_owned()));
}

#[test]
fn sockets_are_named_by_inode() {
    let mut bench = two_mounts();
    // Operations with a d_dname; super block → type → name; inode number.
    bench.link(0x1300 + 64, 0x3000).u64(0x3000, 1).link(0x1300 + 72, 0x3100).link(0x3100, 0x3200);
    bench.link(0x3200, 0x3300).bytes(0x3300, b"sockfs\0").link(0x1300 + 56, 0x3400).u64(0x3400, 4242);
    assert_eq!(path(&bench, 0x2100, 0x1300), Ok("socket:[4242]".to_owned()));
}

#[test]
fn a_parent_cycle_ends() {
    let mut bench = two_mounts();
    dentry(&mut bench, 0x1400, 0x1500, "ping");
    dentry(&mut bench, 0x1500, 0x1400, "pong");
    assert_eq!(path(&bench, 0x2100, 0x1400), Err(GapReason::Cycle));
    assert_eq!(bench.look(|view| view.path_within_fs(gva(0x1400))), Err(GapReason::Cycle));
}

#[test]
fn a_mount_cycle_ends() {
    let mut bench = two_mounts();
    bench.link(0x2000, 0x2100);
    bench.link(0x2000 + 8, 0x1200);
    assert_eq!(path(&bench, 0x2100, 0x1300), Err(GapReason::Cycle));
}

#[test]
fn an_escaped_directory_is_the_root() {
    let mut bench = two_mounts();
    dentry(&mut bench, 0x1400, 0x1400, "gone");
    dentry(&mut bench, 0x1500, 0x1400, "file");
    assert_eq!(path(&bench, 0x2100, 0x1500), Ok("/".to_owned()));
}

#[test]
fn names_lie_about_length_and_place() {
    let mut bench = two_mounts();
    bench.u32(0x1300 + 20, u32::MAX);
    assert!(matches!(path(&bench, 0x2100, 0x1300), Err(GapReason::Inconsistent(_))));
    bench.u32(0x1300 + 20, 4).u64(0x1300 + 24, 0xdead_0000_0000_0000);
    assert!(matches!(path(&bench, 0x2100, 0x1300), Err(GapReason::Access(_))));
    bench.u64(0x1300 + 24, u64::MAX - 1);
    assert!(matches!(path(&bench, 0x2100, 0x1300), Err(GapReason::Access(_))));
}

#[test]
fn bytes_that_are_no_text_are_kept_as_far_as_possible() {
    let mut bench = two_mounts();
    bench.bytes(0x1300 + 32, b"\xff\x1b[m");
    assert_eq!(path(&bench, 0x2100, 0x1300), Ok("/mnt/\u{fffd}\u{1b}[m".to_owned()));
}

#[test]
fn null_and_wild_pointers_are_errors() {
    let bench = two_mounts();
    assert!(bench.look(|view| view.path(Gva(0), Gva(0))).is_err());
    assert!(bench.look(|view| view.path(gva(0x2020), Gva(0))).is_err());
    assert!(bench.look(|view| view.path(Gva(u64::MAX), gva(0x1300))).is_err());
}

/// Paths within a file system are what they are alone, whatever was asked for before in the same look.
#[test]
fn files_of_a_folder_share_its_path() {
    let mut bench = two_mounts();
    dentry(&mut bench, 0x1400, 0x1400, "/");
    dentry(&mut bench, 0x1500, 0x1400, "usr");
    dentry(&mut bench, 0x1600, 0x1500, "bin");
    dentry(&mut bench, 0x1700, 0x1600, "ls");
    // A byte that is told as three: what is left of the path without the name's own two is no folder's.
    dentry(&mut bench, 0x1800, 0x1600, "bc");
    bench.bytes(0x1800 + 32 + 1, b"\xff");
    let all = [0x1700, 0x1600, 0x1800, 0x1500, 0x1400, 0x1300];
    let ask = |view: &crate::linux::View<'_>, at: u64| view.path_within_fs(gva(at)).expect("a path");
    let alone = all.map(|at| bench.look(|view| ask(view, at)));
    assert_eq!(alone, ["/usr/bin/ls", "/usr/bin", "/usr/bin/b\u{fffd}", "/usr", "/", "/file"]);
    for turn in 0..all.len() {
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.rotate_left(turn);
        let told: Vec<String> = bench.look(|view| order.iter().map(|n| ask(view, all[*n])).collect());
        let expected: Vec<&String> = order.iter().map(|n| &alone[*n]).collect();
        assert_eq!(told.iter().collect::<Vec<_>>(), expected);
    }
}
