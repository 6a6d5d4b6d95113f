//! Shared credentials: every process has credentials of its own, or shares those that it was born with.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{LinuxGuest, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};
use std::collections::BTreeMap;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "shared_credentials",
    technique: "T1068",
    about: "processes that were given another's credentials",
    limits: Limits {
        sees: "a process that shares its struct cred with an older process, init's above all",
        evaded_by: "a copy of the other's credentials, or user ids written into one's own",
        false_positives: "none known: threads of one process share, and tasks of the kernel are left out",
    },
    next: "lynceus ps and tree: who started it, as which user, from which executable",
    run: shared_credentials,
};

/// Processes with the credentials of an older process.
pub fn shared_credentials(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut found = Partial::default();
    let mut owners: BTreeMap<Gva, Vec<Task>> = BTreeMap::new();
    let tasks = view.processes();
    for (task, _) in found.absorb(tasks) {
        if !task.kthread
            && let Some(creds) = found.ok("credentials", task.at, view.creds(&task))
        {
            owners.entry(creds.at).or_default().push(task);
        }
    }
    // The idle task's credentials are static: nobody else's.
    let own = view.kernel().symbol("init_cred").ok();
    for (at, mut sharing) in owners {
        sharing.sort_by_key(|task| (task.start_boottime_ns, task.pid));
        let first = if own == Some(at) { "the kernel".to_owned() } else { name(&sharing) };
        let skipped = usize::from(own != Some(at));
        for task in sharing.into_iter().skip(skipped) {
            let summary = format!("task {} ({}) has the credentials of {first}", task.pid, task.comm);
            let subject =
                Subject::Task { pid: task.pid, tgid: task.tgid, comm: task.comm, address: task.at.0 };
            found.items.push(DETECTOR.finding(Severity::Critical, summary, subject));
        }
    }
    found
}

fn name(sharing: &[Task]) -> String {
    sharing.first().map_or_else(String::new, |task| format!("task {} ({})", task.pid, task.comm))
}
