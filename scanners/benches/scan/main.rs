//! What scans of a real guest's image cost: `LYNCEUS_BENCH_IMAGE=RAW cargo bench -p lynceus-scanners --bench scan`.
//!
//! Prints a line a figure: name, a tab, nanoseconds (the fastest of some rounds) or a count. `cargo xtask bench` makes the image. Rules are made from
//! the guest's own bytes, as many as field sets have; `LYNCEUS_BENCH_RULES=PATH` takes others.

mod engines;
mod guest;

use guest::{Changing, Look};
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::observe::Options;
use lynceus_scanners::signatures::{self, Rules, ScanCache, Scope, Summary, Wanted};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const DEFAULT: Scope = Scope { processes: true, files: true, kernel: true, physical: false, pid: None };
const ALL_RAM: Scope = Scope { processes: false, files: false, kernel: false, physical: true, pid: None };
const ROUNDS: usize = 9;
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

    let (all, summary) = fastest(|| full(&look.guest, &Wanted::new(&rules, DEFAULT)));
    line("scanned bytes", summary.bytes as f64);
    line("scan without a cache", all);
    let by_two = || {
        let cache = ScanCache::new(memory.ram_bytes() / 100).expect("random numbers");
        full(&look.guest, &Wanted { threads: 2, cache: Some(&cache), ..Wanted::new(&rules, DEFAULT) })
    };
    line("full scan, two threads", fastest(by_two).0);
    let flat = guest::flat(&look);
    line("flat bytes", flat.len() as f64);
    engines::flat(&rules_path, &flat, &line);
    drop(flat);

    rescans("", &look, &memory, &Wanted::new(&rules, DEFAULT), &line);
    rescans("all RAM, ", &look, &memory, &Wanted::new(&rules, ALL_RAM), &line);
    clones(&path, &Wanted::new(&rules, DEFAULT), &line);
}

/// Nanoseconds of the fastest round, and what it covered: what else runs on the machine only ever makes a round slower.
fn fastest<T>(mut work: impl FnMut() -> (f64, T)) -> (f64, T) {
    let mut rounds: Vec<(f64, T)> = (0..ROUNDS).map(|_| work()).collect();
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    rounds.swap_remove(0)
}

fn full(guest: &LinuxGuest, wanted: &Wanted<'_>) -> (f64, Summary) {
    let started = Instant::now();
    let (found, summary) = signatures::scan(guest, &Options::default(), wanted, &mut |_| ());
    std::hint::black_box(found);
    (started.elapsed().as_nanos() as f64, summary)
}

/// A full scan, a second one of the same, and second ones after one page in a hundred was written to.
fn rescans(scope: &str, look: &Look, memory: &Changing, wanted: &Wanted<'_>, line: &impl Fn(&str, f64)) {
    let limit = memory.ram_bytes() / 100;
    let cached = |change: Option<&dyn Fn(usize)>| {
        let cache = ScanCache::new(limit).expect("random numbers");
        let wanted = Wanted { cache: Some(&cache), ..*wanted };
        memory.restore();
        full(&look.guest, &wanted);
        let second = fastest(|| {
            if let Some(change) = change {
                memory.restore();
                change(rand());
            }
            full(&look.guest, &wanted)
        });
        (second.0, cache.len_bytes(), second.1)
    };
    let first = fastest(|| {
        let cache = ScanCache::new(limit).expect("random numbers");
        full(&look.guest, &Wanted { cache: Some(&cache), ..*wanted })
    });
    let first = first.0;
    let (second, bytes, summary) = cached(None);
    line(&format!("{scope}full scan"), first);
    line(&format!("{scope}cache bytes"), bytes as f64);
    line(&format!("{scope}cached scan bytes"), summary.bytes as f64);
    line(&format!("{scope}rescan, nothing changed"), second);
    for (name, pages) in [("clustered", &look.written), ("anywhere", &look.all)] {
        let count = look.all.len() / 100;
        let (second, _, summary) =
            cached(Some(&|seed| memory.change(pages, count, name == "clustered", seed)));
        line(&format!("{scope}rescan, one page in 100 changed, {name}"), second);
        line(&format!("{scope}bytes scanned again, {name}"), (summary.bytes - summary.reused_bytes) as f64);
    }
    memory.restore();
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
        let wanted = Wanted { cache: Some(&cache), ..*wanted };
        let nanos: f64 = guests.iter().take(count).map(|(_, look)| full(&look.guest, &wanted).0).sum();
        (nanos, ())
    };
    line("one guest", fastest(|| scan(1)).0);
    line("ten clones", fastest(|| scan(CLONES)).0);
}
