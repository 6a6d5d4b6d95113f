//! Process hollowing: a program's code in memory against the file that it was loaded from.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::jit::{self, Maker};
use super::{each, elf, memory};
use crate::{Detector, Finding, Limits, Severity};
use lynceus_introspect::linux::{LinuxGuest, Map, Mm, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{AddressSpace, GapReason, Gpa, Gva, Partial};

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "process_hollowing",
    technique: "T1055.012",
    about: "code of a program or library that differs, in memory, from its file",
    limits: Limits {
        sees: "pages of executable, unwritable maps of files that are the process's own copies and hold something else than the page cache's; breakpoints are told as such",
        evaded_by: "a page whose original is no longer in the page cache, a change of the file's pages themselves, page tables changed behind the kernel's back, libraries with text relocations and programs of 32 bits",
        false_positives: "programs that patch themselves or others: endpoint agents, game overlays, profilers that rewrite functions",
    },
    next: "compare the region with the package's file; a few bytes at the start of a function are a hook, whole pages another program",
    run: process_hollowing,
};

/// `VM_` flags.
const WRITE: u64 = 2;
const EXECUTE: u64 = 4;
const SHARED: u64 = 0x80;
const PAGE: u64 = 4096;
/// Pages of a map that are compared.
const MAX_PAGES: u64 = 1 << 16;
/// From so many changed pages on it is another program.
const HOLLOW_PAGES: u64 = 8;
/// `int3`.
const BREAKPOINT: u8 = 0xcc;
/// Where the kernel keeps the instructions that its own probes displaced.
const PROBES: &str = "[uprobes]";
/// Libraries that patch themselves for the graphics driver at hand.
const SELF_PATCHING: &[&str] = &["libGLdispatch", "libGL.so", "libGLX", "libOpenGL", "libEGL", "libGLESv"];

/// Processes whose code is not what their files say: one finding each, about the map that differs most.
pub fn process_hollowing(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    each(guest, options, look)
}

/// What differs in a map.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Difference {
    pages: u64,
    bytes: u64,
    breakpoints: u64,
    first: Gva,
}

fn look(view: &View<'_>, task: &Task, mm: &Mm) -> Partial<Finding> {
    let mut found = Partial::default();
    let maps = view.maps(mm);
    let maps = found.absorb(maps);
    let is_code = |map: &&Map| {
        !map.file.is_null() && map.has_own_pages && map.flags & (WRITE | EXECUTE | SHARED) == EXECUTE
    };
    if !maps.iter().any(|map| is_code(&map)) {
        return found;
    }
    let place = view.exe(mm);
    let executable = found.ok("executable", mm.at, place).flatten().unwrap_or_default();
    let space = view.process_space(mm);
    let Some(space) = found.ok("page tables", mm.pgd, space) else { return found };
    if jit::maker(&executable, &maps) == Maker::Loader {
        return found;
    }
    let probed =
        maps.iter().any(|map| map.path == PROBES) || view.tracer(task).is_ok_and(|tracer| tracer.is_some());
    let mut worst: Option<(&Map, Difference)> = None;
    for map in maps.iter().filter(is_code) {
        let compared = difference(view, &space, map, &mut found);
        let Some(differs) = found.ok("code of a process", map.start, compared) else { continue };
        let only_breakpoints = differs.bytes == differs.breakpoints;
        if differs.bytes > 0
            && !(only_breakpoints && probed)
            && worst.is_none_or(|(_, most)| most.bytes < differs.bytes)
        {
            worst = Some((map, differs));
        }
    }
    found.items.extend(worst.map(|(map, differs)| told(view, task, map, &differs)));
    found
}

/// What the process's copies of a map's pages hold that the file's pages do not.
fn difference(
    view: &View<'_>,
    space: &AddressSpace<'_>,
    map: &Map,
    found: &mut Partial<Finding>,
) -> Result<Difference, GapReason> {
    let mut differs = Difference::default();
    let name = super::places::file_name(&map.path);
    if SELF_PATCHING.iter().any(|library| name.starts_with(library)) {
        return Ok(differs);
    }
    let cached = view.mapped_file_pages(map.file);
    let cached = found.absorb(cached);
    let mut checked = None;
    for run in space.pages(map.start, Gva(map.end.0.saturating_sub(1)), MAX_PAGES)? {
        for offset in (0..run.len_bytes).step_by(PAGE as usize) {
            let at = Gva(run.start.0.saturating_add(offset));
            let own = Gpa(run.gpa.0.saturating_add(offset));
            let index = at.0.saturating_sub(map.start.0).saturating_add(map.offset) / PAGE;
            let Some(file) = page_of(&cached, index).filter(|file| *file != own) else { continue };
            let change = compared(space, at, own, file)?;
            if change.bytes > 0 && !*checked.get_or_insert_with(|| is_fixed(view, map)) {
                return Ok(Difference::default());
            }
            differs.add(&change);
        }
    }
    Ok(differs)
}

