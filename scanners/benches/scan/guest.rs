//! An image as a guest whose pages can be written to between scans, and what there is in it.

use lynceus_introspect::backend::map;
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::memory::ReadError;
use lynceus_introspect::paging::MAX_ENTRIES;
use lynceus_introspect::{AddressSpace, Gpa, GpaRange, GuestMemory, Gva, find};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLock};

const PAGE: u64 = 4096;
/// `VM_WRITE`, `VM_SHARED`.
const WRITE: u64 = 2;
const SHARED: u64 = 8;
/// Rules made from the guest, three strings each.
const RULES: usize = 5_000;
/// Neighbouring pages that are written to together.
const CLUSTER: usize = 8;

/// A mapped image under pages that were written to.
pub(crate) struct Changing {
    map: map::ReadOnlyMap,
    ram: [GpaRange; 1],
    /// One bit for each frame: it was written to. To ask for one must cost nothing beside the copy.
    is_written: Vec<AtomicU64>,
    written: RwLock<BTreeMap<u64, Box<[u8]>>>,
}

impl Changing {
    pub(crate) fn open(path: &Path) -> Arc<Changing> {
        let file = map::open_read_only(path).expect("the image opens");
        let map = map::ReadOnlyMap::whole(&file).expect("the image maps");
        let ram = [GpaRange { start: Gpa(0), len_bytes: file.metadata().expect("its length").len() }];
        let words = ram[0].len_bytes.div_ceil(64 * PAGE) as usize;
        let is_written = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        Arc::new(Changing { map, ram, is_written, written: RwLock::default() })
    }

    pub(crate) fn ram_bytes(&self) -> usize {
        self.ram[0].len_bytes as usize
    }

    pub(crate) fn restore(&self) {
        self.is_written.iter().for_each(|word| word.store(0, Relaxed));
        self.written.write().expect("no panic").clear();
    }

    /// Writes a word to `count` of these pages.
    pub(crate) fn change(&self, from: &[Gpa], count: usize, clustered: bool, seed: usize) {
        let mut written = self.written.write().expect("no panic");
        let cluster = if clustered { CLUSTER } else { 1 };
        let mut at = seed;
        while written.len() < count.min(from.len()) {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            for page in from.iter().skip((at >> 20) % from.len()).take(cluster) {
                let mut bytes = vec![0; PAGE as usize].into_boxed_slice();
                self.map.copy_out(page.0, &mut bytes).expect("it is RAM");
                bytes[2048..2056].copy_from_slice(&at.to_le_bytes());
                let frame = page.0 / PAGE;
                self.is_written[(frame / 64) as usize].fetch_or(1 << (frame % 64), Relaxed);
                written.insert(frame, bytes);
            }
        }
    }
}

