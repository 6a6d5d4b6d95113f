//! The kernel that the fuzz target of the views looks at (`fuzz/fuzz_targets/toy`) has all that the views ask a kernel for, and the
//! target asks for all views: what is added to the one must be added to the other, or the fuzzer finds nothing.

#![allow(unreachable_pub, reason = "the toy is made for another program")]

#[path = "../../fuzz/fuzz_targets/toy/mod.rs"]
mod toy;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What reads memory for others, or is handed what others have read.
const NO_VIEWS: [&str; 12] = [
    "new",
    "kernel",
    "space",
    "user_space",
    "bytes",
    "u32",
    "u64",
    "pointer",
    "integer",
    "string",
    "list",
    "pids",
];

#[test]
fn it_has_every_layout() {
    let unavailable = toy::guest(&[]).kernel().layouts.unavailable();
    assert_eq!(unavailable, Vec::<String>::new(), "add it to fuzz/fuzz_targets/toy/kernel.types");
}

#[test]
fn it_has_every_symbol_and_type() {
    let guest = toy::guest(&[]);
    let looks = toy::looks::everything(&guest.view(), toy::object(0x4000));
    assert_eq!(looks.lacking, [], "add it to fuzz/fuzz_targets/toy, mod.rs or kernel.types");
}

/// Pointers that lead to objects, so that what is behind them is looked at, too.
#[test]
fn it_has_them_whatever_is_in_its_memory() {
    for seed in 0u32..64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        };
        let writes: Vec<u8> = (0..20_000).map(|_| byte()).collect();
        let guest = toy::guest(&writes);
        let looks = toy::looks::everything(&guest.view(), toy::object(u16::from(byte()) << 6));
        assert_eq!(looks.lacking, [], "add it to fuzz/fuzz_targets/toy, mod.rs or kernel.types");
    }
}

#[test]
fn every_view_is_asked_for() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let asked = fs::read_to_string(here.join("../fuzz/fuzz_targets/toy/looks.rs")).expect("the toy's looks");
    let mut views = BTreeSet::new();
    for file in sources(&here.join("src/linux")) {
        views.extend(views_in(&fs::read_to_string(&file).expect("a source file")));
    }
    assert!(views.len() > 50, "views are not found in the sources any more: {views:?}");
    let missing: Vec<_> = views
        .iter()
        .filter(|view| !NO_VIEWS.contains(&view.as_str()) && !asked.contains(&format!("view.{view}(")))
        .collect();
    assert!(missing.is_empty(), "add to fuzz/fuzz_targets/toy/looks.rs: {missing:?}");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.into_iter().chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}

/// Public methods of `View`.
fn views_in(source: &str) -> Vec<String> {
    let blocks = source.split("\nimpl").skip(1).filter(|block| {
        block.lines().next().is_some_and(|line| line.contains("View<'") && !line.contains(" for "))
    });
    let bodies = blocks.filter_map(|block| block.split("\n}\n").next());
    let methods = bodies.flat_map(|body| body.split("\n    pub fn ").skip(1));
    methods.filter_map(|text| Some(text.split(['(', '<']).next()?.to_owned())).collect()
}
