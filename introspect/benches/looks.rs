//! What one read costs, plain and in a validated look, and how near a gather of scattered pages comes to `memcpy`.
//!
//! `cargo bench -p lynceus-introspect --bench looks`: medians of 15 rounds.

use lynceus_introspect::memory::ReadError;
use lynceus_introspect::observe::{Options, observe};
use lynceus_introspect::paging::{MAX_ENTRIES, Mode, Root};
use lynceus_introspect::{AddressSpace, Gpa, GpaRange, GuestMemory, Gva};
use std::hint::black_box;
use std::time::Instant;

const RAM_BYTES: usize = 96 << 20;
const PAGES: u64 = 16 << 10;
const ROOT: Root = Root { table: Gpa(0), mode: Mode::FourLevel };

/// RAM without the locks of the fake.
struct Flat {
    bytes: Vec<u8>,
    ranges: [GpaRange; 1],
}

impl GuestMemory for Flat {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let from = at.0 as usize;
        let bytes = from.checked_add(buf.len()).and_then(|end| self.bytes.get(from..end));
        buf.copy_from_slice(bytes.ok_or(ReadError::NotRam { at, len_bytes: buf.len() as u64 })?);
        Ok(())
    }
    fn ram(&self) -> &[GpaRange] {
        &self.ranges
    }
}

/// 64 MiB of small pages at address 0, their frames scattered over RAM above 32 MiB, and RAM itself as 2 MiB pages at 1 GiB.
fn guest() -> (Flat, Vec<u64>) {
    let mut bytes = vec![0u8; RAM_BYTES];
    for (n, byte) in bytes.iter_mut().enumerate().skip(32 << 20) {
        *byte = n as u8;
    }
    let mut put =
        |at: u64, entry: u64| bytes[at as usize..at as usize + 8].copy_from_slice(&entry.to_le_bytes());
    put(0, 0x1067);
    put(0x1000, 0x2067);
    put(0x1008, 0x3067);
    let mut frames = Vec::new();
    for page in 0..PAGES {
        // A stride that is odd visits every frame once, in no order that a prefetcher likes.
        let frame = (page * 7919 % PAGES) + (32 << 20 >> 12);
        put(0x10_0000 + page * 8, frame << 12 | 0x67);
        frames.push(frame << 12);
    }
    (0..PAGES / 512).for_each(|n| put(0x2000 + n * 8, (0x10_0000 + n * 4096) | 0x67));
    (0..RAM_BYTES as u64 >> 21).for_each(|n| put(0x3000 + n * 8, n << 21 | 0xe7));
    (Flat { ranges: [GpaRange { start: Gpa(0), len_bytes: RAM_BYTES as u64 }], bytes }, frames)
}

/// Nanoseconds of one of `units` in `work`, the median of 15 rounds.
fn median(units: u64, mut work: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_nanos() as f64 / units as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[7]
}

fn u64_at(space: &AddressSpace<'_>, at: u64) -> u64 {
    let mut buf = [0; 8];
    space.read(Gva(at), &mut buf).expect("mapped");
    u64::from_le_bytes(buf)
}

/// 256 objects of one look, three fields each, in the 2 MiB pages: what a list of tasks reads.
fn look(memory: &dyn GuestMemory) -> u64 {
    let space = AddressSpace::new(memory, ROOT);
    let object = |n: u64| (1 << 30) + (40 << 20) + n * 9792;
    (0..256)
        .map(|n| u64_at(&space, object(n)) ^ u64_at(&space, object(n) + 64) ^ u64_at(&space, object(n) + 320))
        .sum()
}

fn gather(memory: &dyn GuestMemory, staging: &mut [u8]) -> u64 {
    let space = AddressSpace::new(memory, ROOT);
    let mut sum = 0u64;
    let mut filled = 0;
    for run in space.pages(Gva(0), Gva(PAGES * 4096 - 1), MAX_ENTRIES).expect("canonical") {
        let len = run.len_bytes as usize;
        if filled + len > staging.len() {
            sum = sum.wrapping_add(u64::from(black_box(&staging)[0]));
            filled = 0;
        }
        memory.read(run.gpa, &mut staging[filled..filled + len]).expect("RAM");
        filled += len;
    }
    sum
}

fn main() {
    let (flat, frames) = guest();
    let memory: &dyn GuestMemory = black_box(&flat);
    let space = AddressSpace::new(memory, ROOT);
    let line = |what: &str, value: f64, unit: &str| println!("{what:<58} {value:>9.2} {unit}");

    line(
        "8 bytes, translation cached",
        median(100_000, || {
            (0..100_000u64).for_each(|n| _ = black_box(u64_at(&space, n % 512 * 8)));
        }),
        "ns",
    );
    line(
        "8 bytes, large pages, 64 KiB apart",
        median(100_000, || {
            (0..100_000u64).for_each(|n| _ = black_box(u64_at(&space, (1 << 30) + ((n % 1024) << 16))));
        }),
        "ns",
    );
    line(
        "8 bytes, small pages, each another page",
        median(PAGES, || {
            (0..PAGES).for_each(|n| _ = black_box(u64_at(&space, n << 12)));
        }),
        "ns",
    );
    let all = space.cache_stats();
    println!("{:<58} {:?}", "cache", all);

    let plain = median(256, || _ = black_box(look(memory)));
    let validated = median(256, || {
        let seen = observe(memory, None, &Options::default(), look);
        assert!(seen.is_consistent());
        black_box(seen.result);
    });
    line("three fields of an object, plain look", plain, "ns");
    line("three fields of an object, validated look", validated, "ns");

    let mut staging = vec![0u8; 1 << 20];
    let copied = median(PAGES, || {
        for (n, from) in frames.iter().enumerate() {
            let (to, from) = (n % 256 * 4096, *from as usize);
            staging[to..to + 4096].copy_from_slice(&flat.bytes[from..from + 4096]);
        }
        black_box(&staging);
    });
    let gathered = median(PAGES, || _ = black_box(gather(memory, &mut staging)));
    line("a scattered 4 KiB page, memcpy", copied, "ns");
    line("a scattered 4 KiB page, gathered through the tables", gathered, "ns");
    line("gather / memcpy", gathered / copied, "times");
}
