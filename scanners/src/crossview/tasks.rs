//! Hidden tasks: the task list against the pid table, the run queues and the slab pages that hold tasks.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::confirmed;
use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{LinuxGuest, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};
use std::collections::{BTreeMap, HashSet};

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "hidden_task",
    technique: "T1014",
    about: "tasks missing from the task list or the pid table, against run queues and slab pages",
    limits: Limits {
        sees: "a task unlinked from the task list, from the pid table, from its process's thread list, or from all of them",
        evaded_by: "code that runs without a task (in another's, in an interrupt), a task_struct copied out of its slab cache, one that sleeps off all lists with another's pid",
        false_positives: "none known: a task that is being made or reaped is looked at again",
    },
    next: "lynceus ps shows it, marked; its files, maps and sockets with --pid; then lynceus dump, before anything in the guest is touched",
    run: hidden_tasks,
};

const LIST: &str = "task list";
const TABLE: &str = "pid table";
const QUEUES: &str = "run queues";
const SLAB: &str = "slab pages";

/// A task, and the views that show it.
struct Sighting {
    task: Task,
    seen_in: Vec<&'static str>,
}

/// Tasks that the task list or the pid table does not show.
pub fn hidden_tasks(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    confirmed(
        guest,
        || look(guest, options),
        |a, b| a.subject == b.subject && a.missing_from == b.missing_from,
    )
}

fn look(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    // The carve reads too much to be validated as a whole: what it finds is looked at again with the lists.
    let carved = guest.view().tasks_carved();
    let mut sightings = guest.observe(options, |view| sightings(view, &carved.items)).result;
    sightings.gaps.extend(carved.gaps);
    sightings.more_gaps = sightings.more_gaps.saturating_add(carved.more_gaps);
    let mut findings = Partial::default();
    for sighting in findings.absorb(sightings) {
        let missing: Vec<_> =
            [LIST, TABLE].into_iter().filter(|view| !sighting.seen_in.contains(view)).collect();
        if !missing.is_empty() {
            findings.items.push(finding(sighting, missing));
        }
    }
    findings
}

/// Every task of every view.
fn sightings(view: &View<'_>, carved: &[Task]) -> Partial<Sighting> {
    let mut all = Partial::default();
    let mut by_address: BTreeMap<Gva, Sighting> = BTreeMap::new();
    let mut note = |task: Task, name: &'static str| {
        let sighting = by_address.entry(task.at).or_insert_with(|| Sighting { task, seen_in: Vec::new() });
        if !sighting.seen_in.contains(&name) {
            sighting.seen_in.push(name);
        }
    };
    let processes = view.tasks();
    for process in all.absorb(processes) {
        let threads = view.threads(&process);
        all.absorb(threads).into_iter().for_each(|thread| note(thread, LIST));
        note(process, LIST);
    }
    let table = view.tasks_by_pid();
    all.absorb(table).into_iter().for_each(|task| note(task, TABLE));
    let queues = view.tasks_in_queues();
    all.absorb(queues).into_iter().for_each(|task| note(task, QUEUES));
    let alive = carved.iter().filter(|task| view.is_living_task(task.at, task.pid));
    alive.for_each(|task| note(task.clone(), SLAB));
    all.items.extend(by_address.into_values());
    leave_out_copies(&mut all.items);
    all
}

/// A task that is being made starts as a copy of the one that makes it, with that one's pid and state, and is on no list yet. A
/// processor that is not given time may leave it so for longer than any confirmation waits.
fn leave_out_copies(sightings: &mut Vec<Sighting>) {
    let is_carved_only = |sighting: &Sighting| sighting.seen_in == [SLAB];
    let originals = sightings.iter().filter(|sighting| !is_carved_only(sighting));
    let known: HashSet<(u32, u32)> =
        originals.map(|sighting| (sighting.task.pid, sighting.task.tgid)).collect();
    sightings.retain(|found| !is_carved_only(found) || !known.contains(&(found.task.pid, found.task.tgid)));
}

fn finding(sighting: Sighting, missing_from: Vec<&'static str>) -> Finding {
    let Sighting { task, seen_in } = sighting;
    let summary = format!(
        "task {} ({}) is hidden: in the {}, not in the {}",
        task.pid,
        task.comm,
        seen_in.join(" and the "),
        missing_from.join(" or the ")
    );
    let subject = Subject::Task { pid: task.pid, tgid: task.tgid, comm: task.comm, address: task.at.0 };
    DETECTOR.finding(Severity::Critical, summary, subject).seen(&seen_in, &missing_from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(address: u64, pid: u32, seen_in: &[&'static str]) -> Sighting {
        let (comm, none) = (String::new(), Gva(0));
        let (at, tgid, ppid, state, kthread) = (Gva(address), pid, 1, 'R', false);
        let start_boottime_ns = 0;
        let (mm, files, fs) = (none, none, none);
        let task = Task { at, pid, tgid, ppid, comm, state, kthread, start_boottime_ns, mm, files, fs };
        Sighting { task, seen_in: seen_in.to_vec() }
    }

    /// Seen on a busy guest whose processor waited for the host's: a fork that had only begun.
    #[test]
    fn a_task_that_is_being_made_is_not_hidden() {
        let mut all = vec![
            sighting(0x1000, 7, &[LIST, TABLE, SLAB]),
            sighting(0x2000, 7, &[SLAB]),
            sighting(0x3000, 8, &[SLAB]),
            sighting(0x4000, 7, &[QUEUES, SLAB]),
        ];
        leave_out_copies(&mut all);
        let left: Vec<u64> = all.iter().map(|sighting| sighting.task.at.0).collect();
        assert_eq!(left, [0x1000, 0x3000, 0x4000]);
    }
}
