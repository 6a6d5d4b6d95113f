//! Every fuzz target still compiles, and takes its seeds and a few hundred inputs made by chance: `cargo xtask fuzz` is not run often
//! enough to be the first that learns of a type that was renamed.
//!
//! The targets are taken in as modules; this crate calls itself `libfuzzer_sys` to them.

#![allow(
    unused_attributes,
    unused_imports,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "targets are programs of their own, say `no_main`, and take in what several of them need"
)]

extern crate self as libfuzzer_sys;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What libFuzzer's own makes a program of becomes a function.
#[macro_export]
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:expr) => {
        pub(crate) fn run($data: &[u8]) {
            $body
        }
    };
}

macro_rules! targets {
    ($($name:ident $path:literal,)*) => {
        $(#[path = $path] mod $name;)*
        /// Names and functions.
        const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::run),)*];
    };
}

targets! {
    alert "../fuzz/fuzz_targets/alert.rs",
    btf "../fuzz/fuzz_targets/btf.rs",
    dump "../fuzz/fuzz_targets/dump.rs",
    dwarf "../fuzz/fuzz_targets/dwarf.rs",
    evidence "../fuzz/fuzz_targets/evidence.rs",
    flows "../fuzz/fuzz_targets/flows.rs",
    hashes "../fuzz/fuzz_targets/hashes.rs",
    isf "../fuzz/fuzz_targets/isf.rs",
    kernel_file "../fuzz/fuzz_targets/kernel_file.rs",
    module_file "../fuzz/fuzz_targets/module_file.rs",
    names "../fuzz/fuzz_targets/names.rs",
    page_walk "../fuzz/fuzz_targets/page_walk.rs",
    policy "../fuzz/fuzz_targets/policy.rs",
    store "../fuzz/fuzz_targets/store.rs",
    system_map "../fuzz/fuzz_targets/system_map.rs",
    views "../fuzz/fuzz_targets/views.rs",
}

/// These need what the crates make public for fuzzers alone, by `cfg(fuzzing)`.
const ELSEWHERE: [&str; 2] = ["kallsyms", "spool"];
/// Inputs made by chance, for each target.
const INPUTS: u32 = 200;

#[test]
fn every_target_is_here() {
    let names = |path: PathBuf| -> BTreeSet<String> {
        let files = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
        let targets = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
        targets.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect()
    };
    let here = TARGETS.iter().map(|(name, _)| *name).chain(ELSEWHERE).map(str::to_owned).collect();
    assert_eq!(names(fuzz().join("fuzz_targets")), here);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the fuzzer's Cargo.toml");
    for name in here {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml lacks {name}");
    }
}

#[test]
fn targets_take_their_seeds() {
    for (name, run) in TARGETS {
        let Ok(seeds) = fs::read_dir(fuzz().join("seeds").join(name)) else { continue };
        for seed in seeds {
            run(&fs::read(seed.expect("an entry").path()).expect("a seed"));
        }
    }
}

#[test]
fn targets_take_bytes_made_by_chance() {
    let mut state = 0x2545_f491u32;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    for (_, run) in TARGETS {
        for number in 0..INPUTS {
            // Mostly short, some long.
            let len = next() % if number % 20 == 0 { 20_000 } else { 300 };
            let bytes: Vec<u8> = (0..len).map(|_| next().to_le_bytes()[1]).collect();
            run(&bytes);
        }
    }
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}
