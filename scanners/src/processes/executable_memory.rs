//! Executable memory: code that no file holds, in processes that make none.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::jit::{self, Maker};
use super::{each, elf, memory, places};
use crate::{Detector, Finding, Limits, Severity};
use lynceus_introspect::linux::{LinuxGuest, Map, Mm, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{AddressSpace, GapReason, Gva, Partial};
use std::collections::HashSet;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "executable_memory",
    technique: "T1055",
    about: "executable memory without a file, in processes that compile nothing",
    limits: Limits {
        sees: "anonymous, shared or memfd memory that may be run and holds something, in a process that is no known compiler; a stack that may be run although no program or library asked for it; a program's header in such memory, also in a compiler",
        evaded_by: "code in a process that is a just-in-time compiler or is called like one, in blocks of 64 KiB where libffi or PCRE is loaded, shaped like the callbacks that libffi makes, or in memory that is made executable only while it runs",
        false_positives: "a just-in-time compiler that is linked statically into a program of another name; programs packed by UPX",
    },
    next: "lynceus maps --pid; dump the region and disassemble it; which of the process's threads run in it",
    run: executable_memory,
};

/// `VM_` flags.
const WRITE: u64 = 2;
const EXECUTE: u64 = 4;
/// Pages of a map that are looked at.
const MAX_PAGES: u64 = 4096;
const PAGE: u64 = 4096;
/// Libraries whose headers are read to learn who wanted an executable stack.
const MAX_HEADERS: usize = 512;
/// Maps that the kernel itself makes, without a file.
const KERNELS_OWN: &[&str] = &["[vdso]", "[vsyscall]", "[uprobes]"];

/// Processes that hold executable memory which no file explains: one finding each, about the worst of it.
pub fn executable_memory(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    each(guest, options, look)
}

/// A map that should not be executable, and what is in it.
struct Odd<'m> {
    map: &'m Map,
    severity: Severity,
    what: &'static str,
}

fn look(view: &View<'_>, task: &Task, mm: &Mm) -> Partial<Finding> {
    let mut found = Partial::default();
    let maps = view.maps(mm);
    let maps = found.absorb(maps);
    if !maps.iter().any(|map| map.flags & EXECUTE != 0 && is_unfiled(map)) {
        return found;
    }
    let place = view.exe(mm);
    let executable = found.ok("executable", mm.at, place).flatten().unwrap_or_default();
    let maker = jit::maker(&executable, &maps);
    let space = view.process_space(mm);
    let Some(space) = found.ok("page tables", mm.pgd, space) else { return found };
    let mut odd = Vec::new();
    for map in maps.iter().filter(|map| map.flags & EXECUTE != 0 && is_unfiled(map)) {
        if places::file_name(&executable) == places::file_name(&map.path) && map.flags & WRITE == 0 {
            // The program itself runs from memory: that is another detector's to say.
            continue;
        }
        let judged = match map.path == "[stack]" {
            true => stack(view, map, &maps),
            false => judged(&space, map, maker),
        };
        odd.extend(found.ok("executable memory", map.start, judged).flatten());
    }
    found.items.extend(told(view, task, odd));
    found
}

/// Memory that no lasting file is behind: anonymous, or of a file that only memory has.
fn is_unfiled(map: &Map) -> bool {
    if map.file.is_null() {
        return !KERNELS_OWN.contains(&map.path.as_str());
    }
    let memory_only = ["/memfd:", "/dev/zero", "/SYSV", "/anon_hugepage", "/dev/shm/"];
    memory_only.iter().any(|start| map.path.starts_with(start)) || map.flags & WRITE != 0
}

fn judged<'m>(space: &AddressSpace<'_>, map: &'m Map, maker: Maker) -> Result<Option<Odd<'m>>, GapReason> {
    if maker == Maker::Loader || (maker == Maker::Snippets && jit::is_snippet(map)) {
        return Ok(None);
    }
    let last = Gva(map.end.0.saturating_sub(1));
    let (mut holds_something, mut holds_code) = (false, false);
    let mut page = [0; PAGE as usize];
    for run in space.pages(map.start, last, MAX_PAGES)? {
        for offset in (0..run.len_bytes).step_by(PAGE as usize) {
            let at = run.gpa.checked_add(offset).ok_or(GapReason::Inconsistent("a page past all memory"))?;
            if space.memory().read(at, &mut page).is_err() {
                continue;
            }
            if elf::is_header(&page) {
                let severity = if maker == Maker::Compiler { Severity::Medium } else { Severity::Critical };
                return Ok(Some(Odd { map, severity, what: "a program" }));
            }
            if jit::is_callbacks(&page) {
                continue;
            }
            holds_something |= page.iter().any(|byte| *byte != 0);
            holds_code |= is_like_code(&page);
        }
    }
    if maker == Maker::Compiler || !holds_something {
        return Ok(None);
    }
    Ok(Some(match holds_code {
        true => Odd { map, severity: Severity::High, what: "code" },
        false => Odd { map, severity: Severity::Medium, what: "data" },
    }))
}

/// Instructions that code has and data hardly: system calls, the start of functions, a call of the next instruction.
fn is_like_code(page: &[u8]) -> bool {
    const TELLING: [&[u8]; 5] =
        [b"\x0f\x05", b"\xf3\x0f\x1e\xfa", b"\x55\x48\x89\xe5", b"\xe8\x00\x00\x00\x00", b"\x41\x57\x41\x56"];
    TELLING.iter().any(|code| memchr::memmem::find(page, code).is_some())
}

/// An executable stack is the wish of the program or of a library, or somebody else's.
fn stack<'m>(view: &View<'_>, map: &'m Map, maps: &[Map]) -> Result<Option<Odd<'m>>, GapReason> {
    let mut seen = HashSet::new();
    for file in maps.iter().filter(|map| map.offset == 0 && !map.file.is_null()) {
        let inode = view.entry_of_file(file.file)?.inode;
        if !seen.insert(inode) || seen.len() > MAX_HEADERS {
            continue;
        }
        let start = view.file_start(inode, PAGE, PAGE).items;
        // One whose header is no longer in memory may have asked for it.
        if elf::is_header(&start) && elf::wants_executable_stack(&start) != Some(false) || start.is_empty() {
            return Ok(None);
        }
    }
    Ok(Some(Odd { map, severity: Severity::High, what: "an executable stack" }))
}

fn told(view: &View<'_>, task: &Task, mut odd: Vec<Odd<'_>>) -> Option<Finding> {
    odd.sort_by_key(|odd| std::cmp::Reverse(odd.severity));
    let Odd { map, severity, what } = odd.first()?;
    let path = if map.path.is_empty() { "anonymous memory" } else { map.path.as_str() };
    let more = match odd.len() {
        1 => String::new(),
        many => format!(", and {} more such regions", many.saturating_sub(1)),
    };
    let (start, perms) = (map.start, map.perms());
    let summary =
        format!("process {} ({}) holds {what} in {path} at {start} ({perms}){more}", task.pid, task.comm);
    Some(DETECTOR.finding(*severity, summary, memory(view, task, map)))
}

#[cfg(test)]
mod tests {
    use super::is_like_code;

    #[test]
    fn text_is_not_code() {
        assert!(!is_like_code(b"LYNCEUS-LAB-RWX-MARKER and other words"));
        assert!(is_like_code(b"\x90\x90\x6a\x3b\x58\x0f\x05"));
    }
}
