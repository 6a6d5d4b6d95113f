//! Regions that wait until their new pages are searched are judged as full scans judge them, and a guest that writes meanwhile leaves
//! nothing wrong behind.

use super::Rules;
use super::cache::ScanCache;
use super::judge::Bench;
use super::layout::{Layout, Part};
use super::rescan_tests::{OF_FILES, RULES, rules_of};
use super::sketch::Seen;
use super::sketch_tests::{FRAMES, PAGE, judged, layouts, write, writes};
use super::tests::Flat;
use crate::Finding;
use lynceus_introspect::{Gpa, GpaRange, GuestMemory, ReadError};
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What wants a match and asks for nothing else, what reads bytes beside that or reaches far, what may hold without a match.
const QUIET: &[&str] = &["inner", "plain", "broad", "jump", "all_of", "place", "short", "xored", "sized"];
const READING: &[&str] =
    &["plain", "jump", "short", "reads", "last_byte", "far_jump", "open_jump", "regex", "anchored", "at_end"];
const LOUD: &[&str] = &[
    "inner",
    "plain",
    "word",
    "order",
    "near",
    "none_of",
    "encoded",
    "at_the_end",
    "sizeless",
    "greedy",
    "header",
    "depends",
];

fn rules(names: &[&str]) -> Rules {
    let is_named = |line: &&str| names.iter().any(|name| line.contains(&format!("rule {name} ")));
    let text: Vec<&str> = RULES.lines().chain(OF_FILES.lines()).filter(is_named).collect();
    assert_eq!(text.len(), names.len());
    rules_of(&text.join("\n"))
}

/// RAM that is another after so many reads, and counts the bytes that are read.
struct Writing {
    first: Flat,
    then: Flat,
    left: AtomicUsize,
    bytes: AtomicUsize,
}

impl Writing {
    fn new(first: &[u8], then: &[u8], after: usize) -> Writing {
        let (left, bytes) = (AtomicUsize::new(after), AtomicUsize::new(0));
        Writing { first: Flat::new(first), then: Flat::new(then), left, bytes }
    }
}

impl GuestMemory for Writing {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        self.bytes.fetch_add(buf.len(), Ordering::Relaxed);
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_ok() { self.first.read(at, buf) } else { self.then.read(at, buf) }
    }

    fn ram(&self) -> &[GpaRange] {
        self.first.ram()
    }
}

/// What is found in some regions, and how many of them had to wait.
fn found(
    memory: &(dyn GuestMemory + Send + Sync),
    rules: &Rules,
    cache: Option<&ScanCache>,
    layouts: &[Layout],
) -> (Vec<Finding>, usize) {
    found_by(1, memory, rules, cache, layouts)
}

fn found_by(
    threads: usize,
    memory: &(dyn GuestMemory + Send + Sync),
    rules: &Rules,
    cache: Option<&ScanCache>,
    layouts: &[Layout],
) -> (Vec<Finding>, usize) {
    let seen = Seen::new(cache.is_some());
    let bench = Bench { seen, threads, ..Bench::new(memory, rules, cache) };
    let (done, waited) = judged(&bench, layouts);
    (done.into_iter().flat_map(|done| done.found.items).collect(), waited)
}

#[test]
fn what_waits_is_judged_as_by_a_full_scan() {
    for names in [QUIET, READING, LOUD] {
        let (rules, waited) = (rules(names), std::cell::Cell::new(0));
        let config = ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() };
        let input = (
            prop::collection::vec(layouts(), 1..6),
            prop::collection::vec((writes(), writes(), 0..60usize), 2..5),
        );
        let result = proptest::test_runner::TestRunner::new(config).run(&input, |(layouts, rounds)| {
            let cache = ScanCache::new(1 << 20).expect("random numbers");
            let mut ram = vec![0; FRAMES * PAGE];
            for (writes, more, after) in &rounds {
                write(&mut ram, writes);
                let before = ram.clone();
                write(&mut ram, more);
                // What comes of a scan beside which somebody writes is anything. What is remembered of it is not.
                found(&Writing::new(&before, &ram, *after), &rules, Some(&cache), &layouts);
                for ram in [&ram, &before] {
                    let memory = Flat::new(ram);
                    let (full, _) = found(&memory, &rules, None, &layouts);
                    let (again, so_many) = found(&memory, &rules, Some(&cache), &layouts);
                    waited.set(waited.get() + so_many);
                    prop_assert_eq!(again, full);
                }
            }
            Ok(())
        });
        result.expect("equal findings");
        assert!(waited.get() > 50, "{} {names:?}", waited.get());
    }
}

