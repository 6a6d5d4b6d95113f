//! BPF programs in the hands of programs that came from nowhere.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{each, is_from_anywhere, subject};
use crate::{Detector, Finding, Limits, Severity};
use lynceus_introspect::linux::{BpfProgram, LinuxGuest, Mm, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Partial};

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "bpf_attachment",
    technique: "T1014",
    about: "BPF programs that see or steer what others do, held by a program that nobody installed",
    limits: Limits {
        sees: "a BPF program for packets at a device (XDP, traffic control, netfilter), for probes, tracepoints, functions of the kernel, perf events or LSM, or a link to one, that is held open by a process whose program was deleted, never had a file, or lies where any user may write",
        evaded_by: "a loader in a system folder; one that ends while its programs stay attached: those are bpf_orphan's",
        false_positives: "tracing tools that are tried out in /tmp or a hidden folder",
    },
    next: "lynceus bpf tells what each program is for and when it was loaded; lynceus files --pid who else it talks to; the program's own file, while it runs, by lynceus scan",
    run: bpf_attachments,
};

/// Types that see or steer what is not the loader's own.
pub(crate) const KINDS: [&str; 13] = [
    "kprobe",
    "sched_cls",
    "sched_act",
    "tracepoint",
    "xdp",
    "perf_event",
    "raw_tracepoint",
    "raw_tracepoint_writable",
    "tracing",
    "struct_ops",
    "ext",
    "lsm",
    "netfilter",
];
/// Most programs that are named.
const NAMED: usize = 8;

/// Processes that hold such programs.
pub fn bpf_attachments(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    each(guest, options, look)
}

fn look(view: &View<'_>, task: &Task, mm: &Mm) -> Partial<Finding> {
    let mut found = Partial::default();
    let judged = odd_program(view, mm);
    let Some(path) = found.ok("executable", mm.exe_file, judged).flatten() else { return found };
    let held = view.bpf_held(task);
    let mut held = found.absorb(held);
    held.retain(|program| KINDS.contains(&program.type_name()));
    if !held.is_empty() {
        let summary = format!(
            "process {} ({}) holds BPF programs that see or steer what others do: {}; and is no program that was installed: {path}",
            task.pid,
            task.comm,
            names(&held)
        );
        found.items.push(DETECTOR.finding(Severity::High, summary, subject(task)));
    }
    found
}

/// The path of a program that came from anywhere.
fn odd_program(view: &View<'_>, mm: &Mm) -> Result<Option<String>, GapReason> {
    let path = view.exe(mm)?.unwrap_or_default();
    Ok(is_from_anywhere(view, mm, &path)?.then_some(path))
}

fn names(held: &[BpfProgram]) -> String {
    let name = |program: &BpfProgram| {
        let at = program.attached_to.as_deref().map(|function| format!(" at {function}")).unwrap_or_default();
        format!("{} ({}{at}, {:?})", program.id, program.type_name(), program.name)
    };
    let mut names: Vec<String> = held.iter().take(NAMED).map(name).collect();
    names.extend(held.len().checked_sub(NAMED).filter(|more| *more > 0).map(|more| format!("{more} more")));
    names.join(", ")
}
