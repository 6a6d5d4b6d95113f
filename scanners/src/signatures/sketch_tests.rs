//! A sketch stands for the very bytes that a copy would hold, and what is known again by it is what a full scan says.

use super::HashList;
use super::cache::ScanCache;
use super::content::Content;
use super::engine::Externals;
use super::fingerprint::Digester;
use super::judge::{Bench, Desk, Done};
use super::layout::{Layout, Part};
use super::rescan_tests::{PIECES, RULES, rules_of};
use super::sketch::{Scratch, Seen};
use super::tests::Flat;
use super::walk::Job;
use crate::{Finding, Subject};
use lynceus_introspect::{Gpa, Partial};
use proptest::prelude::*;

pub(super) const PAGE: usize = 4096;
pub(super) const FRAMES: usize = 24;

/// Regions over the same few frames: maps with holes, files with holes and odd ends, pieces that end within a page.
pub(super) fn layouts() -> impl Strategy<Value = Layout> {
    let pages = prop::collection::vec((0..FRAMES, 0..4usize), 1..12);
    (any::<bool>(), pages, 0..2 * PAGE).prop_map(|(is_file, pages, cut)| {
        let mut layout =
            Layout { start: if is_file { 0 } else { 0x7000_0000 }, is_file, ..Layout::default() };
        let mut offset = 0;
        for (frame, hole) in pages {
            offset += hole.saturating_sub(2) * PAGE;
            layout.parts.push(Part {
                offset: offset as u64,
                gpa: Gpa((frame * PAGE) as u64),
                len: PAGE as u64,
            });
            offset += PAGE;
        }
        // The end is cut off, or, of a file, lies behind a hole.
        let end = if is_file && cut > PAGE { offset + cut } else { offset - cut.min(PAGE - 1) };
        if let Some(last) = layout.parts.last_mut() {
            last.len = last.len.min(end as u64 - last.offset);
        }
        (layout.end, layout.own_bytes) = (layout.start + end as u64, end as u64);
        layout
    })
}

pub(super) fn writes() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let longest = PIECES.iter().map(|piece| piece.len()).max().expect("pieces");
    prop::collection::vec((0..=FRAMES * PAGE - longest, 0..PIECES.len()), 0..12)
}

pub(super) fn write(ram: &mut [u8], writes: &[(usize, usize)]) {
    for (at, piece) in writes {
        let piece = PIECES[*piece];
        ram[*at..at + piece.len()].copy_from_slice(piece);
    }
}

fn job(index: u64, layout: &Layout) -> Job {
    let (start, end) = (layout.start, layout.end);
    let subject = if layout.is_file {
        let path = "/bin/x".to_owned();
        Subject::File { path, fs: "ext4".into(), inode: 1, size_bytes: end, deleted: false, sha256: None }
    } else {
        Subject::Memory {
            pid: None,
            comm: None,
            cgroup: None,
            container: None,
            start,
            end,
            path: String::new(),
        }
    };
    Job { index, subject, externals: Externals::default(), layout: layout.clone() }
}

/// What came of each region, and how many had to wait for others.
pub(super) fn judged(bench: &Bench<'_>, layouts: &[Layout]) -> (Vec<Done>, usize) {
    let (mut desk, mut done) = (Desk::default(), Vec::new());
    for (n, layout) in layouts.iter().enumerate() {
        bench.judge(job(n as u64, layout), &mut desk, &mut |one| done.push(one));
    }
    let at_once = done.len();
    bench.settle(&mut desk, &mut |one| done.push(one));
    done.sort_by_key(|one| one.index);
    (done, layouts.len() - at_once)
}

fn found(bench: &Bench<'_>, layouts: &[Layout]) -> (Vec<Finding>, u64) {
    let (done, _) = judged(bench, layouts);
    let reused = done.iter().map(|done| done.summary.reused_regions).sum();
    (done.into_iter().flat_map(|done| done.found.items).collect(), reused)
}