/// Where no rule may hold by what matches and by the first bytes, the region is not copied.
#[test]
fn a_region_in_which_no_rule_may_hold_is_not_copied() {
    let two = "rule two { strings: $a = \"alpha\" $b = \"beta\" condition: all of them }
        rule other { strings: $c = \"gamma\" $d = \"gamma\" condition: $c and $d }
        rule there { strings: $a = \"alpha\" condition: $a in (28672..32768) }";
    let reads = "rule reads { strings: $a = \"alpha\" condition: $a and uint8(0) == 7 }";
    let far = "rule far { strings: $a = { 61 6c 70 [0-9000] 2d 21 } $b = \"beta\" condition: $a and $b }";
    let unmarked = "rule far { strings: $a = /[ab]l[pq]*!/ $b = \"gamma\" condition: $a and $b }";
    let behind = "rule behind { strings: $a = \"alpha\" condition: $a and uint8(5000) == 7 }";
    let bytes = (20 * PAGE) as u64;
    let parts = vec![Part { offset: 0, gpa: Gpa(0), len: bytes }];
    let layout = [Layout { end: bytes, own_bytes: bytes, parts, ..Layout::default() }];
    for (text, is_copied) in [(two, 0), (reads, 0), (far, 0), (unmarked, 0), (behind, 1)] {
        let (rules, cache) = (rules_of(text), ScanCache::new(1 << 20).expect("random numbers"));
        let mut ram = vec![0; 20 * PAGE];
        // No two pages are equal.
        (0..20u8).for_each(|page| ram[usize::from(page) * PAGE + 100] = page + 1);
        ram[3 * PAGE + 2000..][..8].copy_from_slice(b"alpha-!!");
        for round in 1..4 {
            ram[10 * PAGE] = round;
            let memory = Writing::new(&ram, &ram, 0);
            let (again, _) = found(&memory, &rules, Some(&cache), &layout);
            assert_eq!(again, []);
            let pages = memory.bytes.into_inner() / PAGE;
            // At first all pages are new: they are read to know them, and copied, each with the next one's head.
            let expected = 20 + if round == 1 { 20 } else { 1 } + 20 * is_copied;
            assert!((expected..expected + 6).contains(&pages), "{pages} in {round}: {text}");
        }
        // And where other strings match, or elsewhere, they are asked.
        for (page, piece) in [
            (3, b"gamma"),
            (3, b"-----"),
            (5, b"alpha"),
            (7, b"alpha"),
            (9, b"beta "),
            (1, b"--al!"),
            (15, b"alp-!"),
            (13, b"gamma"),
        ] {
            ram[page * PAGE + 2000..][..5].copy_from_slice(piece);
            (ram[0], ram[5000]) = (7, 7);
            let (full, _) = found(&Flat::new(&ram), &rules, None, &layout);
            assert_eq!(found(&Flat::new(&ram), &rules, Some(&cache), &layout).0, full, "{piece:?}: {text}");
        }
        assert!(!found(&Flat::new(&ram), &rules, None, &layout).0.is_empty(), "{text}");
    }
}

/// What was digested and what was searched must be the same.
#[test]
fn a_guest_that_writes_meanwhile_leaves_nothing_wrong() {
    let rules = rules_of("rule one { strings: $a = /ga.{0,60}mma/s condition: $a }");
    let bytes = (20 * PAGE) as u64;
    let parts = vec![Part { offset: 0, gpa: Gpa(0), len: bytes }];
    let layout = [Layout { end: bytes, own_bytes: bytes, parts, ..Layout::default() }];
    // In a page, and across two of which the second one is known.
    for (at, after) in [5 * PAGE, 5 * PAGE - 30].into_iter().flat_map(|at| (0..16).map(move |n| (at, n))) {
        let cache = ScanCache::new(1 << 20).expect("random numbers");
        let mut ram = vec![0; 20 * PAGE];
        ram[at + 40..][..3].copy_from_slice(b"mma");
        found(&Flat::new(&ram), &rules, Some(&cache), &layout);
        ram[at..][..2].copy_from_slice(b"ga");
        let mut later = ram.clone();
        later[at + 40] = 0;
        found(&Writing::new(&ram, &later, after), &rules, Some(&cache), &layout);
        for (ram, is_found) in [(&ram, true), (&later, false)] {
            let (again, _) = found(&Flat::new(ram), &rules, Some(&cache), &layout);
            assert_eq!(!again.is_empty(), is_found, "written after {after} reads");
        }
    }
}

/// Each match once, also where two threads search what it lies across.
#[test]
fn several_threads_find_in_a_large_region_what_one_finds() {
    const PAGES: usize = 600;
    let text = |count: usize| format!("rule all {{ strings: $a = \"alpha-!!\" condition: #a == {count} }}");
    let mut ram = vec![0; PAGES * PAGE];
    for page in 0..PAGES {
        ram[page * PAGE + 100..][..2].copy_from_slice(&(page as u16 + 1).to_le_bytes());
        // Of the eight bytes up to eight lie on the page before.
        ram[(page * PAGE).saturating_sub(page % 9)..][..8].copy_from_slice(b"alpha-!!");
    }
    // In one run, and in two with something between them.
    let bytes = (PAGES * PAGE) as u64;
    let part = |offset, gpa, len| Part { offset, gpa: Gpa(gpa), len };
    let half = bytes / 2;
    let places: [(Vec<Part>, usize); 2] = [
        (vec![part(0, 0, bytes)], PAGES),
        // The page in the middle begins three bytes after its match.
        (vec![part(0, 0, half), part(half + PAGE as u64, half, half)], PAGES - 1),
    ];
    assert_eq!(PAGES / 2 % 9, 3);
    for (parts, count) in places {
        let layout = [Layout { end: 2 * bytes, own_bytes: 2 * bytes, parts, ..Layout::default() }];
        for (count, is_there) in [(count, true), (count + 1, false), (count - 1, false)] {
            let rules = rules_of(&text(count));
            for threads in 1..6 {
                let cache = ScanCache::new(1 << 20).expect("random numbers");
                let memory = Writing::new(&ram, &ram, 0);
                let (found, _) = found_by(threads, &memory, &rules, Some(&cache), &layout);
                assert_eq!(found.len(), usize::from(is_there), "{count} in {threads} threads");
                // Where no rule may hold, the region was digested, and its pages copied, once each.
                let pages = memory.bytes.into_inner() / PAGE;
                assert!(is_there || (2 * PAGES - 2..PAGES * 5 / 2).contains(&pages), "{pages}");
            }
        }
    }
}
