//! Processes: what an attacker does to them and from within them.
//!
//! *Does*: judges one process at a time, each in a look of its own, so that one that is busy does not spoil the look at the others.
//! *Never*: judges a process that has ended or become another program since it was listed.

pub(crate) mod bpf;
pub(crate) mod covered;
mod elf;
pub(crate) mod executable_memory;
pub(crate) mod executables;
pub(crate) mod hollowing;
mod jit;
pub(crate) mod nameless;
pub(crate) mod packets;
mod places;
pub(crate) mod preload;
pub(crate) mod raised;
pub(crate) mod sockets;
pub(crate) mod tracing;

pub use bpf::bpf_attachments;
pub use covered::covered_paths;
pub use executable_memory::executable_memory;
pub use executables::odd_executables;
pub use hollowing::process_hollowing;
pub use nameless::hidden_files;
pub use packets::packet_sockets;
pub use preload::preloaded_libraries;
pub use raised::raised_credentials;
pub use sockets::hidden_sockets;
pub use tracing::{dispatched, ptrace_links};

use crate::crossview::{CONFIRMATIONS, let_it_run};
use crate::{Finding, Subject};
use lynceus_introspect::linux::{Entry, LinuxGuest, Map, Mm, Task, View, container_of};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Partial, Stability};
use std::collections::HashSet;

/// What `judge` finds in each process that has memory of its own, every time it looks: a process that is just starting, ending, or
/// being upgraded looks odd for an instant.
fn each(
    guest: &LinuxGuest,
    options: &Options,
    judge: impl Fn(&View<'_>, &Task, &Mm) -> Partial<Finding>,
) -> Partial<Finding> {
    let mut found = Partial::default();
    let mut seen = HashSet::new();
    let listed = guest.observe(options, |view| view.processes()).result;
    let mut tasks: Vec<Task> = found.absorb(listed).into_iter().map(|(task, _)| task).collect();
    // Those that share their memory are one program.
    tasks.retain(|task| !task.kthread && !task.mm.is_null() && seen.insert(task.mm));
    let look = |task: &Task| guest.observe(options, |view| judged(view, task, &judge)).result;
    let is_odd = |found: &Partial<Finding>| !found.items.is_empty() || !found.is_complete();
    let mut suspects: Vec<(Task, Partial<Finding>)> = Vec::new();
    for task in tasks {
        let first = look(&task);
        if is_odd(&first) {
            suspects.push((task, first));
        }
    }
    let looks = if guest.memory().stability() == Stability::Frozen { 1 } else { CONFIRMATIONS };
    for _ in 1..looks {
        if suspects.is_empty() {
            break;
        }
        let_it_run(guest);
        for (task, before) in &mut suspects {
            let again = look(task);
            let still = |old: &Finding| again.items.iter().any(|new| new.subject == old.subject);
            before.items.retain(still);
            (before.gaps, before.more_gaps) = (again.gaps, again.more_gaps);
        }
        suspects.retain(|(_, found)| is_odd(found));
    }
    for (_, confirmed) in suspects {
        let items = found.absorb(confirmed);
        found.items.extend(items);
    }
    found
}

fn judged(
    view: &View<'_>,
    task: &Task,
    judge: &impl Fn(&View<'_>, &Task, &Mm) -> Partial<Finding>,
) -> Partial<Finding> {
    let mut found = Partial::default();
    if !view.is_living_task(task.at, task.pid) {
        return found;
    }
    let now = view.task(task.at);
    let Some(now) = found.ok("task", task.at, now).filter(|now| now.mm == task.mm) else { return found };
    let mm = view.mm(now.mm);
    let Some(mm) = found.ok("mm", now.mm, mm) else { return found };
    let judged = judge(view, &now, &mm);
    let items = found.absorb(judged);
    found.items.extend(items);
    found
}

fn subject(task: &Task) -> Subject {
    Subject::Task { pid: task.pid, tgid: task.tgid, comm: task.comm.clone(), address: task.at.0 }
}

/// A map of a process. A control group that cannot be read is left out: the finding stands without it.
fn memory(view: &View<'_>, task: &Task, map: &Map) -> Subject {
    let cgroup = view.cgroup(task).ok();
    Subject::Memory {
        pid: Some(task.tgid),
        comm: Some(task.comm.clone()),
        container: cgroup.as_deref().and_then(container_of).map(str::to_owned),
        cgroup,
        start: map.start.0,
        end: map.end.0,
        path: map.path.clone(),
    }
}

/// Whether a program was deleted, never had a file, or lies where any user may write, or where listings leave it out.
fn is_from_anywhere(view: &View<'_>, mm: &Mm, path: &str) -> Result<bool, GapReason> {
    Ok(path.starts_with("/memfd:")
        || places::is_temporary(path)
        || places::is_hidden(path)
        || !mm.exe_file.is_null() && is_gone(view, &view.entry_of_file(mm.exe_file)?, path)?)
}

/// Whether a file that a process runs or maps was deleted for good: an upgrade of a package deletes the old file as well, and puts
/// the new one in its place.
fn is_gone(view: &View<'_>, entry: &Entry, path: &str) -> Result<bool, GapReason> {
    if entry.hashed || entry.parent == entry.at {
        return Ok(false);
    }
    let info = view.file_info(entry.inode)?;
    if info.links > 0 {
        return Ok(false);
    }
    let there = view.lookup(entry.parent, &view.entry_name(entry.at)?)?;
    Ok(match there {
        Some(there) => there.inode.is_null(),
        // Where all names are cached there is none. Elsewhere it may have been forgotten, and a system folder gets the benefit.
        None => info.in_memory_only() || !places::is_installed(path),
    })
}