#[test]
fn a_sketch_is_the_fingerprint_of_what_would_be_copied() {
    let digester = Digester::new().expect("random numbers");
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let steps = prop::sample::select(vec![0, PAGE, 3 * PAGE, 1 << 20]);
    let input = (prop::collection::vec(layouts(), 1..6), writes(), any::<bool>(), steps);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&input, |(layouts, writes, remember, step)| {
        let mut ram = vec![0; FRAMES * PAGE];
        write(&mut ram, &writes);
        let (memory, seen) = (Flat::new(&ram).by(step), Seen::new(true));
        let mut scratch = Scratch::default();
        for layout in &layouts {
            let mut content = Content::default();
            let mut gaps = Partial::<()>::default();
            let copied = content.fill(&memory, layout, Some(&digester), &mut gaps).expect("a digester");
            if remember {
                seen.remember(layout, content.page_digests());
            }
            let sketch = seen.sketch(&memory, layout, &digester, &mut scratch).expect("whole pages");
            prop_assert_eq!(sketch.fingerprint, copied);
            prop_assert_eq!(sketch.present_bytes, content.present_bytes());
        }
        Ok(())
    });
    result.expect("equal fingerprints");
}

#[test]
fn there_is_no_sketch_of_what_is_not_in_pages_or_not_there() {
    let (digester, memory) = (Digester::new().expect("random numbers"), Flat::new(&[1; 2 * PAGE]));
    let part = |offset, gpa, len| Part { offset, gpa: Gpa(gpa), len };
    let page = PAGE as u64;
    let of = |parts: Vec<Part>| Layout { end: 4 * page, own_bytes: 4 * page, parts, ..Layout::default() };
    let sketch =
        |layout: &Layout| Seen::new(true).sketch(&memory, layout, &digester, &mut Scratch::default());
    assert!(sketch(&of(vec![part(0, 0, page)])).is_some());
    let strange = [
        vec![part(0, 16, page)],
        vec![part(16, 0, page)],
        vec![part(0, 0, 100), part(page, page, page)],
        vec![part(0, 5 * page, page)],
        vec![part(0, 0, 8 * page)],
        vec![part(page, 0, page), part(0, page, page)],
    ];
    for parts in strange {
        assert!(sketch(&of(parts.clone())).is_none(), "{parts:?}");
    }
    let first = Seen::new(false);
    assert!(first.sketch(&memory, &of(vec![part(0, 0, page)]), &digester, &mut Scratch::default()).is_none());
}

#[test]
fn what_is_known_again_is_what_a_full_scan_finds() {
    let rules = rules_of(RULES);
    let hashes = HashList::parse(b"").expect("an empty list");
    let config = ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() };
    let reused_in_all = std::cell::Cell::new(0);
    let input =
        (prop::collection::vec(layouts(), 1..6), prop::collection::vec(writes(), 1..5), any::<bool>());
    let result = proptest::test_runner::TestRunner::new(config).run(&input, |(layouts, rounds, hashed)| {
        let cache = ScanCache::new(1 << 20).expect("random numbers");
        let mut ram = vec![0; FRAMES * PAGE];
        for writes in &rounds {
            write(&mut ram, writes);
            let memory = Flat::new(&ram);
            let bench = |cache, seen| Bench {
                hashes: hashed.then_some(&hashes),
                seen,
                ..Bench::new(&memory, &rules, cache)
            };
            let (full, _) = found(&bench(None, Seen::default()), &layouts);
            // As it is, and once more: then all of it is known.
            for _ in 0..2 {
                let seen = Seen::new(cache.knows_something());
                let (again, reused) = found(&bench(Some(&cache), seen), &layouts);
                reused_in_all.set(reused_in_all.get() + reused);
                prop_assert_eq!(&again, &full);
            }
        }
        Ok(())
    });
    result.expect("equal findings");
    assert!(reused_in_all.get() > 100, "{}", reused_in_all.get());
}

/// A piece of all RAM is known again without a copy, and none of its frames takes room that others could use.
#[test]
fn what_nobody_shares_is_sketched_and_not_remembered() {
    let (digester, memory) = (Digester::new().expect("random numbers"), Flat::new(&[1; 3 * PAGE]));
    let bytes = (3 * PAGE) as u64;
    let parts = vec![Part { offset: 0, gpa: Gpa(0), len: bytes }];
    let layout = Layout { end: bytes, own_bytes: bytes, is_unshared: true, parts, ..Layout::default() };
    let mut gaps = Partial::<()>::default();
    let copied = Content::default().fill(&memory, &layout, Some(&digester), &mut gaps);
    let seen = Seen::new(true);
    for _ in 0..2 {
        let sketch = seen.sketch(&memory, &layout, &digester, &mut Scratch::default()).expect("whole pages");
        assert_eq!((Some(sketch.fingerprint), seen.len()), (copied, 0));
    }
    let first = Seen::new(false).sketch(&memory, &layout, &digester, &mut Scratch::default());
    assert!(first.is_none(), "in a first scan it would only cost");
}
