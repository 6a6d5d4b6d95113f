//! Preloaded libraries: what is put into a program before its own libraries, by its environment or for all programs.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{each, places, subject};
use crate::crossview::confirmed;
use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{FileInfo, LinuxGuest, Mm, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gva, Partial};
use std::collections::BTreeSet;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "ld_preload",
    technique: "T1574.006",
    about: "libraries forced into programs by LD_PRELOAD, LD_AUDIT or /etc/ld.so.preload",
    limits: Limits {
        sees: "an LD_PRELOAD or LD_AUDIT that names a library in a temporary or hidden folder, by a relative path, or one that was deleted; an /etc/ld.so.preload that is not empty",
        evaded_by: "a process that overwrites its environment, a library in a system folder named by LD_PRELOAD, an /etc that is a mount of its own, a changed dynamic linker",
        false_positives: "a developer's LD_PRELOAD=./x.so or in a hidden folder at home; an admin's own /etc/ld.so.preload (hardened allocators, session recorders)",
    },
    next: "lynceus maps --pid shows whether the library is loaded; scan it: lynceus scan --scope files --path; who wrote it, and when",
    run: preloaded_libraries,
};

/// The variables that the dynamic linker obeys.
const VARIABLES: [&str; 2] = ["LD_PRELOAD=", "LD_AUDIT="];
/// Libraries that programs preload into themselves from hidden folders at home.
const KNOWN: &[&str] = &["gameoverlayrenderer.so"];
/// Most of `/etc/ld.so.preload` that is told.
const MAX_TEXT_BYTES: u64 = 4096;
const SET_UID: u32 = 0o4000;

/// Libraries that are preloaded from where none belongs, and a system-wide list of them.
pub fn preloaded_libraries(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    let mut found = each(guest, options, in_environment);
    let look = || guest.observe(options, for_everybody).result;
    let everybody = confirmed(guest, look, |a, b| a.subject == b.subject);
    let items = found.absorb(everybody);
    found.items.extend(items);
    found
}

fn in_environment(view: &View<'_>, task: &Task, mm: &Mm) -> Partial<Finding> {
    let mut found = Partial::default();
    let environment = view.environ(mm);
    for line in found.ok("environment", mm.env.0, environment).unwrap_or_default() {
        let Some((variable, value)) =
            VARIABLES.iter().find_map(|name| Some((name.trim_end_matches('='), line.strip_prefix(name)?)))
        else {
            continue;
        };
        for library in value.split([' ', ':']).filter(|text| !text.is_empty()) {
            let Some((severity, why)) = judged(view, mm, library, &mut found) else { continue };
            let summary = format!("process {} ({}) has {variable}={library}: {why}", task.pid, task.comm);
            found.items.push(DETECTOR.finding(severity, summary, subject(task)));
        }
    }
    found
}

fn judged(
    view: &View<'_>,
    mm: &Mm,
    library: &str,
    found: &mut Partial<Finding>,
) -> Option<(Severity, &'static str)> {
    let by_name = by_its_name(library);
    if by_name.is_none() && !library.contains('/') {
        return None;
    }
    let maps = view.maps(mm);
    let gone = format!("{library} (deleted)");
    let maps = found.absorb(maps);
    if let Some(map) = maps.iter().find(|map| map.path == gone) {
        let read = view.entry_of_file(map.file).and_then(|entry| super::is_gone(view, &entry, library));
        if found.ok("library", map.at, read) == Some(true) {
            return Some((Severity::High, "a library that was deleted"));
        }
    }
    let (severity, why) = by_name?;
    // An application in one file mounts itself below /tmp, where nobody but it can write.
    let mounted =
        |file: Gva| -> Result<FileInfo, GapReason> { view.file_info(view.entry_of_file(file)?.inode) };
    let loaded = maps.iter().find(|map| map.path == library);
    if loaded.is_some_and(|map| mounted(map.file).is_ok_and(|info| info.fs.starts_with("fuse"))) {
        return None;
    }
    let program = if mm.exe_file.is_null() { None } else { mounted(mm.exe_file).ok() };
    let is_set_uid = program.is_some_and(|info| info.mode & SET_UID != 0);
    Some((if is_set_uid { Severity::High } else { severity }, why))
}

