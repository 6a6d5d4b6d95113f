//! Hidden tasks: the task list against the pid table, the run queues and the slab pages that hold tasks.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::confirmed;
use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{LinuxGuest, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};
use std::collections::BTreeMap;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "hidden_task",
    technique: "T1014",
    about: "tasks missing from the task list or the pid table, against run queues and slab pages",
    limits: Limits {
        sees: "a task unlinked from the task list, from the pid table, from its process's thread list, or from all of them",
        evaded_by: "code that runs without a task (in another's, in an interrupt), a task_struct copied out of its slab cache",
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
    all
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
    Finding { seen_in, missing_from, ..DETECTOR.finding(Severity::Critical, summary, subject) }
}
