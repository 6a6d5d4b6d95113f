//! Shared credentials: every process has credentials of its own, or shares those that it was born with.
//!
//! *Sees*: a process that was given another's `struct cred`, init's above all: the shortest way from any user to root.
//! *Evaded by*: a copy of the other's credentials, or writing user ids into one's own.
//! *False positives*: none known. Threads of one process share; so do tasks of the kernel, which are left out.
//! ATT&CK T1068, Exploitation for Privilege Escalation.

use crate::{Finding, Severity, Subject};
use lynceus_introspect::linux::{LinuxGuest, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};
use std::collections::BTreeMap;

pub(crate) const NAME: &str = "shared_credentials";
pub(crate) const TECHNIQUE: &str = "T1068";

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
            found.items.push(Finding {
                detector: NAME,
                technique: TECHNIQUE.into(),
                severity: Severity::Critical,
                summary: format!("task {} ({}) has the credentials of {first}", task.pid, task.comm),
                subject: Subject::Task {
                    pid: task.pid,
                    tgid: task.tgid,
                    comm: task.comm,
                    address: task.at.0,
                },
                seen_in: Vec::new(),
                missing_from: Vec::new(),
                rule: None,
            });
        }
    }
    found
}

fn name(sharing: &[Task]) -> String {
    sharing.first().map_or_else(String::new, |task| format!("task {} ({})", task.pid, task.comm))
}