/// What the path alone says.
fn by_its_name(library: &str) -> Option<(Severity, &'static str)> {
    if !library.contains('/') || library.starts_with('$') || KNOWN.contains(&places::file_name(library)) {
        // A name alone is looked for in the system's folders.
        return None;
    }
    if !library.starts_with('/') {
        return Some((Severity::Medium, "a path that depends on where the program is started"));
    }
    if places::is_temporary(library) {
        return Some((Severity::High, "a place that any user may write to"));
    }
    match (places::is_hidden(library), places::is_home(library)) {
        (true, true) => Some((Severity::Medium, "a hidden folder at home")),
        (true, false) => Some((Severity::High, "a hidden folder")),
        _ => None,
    }
}

/// `/etc/ld.so.preload` below every root that a process has: containers have files of their own.
fn for_everybody(view: &View<'_>) -> Partial<Finding> {
    let mut found = Partial::default();
    let mut roots = BTreeSet::new();
    let tasks = view.processes();
    for (task, _) in found.absorb(tasks) {
        let root = view.root_of(&task);
        roots.extend(found.ok("root directory", task.fs, root).flatten().map(|root| root.dentry.0));
    }
    for root in roots.into_iter().map(Gva) {
        let list = list_below(view, root, &mut found);
        let list = found.ok("/etc/ld.so.preload", root, list).flatten();
        found.items.extend(list);
    }
    found
}

fn list_below(
    view: &View<'_>,
    root: Gva,
    found: &mut Partial<Finding>,
) -> Result<Option<Finding>, GapReason> {
    let Some(etc) = view.lookup(root, b"etc")? else { return Ok(None) };
    let Some(file) = view.lookup(etc.at, b"ld.so.preload")?.filter(|file| !file.inode.is_null()) else {
        return Ok(None);
    };
    let info = view.file_info(file.inode)?;
    if info.size_bytes == 0 {
        return Ok(None);
    }
    let text = view.file_start(file.inode, info.size_bytes, MAX_TEXT_BYTES);
    let text = String::from_utf8_lossy(&found.absorb(text)).into_owned();
    let libraries: Vec<&str> = text.split([' ', ':', '\n', '\t']).filter(|text| !text.is_empty()).collect();
    let odd = libraries.iter().any(|library| by_its_name(library).is_some());
    let severity = if odd { Severity::High } else { Severity::Medium };
    let what = if text.is_empty() { "what is no longer in memory".to_owned() } else { libraries.join(" ") };
    let summary = format!("every program loads {what}: /etc/ld.so.preload is not empty");
    let subject = Subject::File {
        path: view.path_within_fs(file.at)?,
        inode: info.number,
        deleted: info.links == 0,
        size_bytes: info.size_bytes,
        fs: info.fs,
        sha256: None,
    };
    Ok(Some(DETECTOR.finding(severity, summary, subject)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_packages_are_no_finding() {
        for library in [
            "libjemalloc.so.2",
            "libfakeroot-sysv.so",
            "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2",
            "/usr/libexec/coreutils/libstdbuf.so",
            "$LIB/libgtk3-nocsd.so.0",
            "/home/alice/.local/share/Steam/ubuntu12_32/gameoverlayrenderer.so",
            "/nix/store/abc-glibc/lib/libmemusage.so",
            "/home/alice/build/libshim.so",
        ] {
            assert_eq!(by_its_name(library), None, "{library}");
        }
        for (library, severity) in [
            ("/tmp/x.so", Severity::High),
            ("/dev/shm/x.so", Severity::High),
            ("/proc/self/fd/3", Severity::High),
            ("/usr/lib/.hidden/x.so", Severity::High),
            ("/home/alice/.config/x.so", Severity::Medium),
            ("./x.so", Severity::Medium),
        ] {
            assert_eq!(by_its_name(library).map(|found| found.0), Some(severity), "{library}");
        }
    }
}