/// Where the page cache has a page of a file.
fn page_of(cached: &[(u64, Gpa, u64)], index: u64) -> Option<Gpa> {
    let after = cached.partition_point(|(first, ..)| *first <= index);
    let (first, at, count) = cached.get(after.checked_sub(1)?)?;
    let inside = index.checked_sub(*first).filter(|inside| inside < count)?;
    Some(Gpa(at.0.checked_add(inside.checked_mul(PAGE)?)?))
}

fn compared(space: &AddressSpace<'_>, at: Gva, own: Gpa, file: Gpa) -> Result<Difference, GapReason> {
    let (mut ours, mut theirs) = ([0; PAGE as usize], [0; PAGE as usize]);
    for (place, buf) in [(own, &mut ours), (file, &mut theirs)] {
        let memory = |why| lynceus_introspect::AccessError::Memory { at, why };
        space.memory().read(place, buf).map_err(memory)?;
    }
    let mut change = Difference::default();
    for (offset, (mine, _)) in (0u64..).zip(ours.iter().zip(&theirs)).filter(|(_, (a, b))| a != b) {
        if change.bytes == 0 {
            change = Difference { pages: 1, first: Gva(at.0.saturating_add(offset)), ..change };
        }
        change.bytes = change.bytes.saturating_add(1);
        change.breakpoints = change.breakpoints.saturating_add(u64::from(*mine == BREAKPOINT));
    }
    Ok(change)
}

/// Whether the code of this file stays as it is when it is loaded: no relocations in it.
fn is_fixed(view: &View<'_>, map: &Map) -> bool {
    const MAX_BYTES: u64 = 64 << 20;
    let Ok(entry) = view.entry_of_file(map.file) else { return true };
    let Ok(info) = view.file_info(entry.inode) else { return true };
    let header = view.file_start(entry.inode, info.size_bytes, PAGE).items;
    if !elf::is_header(&header) {
        return true;
    }
    let dynamic = elf::dynamic(&header);
    let end = dynamic.map_or(0, |(at, len)| at.saturating_add(len));
    let start = view.file_start(entry.inode, info.size_bytes, end.min(MAX_BYTES)).items;
    !elf::has_text_relocations(&header, dynamic, &start)
}

impl Difference {
    fn add(&mut self, other: &Difference) {
        if self.bytes == 0 {
            self.first = other.first;
        }
        self.pages = self.pages.saturating_add(other.pages);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.breakpoints = self.breakpoints.saturating_add(other.breakpoints);
    }
}

fn told(view: &View<'_>, task: &Task, map: &Map, differs: &Difference) -> Finding {
    let Difference { pages, bytes, breakpoints, first } = *differs;
    let (severity, what) = match () {
        () if bytes == breakpoints => (Severity::Low, "breakpoints that no debugger owns"),
        () if pages >= HOLLOW_PAGES => (Severity::Critical, "another program"),
        () => (Severity::High, "code that was changed"),
    };
    let summary = format!(
        "process {} ({}) runs {what} in {}: {bytes} bytes in {pages} pages differ from the file, the first at {first}",
        task.pid, task.comm, map.path
    );
    DETECTOR.finding(severity, summary, memory(view, task, map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_in_their_runs() {
        let cached = [(0, Gpa(0x10000), 2), (5, Gpa(0x90000), 3)];
        let at = |index| page_of(&cached, index).map(|gpa| gpa.0);
        assert_eq!(
            [at(0), at(1), at(5), at(7)],
            [Some(0x10000), Some(0x11000), Some(0x90000), Some(0x92000)]
        );
        assert_eq!([at(2), at(4), at(8)], [None; 3]);
        assert_eq!(page_of(&[], 0), None);
    }
}