impl GuestMemory for Changing {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        self.map.copy_out(at.0, buf).map_err(|why| ReadError::Lost { at, why: why.to_string() })?;
        let end = at.0 + buf.len() as u64;
        for frame in at.0 / PAGE..end.div_ceil(PAGE) {
            if self.is_written[(frame / 64) as usize].load(Relaxed) >> (frame % 64) & 1 == 0 {
                continue;
            }
            let written = self.written.read().expect("no panic");
            let page = &written[&frame];
            let (from, to) = ((frame * PAGE).max(at.0), ((frame + 1) * PAGE).min(end));
            let bytes = &page[(from % PAGE) as usize..][..(to - from) as usize];
            buf[(from - at.0) as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn ram(&self) -> &[GpaRange] {
        &self.ram
    }
}

/// A guest, and pages of it.
pub(crate) struct Look {
    pub(crate) guest: LinuxGuest,
    /// Runs of bytes of each region: maps and files.
    pub(crate) regions: Vec<Vec<(Gpa, u64)>>,
    /// Pages that processes may write to, and their own.
    pub(crate) written: Vec<Gpa>,
    /// All pages of regions.
    pub(crate) all: Vec<Gpa>,
}

/// Attaches, and finds out what will be scanned.
pub(crate) fn look(memory: Arc<Changing>) -> Look {
    let guest = find::attach(memory).expect("it attaches").guest;
    let (regions, written) = regions(&guest.view());
    let all: BTreeSet<u64> = regions.iter().flatten().flat_map(pages).collect();
    let mut written: Vec<Gpa> = written.into_iter().map(Gpa).collect();
    written.dedup();
    Look { guest, regions, written, all: all.into_iter().map(Gpa).collect() }
}

fn pages((gpa, len): &(Gpa, u64)) -> impl Iterator<Item = u64> + use<> {
    (gpa.0..gpa.0 + len).step_by(PAGE as usize)
}

fn regions(view: &View<'_>) -> (Vec<Vec<(Gpa, u64)>>, Vec<u64>) {
    let (mut regions, mut written) = (Vec::new(), Vec::new());
    for (task, _) in view.processes().items.iter().filter(|(task, _)| !task.mm.is_null()) {
        let Ok(mm) = view.mm(task.mm) else { continue };
        let Ok(space) = view.process_space(&mm) else { continue };
        for map in view.maps(&mm).items {
            let region = of_space(&space, map.start, map.end);
            if map.flags & WRITE != 0 && map.flags & SHARED == 0 {
                written.extend(region.iter().flat_map(pages));
            }
            regions.push(region);
        }
    }
    for file in view.cached_files().items {
        regions.push(file.pages.iter().map(|(_, gpa, count)| (*gpa, count * PAGE)).collect());
    }
    let symbol = |name: &str| view.kernel().symbol(name).expect("a symbol");
    for (first, last) in [("_text", "_etext"), ("__start_rodata", "__end_rodata")] {
        regions.push(of_space(view.space(), symbol(first), symbol(last)));
    }
    for module in view.modules().items {
        regions.push(of_space(view.space(), module.base, Gva(module.base.0 + module.size_bytes)));
    }
    (regions, written)
}

fn of_space(space: &AddressSpace<'_>, start: Gva, end: Gva) -> Vec<(Gpa, u64)> {
    let pages = space.pages(start, Gva(end.0 - 1), MAX_ENTRIES).expect("an address");
    let part = |page: lynceus_introspect::paging::Run| {
        let from = page.start.0.max(start.0);
        let to = (page.start.0 + page.len_bytes).min(end.0);
        (Gpa(page.gpa.0 + from - page.start.0), to - from)
    };
    pages.map(part).collect()
}

/// The bytes of all regions, one after the other.
pub(crate) fn flat(look: &Look) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (gpa, len) in look.regions.iter().flatten() {
        let before = bytes.len();
        bytes.resize(before + *len as usize, 0);
        // A page that is not there is none of the region's.
        if look.guest.memory().read(*gpa, &mut bytes[before..]).is_err() {
            bytes.truncate(before);
        }
    }
    bytes
}

/// Rules whose strings are nearly in the guest, so that the engine has something to check: each string is a piece of its memory with the
/// last byte changed.
pub(crate) fn make_rules(look: &Look, folder: &Path) -> PathBuf {
    let bytes = flat(look);
    let mut text = String::new();
    let mut at = 1usize;
    let mut piece = |number: usize| loop {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let piece = &bytes[(at >> 16) % (bytes.len() - 64)..][..10 + number % 12];
        let kinds: BTreeSet<&u8> = piece.iter().collect();
        if kinds.len() * 3 > piece.len() * 2 {
            let (last, rest) = piece.split_last().expect("ten bytes");
            let mut hex: String = rest.iter().map(|byte| format!("{byte:02x} ")).collect();
            let _ = write!(hex, "{:02x}", last ^ 0x15);
            return hex;
        }
    };
    for number in 0..RULES {
        let strings = ["a", "b", "c"].map(|name| format!("${name} = {{ {} }}", piece(number))).join(" ");
        let _ = writeln!(text, "rule made_{number} {{ strings: {strings} condition: 2 of them }}");
    }
    let path = folder.join("made.yar");
    std::fs::write(&path, text).expect("a file");
    path
}
