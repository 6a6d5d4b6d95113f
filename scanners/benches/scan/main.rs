//! What scans of a real guest's image cost: `LYNCEUS_BENCH_IMAGE=RAW cargo bench -p lynceus-scanners --bench scan`.
//!
//! Prints a line a figure: name, a tab, nanoseconds (the fastest of some rounds) or a count. `cargo xtask bench` makes the image. Rules are made from
//! the guest's own bytes, as many as field sets have; `LYNCEUS_BENCH_RULES=PATH` takes others.

mod engines;
mod guest;

use guest::{Changing, Look};
use lynceus_introspect::Gpa;
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::observe::Options;
use lynceus_scanners::signatures::{self, Rules, ScanCache, Scope, Summary, Wanted};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const DEFAULT: Scope = Scope { processes: true, files: true, kernel: true, physical: false, pid: None };
const ALL_RAM: Scope = Scope { processes: false, files: false, kernel: false, physical: true, pid: None };
const TURNS: usize = 9;
const ROUNDS: usize = 3;
const CLONES: usize = 10;

fn main() {
    let Some(path) = std::env::var_os("LYNCEUS_BENCH_IMAGE") else {
        println!("LYNCEUS_BENCH_IMAGE is not set: nothing to scan (cargo xtask bench makes an image)");
        return;
    };
    let memory = Changing::open(path.as_ref());
    let look = guest::look(memory.clone());
    let folder = tempfile::tempdir().expect("a folder");
    let rules_path = std::env::var_os("LYNCEUS_BENCH_RULES").map(PathBuf::from);
    let rules_path = rules_path.unwrap_or_else(|| guest::make_rules(&look, folder.path()));
    let rules = Rules::load(std::slice::from_ref(&rules_path)).expect("rules");
    let line = |name: &str, value: f64| println!("{name}\t{value:.1}");
    line("rules", rules.len() as f64);

    let flat = guest::flat(&look);
    line("flat bytes", flat.len() as f64);
    let wanted = Wanted::new(&rules, DEFAULT);
    let by_two = Wanted { threads: 2, ..wanted };
    let mut works: Vec<Work<'_>> = vec![
        ("scan without a cache".to_owned(), Box::new(|| full(&look.guest, &wanted))),
        ("full scan, two threads".to_owned(), Box::new(|| with(&look, &by_two, &new_cache(&memory)))),
    ];
    for (name, mut scan) in engines::flat(&rules_path, &flat, &line) {
        let timed = move || {
            let started = Instant::now();
            scan();
            (started.elapsed().as_nanos() as f64, Summary::default())
        };
        works.push((name.to_owned(), Box::new(timed)));
    }
    rescans("", &look, &memory, &wanted, works, &line);
    rescans("all RAM, ", &look, &memory, &Wanted::new(&rules, ALL_RAM), Vec::new(), &line);
    clones(&path, &wanted, &line);
}

/// Something that takes time, by its name: nanoseconds, and what it covered.
type Work<'w> = (String, Box<dyn FnMut() -> (f64, Summary) + 'w>);

/// The fastest round of each: what else runs on the machine only ever makes a round slower. They take turns, so that all have had the
/// same chances, and their ratios hold; a turn is some rounds, because a core that has slept since the last two threads is slow at first.
fn fastest(mut works: Vec<Work<'_>>) -> Vec<(String, f64, Summary)> {
    let mut best: Vec<(String, f64, Summary)> =
        works.iter().map(|(name, _)| (name.clone(), f64::MAX, Summary::default())).collect();
    for _ in 0..TURNS {
        for ((_, work), best) in works.iter_mut().zip(&mut best) {
            for _ in 0..ROUNDS {
                let (nanos, summary) = work();
                if nanos < best.1 {
                    (best.1, best.2) = (nanos, summary);
                }
            }
        }
    }
    best
}

fn full(guest: &LinuxGuest, wanted: &Wanted<'_>) -> (f64, Summary) {
    let started = Instant::now();
    let (found, summary) = signatures::scan(guest, &Options::default(), wanted, &mut |_| ());
    std::hint::black_box(found);
    (started.elapsed().as_nanos() as f64, summary)
}

/// The same with a cache.
fn with(look: &Look, wanted: &Wanted<'_>, cache: &ScanCache) -> (f64, Summary) {
    full(&look.guest, &Wanted { cache: Some(cache), ..*wanted })
}

/// An empty cache, as large as scans of this guest may have.
fn new_cache(memory: &Changing) -> ScanCache {
    ScanCache::new(memory.ram_bytes() / 100).expect("random numbers")
}

/// A full scan, a second one of the same, and second ones after one page in a hundred was written to; and others in turn with these.
fn rescans<'w>(
    scope: &str,
    look: &'w Look,
    memory: &'w Changing,
    wanted: &Wanted<'w>,
    mut works: Vec<Work<'w>>,
    line: &impl Fn(&str, f64),
) {
    let (wanted, count) = (*wanted, look.all.len() / 100);
    let rescan = |change: Option<(&'w [Gpa], bool)>| {
        let cache = new_cache(memory);
        with(look, &wanted, &cache);
        Box::new(move || {
            if let Some((pages, clustered)) = change {
                memory.change(pages, count, clustered, rand());
            }
            let done = with(look, &wanted, &cache);
            memory.restore();
            done
        })
    };
    let rescanned = "rescan, one page in 100 changed";
    works.push((format!("{scope}full scan"), Box::new(move || with(look, &wanted, &new_cache(memory)))));
    works.push((format!("{scope}rescan, nothing changed"), rescan(None)));
    works.push((format!("{scope}{rescanned}, clustered"), rescan(Some((&look.written, true)))));
    works.push((format!("{scope}{rescanned}, anywhere"), rescan(Some((&look.all, false)))));
    for (name, nanos, summary) in fastest(works) {
        line(&name, nanos);
        if name.starts_with(&format!("{scope}rescan")) {
            line(&format!("{name}, bytes scanned"), (summary.bytes - summary.reused_bytes) as f64);
        }
    }
    let cache = new_cache(memory);
    let (_, summary) = with(look, &wanted, &cache);
    line(&format!("{scope}cache bytes"), cache.len_bytes() as f64);
    line(&format!("{scope}scanned bytes"), summary.bytes as f64);
}

/// Another number at every call.
fn rand() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(0x9e37, Ordering::Relaxed)
}

/// One guest, and ten that differ in one page of a hundred.
fn clones(path: &std::ffi::OsStr, wanted: &Wanted<'_>, line: &impl Fn(&str, f64)) {
    let guests: Vec<(Arc<Changing>, Look)> = (0..CLONES)
        .map(|number| {
            let memory = Changing::open(path.as_ref());
            let look = guest::look(memory.clone());
            if number > 0 {
                memory.change(&look.written, look.all.len() / 100, true, number * 7);
            }
            (memory, look)
        })
        .collect();
    let scan = |count: usize| {
        let limit = guests.iter().map(|(memory, _)| memory.ram_bytes() / 100).sum();
        let cache = ScanCache::new(limit).expect("random numbers");
        let nanos: f64 = guests.iter().take(count).map(|(_, look)| with(look, wanted, &cache).0).sum();
        (nanos, Summary::default())
    };
    let of = |name: &str, count| -> Work<'_> { (name.to_owned(), Box::new(move || scan(count))) };
    for (name, nanos, _) in fastest(vec![of("one guest", 1), of("ten clones", CLONES)]) {
        line(&name, nanos);
    }
}
