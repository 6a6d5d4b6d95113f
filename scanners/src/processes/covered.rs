//! Covered paths: a mount over what `/proc` tells of a process, or over the program that one runs.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{each, subject};
use crate::crossview::confirmed;
use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{LinuxGuest, Mm, Mount, Namespaces, PathAt, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gva, Partial};
use std::collections::HashMap;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "covered_path",
    technique: "T1564.013",
    about: "mounts that hide a process in /proc, or the program that a process runs",
    limits: Limits {
        sees: "something mounted on or below the folder of a process in a proc file system, in the mount namespace of any process; a process whose program no path leads to any more because a mount lies over it",
        evaded_by: "a mount namespace that no process is in; a mount over what no process runs; a mount over the root of a namespace",
        false_positives: "a file system that is mounted over the folder of a program which runs, such as a home folder of the network",
    },
    next: "lynceus ps and files --pid of the hidden process; lynceus mounts --pid of who sees the mount",
    run: covered_paths,
};

/// Most mount namespaces that are looked at.
const MAX_NAMESPACES: usize = 4096;

/// A process, and the namespaces that it is in.
type Resident = (Task, Namespaces);
/// Mounts by what they are mounted on.
type Places = HashMap<PathAt, Mount>;

/// Processes that a mount hides from listings, or whose program it hides.
pub fn covered_paths(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    confirmed(guest, || look(guest, options), |a, b| a.subject == b.subject)
}

fn look(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    let mut found = Partial::default();
    let residents = guest.observe(options, residents).result;
    let residents = found.absorb(residents);
    let mut owners: HashMap<Gva, &Resident> = HashMap::new();
    for resident in &residents {
        owners.entry(resident.1.mnt_at).or_insert(resident);
    }
    if owners.len() > MAX_NAMESPACES {
        found.gap("mount namespaces", None, GapReason::Limit(MAX_NAMESPACES as u64));
    }
    let mut places = Places::new();
    for owner in owners.values().take(MAX_NAMESPACES) {
        let mounts = guest.observe(options, |view| mounts(view, owner)).result;
        let mounts = found.absorb(mounts);
        let hidden = guest.observe(options, |view| hidden(view, owner, &mounts, &residents)).result;
        let hidden = found.absorb(hidden);
        found.items.extend(hidden);
        places.extend(mounts);
    }
    let programs = each(guest, options, |view, task, mm| program(view, task, mm, &places));
    let programs = found.absorb(programs);
    found.items.extend(programs);
    found
}

/// Every process that is in a mount namespace.
fn residents(view: &View<'_>) -> Partial<Resident> {
    let mut found = Partial::default();
    let tasks = view.processes();
    for (task, _) in found.absorb(tasks) {
        let namespaces = view.namespaces(&task);
        let namespaces = found.ok("namespaces", task.at, namespaces);
        let inside = namespaces.filter(|namespaces| !namespaces.mnt_at.is_null());
        found.items.extend(inside.map(|namespaces| (task, namespaces)));
    }
    found
}

/// The mounts of a process's namespace; none where it has left that meanwhile.
fn mounts(view: &View<'_>, (task, known): &Resident) -> Partial<(PathAt, Mount)> {
    let mut found = Partial::default();
    let is_there = view.is_living_task(task.at, task.pid)
        && view.namespaces(task).is_ok_and(|now| now.mnt_at == known.mnt_at);
    if !is_there {
        return found;
    }
    let mounts = view.mounts(known.mnt_at, None);
    for mount in found.absorb(mounts) {
        let place = view.mounted_on(&mount);
        let place = found.ok("mount", mount.at, place);
        found.items.extend(place.map(|place| (place, mount)));
    }
    found
}

/// Mounts over what a proc file system tells of a process.
fn hidden(
    view: &View<'_>,
    owner: &Resident,
    mounts: &[(PathAt, Mount)],
    residents: &[Resident],
) -> Partial<Finding> {
    let mut found = Partial::default();
    let is_proc = |id: u32| mounts.iter().any(|(_, mount)| mount.id == id && mount.fs_type == "proc");
    for (place, mount) in mounts.iter().filter(|(_, mount)| mount.id != mount.parent && is_proc(mount.parent))
    {
        let path = view.path_within_fs(place.dentry);
        let Some(pid) = found.ok("mount", mount.at, path).and_then(|path| process_of(&path)) else {
            continue;
        };
        found.items.push(told(mount, pid, process(residents, owner, pid)));
    }
    found
}

/// The process whose folder of a proc file system that is, or is in.
fn process_of(path: &str) -> Option<u32> {
    path.strip_prefix('/')?.split('/').next()?.parse().ok()
}

/// The process that has this id where `owner` looks.
fn process<'r>(residents: &'r [Resident], owner: &Resident, pid: u32) -> Option<&'r Task> {
    let outermost = residents.iter().find(|(task, _)| task.pid == 1).and_then(|(_, init)| init.pid);
    let from_outside = owner.1.pid == outermost;
    let is_it = |(task, namespaces): &&Resident| match from_outside {
        true => task.pid == pid,
        false => namespaces.pid == owner.1.pid && namespaces.pid_inside == Some(pid),
    };
    residents.iter().find(is_it).map(|(task, _)| task)
}

fn told(mount: &Mount, pid: u32, process: Option<&Task>) -> Finding {
    let Mount { source, fs_type, mountpoint, .. } = mount;
    let whose = match process {
        Some(task) => format!("process {} ({})", task.pid, task.comm),
        None => format!("process {pid}"),
    };
    let summary =
        format!("{whose} is hidden from listings: {source} ({fs_type}) is mounted over {mountpoint}");
    let of_mount = || Subject::Kernel {
        symbol: format!("mount on {mountpoint}"),
        address: mount.at.0,
        value: source.clone(),
    };
    DETECTOR.finding(Severity::High, summary, process.map_or_else(of_mount, subject))
}

/// A process whose program lies under a mount.
fn program(view: &View<'_>, task: &Task, mm: &Mm, places: &Places) -> Partial<Finding> {
    let mut found = Partial::default();
    if mm.exe_file.is_null() {
        return found;
    }
    let over = view.place_of_file(mm.exe_file).and_then(|place| view.covering(place, places));
    let Some(Some(over)) = found.ok("executable", mm.exe_file, over) else { return found };
    let path = view.exe(mm);
    let Some(Some(path)) = found.ok("executable", mm.exe_file, path) else { return found };
    let summary = format!(
        "process {} ({}) runs {path}, which no path leads to: {} ({}) is mounted over {}",
        task.pid, task.comm, over.source, over.fs_type, over.mountpoint
    );
    found.items.push(DETECTOR.finding(Severity::Medium, summary, subject(task)));
    found
}

#[cfg(test)]
mod tests {
    use super::process_of;

    #[test]
    fn only_folders_of_processes_are_of_processes() {
        for (path, pid) in [("/123", Some(123)), ("/7/cmdline", Some(7)), ("/1/task/9/maps", Some(1))] {
            assert_eq!(process_of(path), pid, "{path}");
        }
        // What containers are commonly kept from, or shown otherwise.
        for path in ["/", "/kcore", "/sys/fs/binfmt_misc", "/meminfo", "/4294967296", "/12x", ""] {
            assert_eq!(process_of(path), None, "{path}");
        }
    }
}
