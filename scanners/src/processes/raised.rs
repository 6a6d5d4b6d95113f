//! Raised credentials: root, or capabilities, that nothing gave.
//!
//! What it sees, and what evades it: [`DETECTOR`].
//!
//! Only the start of a set-uid program, or of one with file capabilities, raises what a process may do, and the kernel notes in the
//! new program's memory as whom it was started and whether that start raised anything. So a process that was started as
//! nobody in particular, with nothing raised, and is root now, was made so by the kernel at somebody else's wish. One that then
//! started another program (a shell, mostly) is told by its parent, which never was root, and by its groups: `su`, `sudo`, `doas` and
//! `pkexec` all set them anew, and nobody but the kernel can give a process the static list that it started with itself.

use super::{each, subject};
use crate::{Detector, Finding, Limits, Severity};
use lynceus_introspect::linux::{Creds, LinuxGuest, Mm, StartedAs, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gva, Partial};

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "raised_credentials",
    technique: "T1068",
    about: "processes that are root, or have capabilities, though nothing gave them any",
    limits: Limits {
        sees: "a process started without privileges that is root or has capabilities now; a root process whose parent never was root, with the parent's groups or the kernel's own",
        evaded_by: "an exploit that starts another program and sets its groups, or lives in a child of a root process; credentials swapped only while they are used; processes in user namespaces",
        false_positives: "a home-made set-uid wrapper that calls setuid(0) and starts a program in its own place; capabilities from an ambient set that was cleared since, by a parent that is gone",
    },
    next: "lynceus tree: the first process of the line that is root; what it runs, and dump it: the exploit may still be in its memory",
    run: raised_credentials,
};

const CAP_SETUID: u64 = 1 << 7;
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// Positions in [`Creds::caps`].
const INHERITABLE: usize = 0;
const PERMITTED: usize = 1;
const AMBIENT: usize = 4;

/// Processes that may do more than they were started with.
pub fn raised_credentials(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    each(guest, options, |view, task, mm| {
        let mut found = Partial::default();
        let judged = judged(view, task, mm);
        let finding = found.ok("credentials", task.at, judged).flatten();
        found.items.extend(finding);
        found
    })
}

fn judged(view: &View<'_>, task: &Task, mm: &Mm) -> Result<Option<Finding>, GapReason> {
    let own = view.creds(task)?;
    // Root of a namespace of its own is no root.
    if view.kernel().symbol("init_user_ns").is_ok_and(|first| first != own.user_ns) {
        return Ok(None);
    }
    let Some(started) = view.started_as(mm)? else { return Ok(None) };
    let parent = view.parent(task)?.filter(|parent| parent.pid != 0);
    let Some(parent) = parent else { return Ok(None) };
    let what = match (is_root(&own), was_privileged(started)) {
        (true, false) if !may_become_root(&own) => {
            "is root, though it was started as a user by no set-uid program"
        }
        (true, true) if !started.secure && is_roots_child_of_nobody(view, &own, &parent)? => {
            "was started as root by a process that never was, and by no set-uid program"
        }
        (false, false) if has_stray_capabilities(&own, &view.creds(&parent)?) => {
            "has capabilities that neither its program nor its parent gave it"
        }
        _ => return Ok(None),
    };
    let Creds { uids: [uid, euid, ..], caps, .. } = own;
    let permitted = caps.get(PERMITTED).copied().unwrap_or_default();
    let summary = format!(
        "process {} ({}) {what}: uid {uid}, euid {euid}, capabilities {permitted:#x}, started as {} by process {} ({})",
        task.pid, task.comm, started.euid, parent.tgid, parent.comm
    );
    let finding = DETECTOR.finding(Severity::Critical, summary, subject(task));
    let technique = if is_root(&own) { DETECTOR.technique } else { "T1548" };
    Ok(Some(Finding { technique: technique.into(), ..finding }))
}

fn is_root(creds: &Creds) -> bool {
    creds.uids.contains(&0)
}

/// Whether a program could do more than others from its start on.
fn was_privileged(started: StartedAs) -> bool {
    started.uid == 0 || started.euid == 0 || started.secure
}

/// A service may be given the capability to change its user. One that has all of them was given them by an exploit.
fn may_become_root(creds: &Creds) -> bool {
    creds.caps.get(AMBIENT).is_some_and(|ambient| ambient & (CAP_SETUID | CAP_SYS_ADMIN) == CAP_SETUID)
}

/// Whether the parent never was more than a user, and the process has its groups, or the kernel's.
fn is_roots_child_of_nobody(view: &View<'_>, own: &Creds, parent: &Task) -> Result<bool, GapReason> {
    if parent.mm.is_null() || parent.kthread {
        return Ok(false);
    }
    let theirs = view.creds(parent)?;
    let Some(started) = view.started_as(&view.mm(parent.mm)?)? else { return Ok(false) };
    let capable = theirs.caps.get(PERMITTED).is_some_and(|caps| *caps != 0);
    if is_root(&theirs) || was_privileged(started) || capable || theirs.user_ns != own.user_ns {
        return Ok(false);
    }
    let first: Option<Gva> = view.kernel().symbol("init_groups").ok();
    Ok(own.groups == theirs.groups || Some(own.groups) == first)
}

/// A program without file capabilities starts with its ambient set, and can only lose of it.
fn has_stray_capabilities(own: &Creds, parent: &Creds) -> bool {
    let caps = |creds: &Creds, set: usize| creds.caps.get(set).copied().unwrap_or_default();
    let explained = caps(own, AMBIENT) | caps(own, INHERITABLE) | caps(parent, PERMITTED);
    caps(own, PERMITTED) & !explained != 0
}
