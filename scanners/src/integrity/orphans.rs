//! BPF programs whose loader is gone.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use crate::crossview::confirmed;
use crate::processes::bpf::KINDS;
use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{BpfProgram, LinuxGuest, View};
use lynceus_introspect::observe::Options;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "bpf_orphan",
    technique: "T1205.002",
    about: "BPF programs that see or steer what others do, and that no process holds",
    limits: Limits {
        sees: "BPF programs for packets at a device (XDP, traffic control, netfilter), for probes, tracepoints, functions of the kernel, perf events or LSM, that run while no process holds them, a link to them, or a program that jumps to them: backdoors without a process attach to a device or pin themselves so",
        evaded_by: "a loader that stays, as any program; programs of other types",
        false_positives: "what attaches its programs and ends on purpose: network plugins (Cilium, Calico), libxdp, ip link and tc, systemd-nsresourced. Such a system has them from its start",
    },
    next: "the finding names where it is pinned, if it is: removing that file ends it; lynceus bpf tells when the program was loaded, by whom, for what, and all paths that it is pinned at; in the guest bpftool net and bpftool link where it is attached, bpftool prog dump xlated what it does",
    run: bpf_orphans,
};

/// Programs that others see or steer by, but those that a table of operations holds: what registers such a table is meant to end.
fn is_asked_for(program: &BpfProgram) -> bool {
    let kind = program.type_name();
    KINDS.contains(&kind) && kind != "struct_ops" && !is_the_kernels(program)
}

/// Listings, which run when they are read, and the kernel's own way to programs for input devices (`kernel/bpf/preload`, Linux 5.13;
/// `drivers/hid/bpf`, Linux 6.3 to 6.10): it loads both itself.
fn is_the_kernels(program: &BpfProgram) -> bool {
    let is_own = |function: &str| function.starts_with("bpf_iter_") || function == "__hid_bpf_tail_call";
    program.type_name() == "tracing" && program.attached_to.as_deref().is_some_and(is_own)
}

/// Programs that no process holds.
pub fn bpf_orphans(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    // A program is held by nobody for an instant while who made it ends.
    confirmed(guest, || guest.observe(options, look).result, |one, other| one.subject == other.subject)
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut found = Partial::default();
    let programs = view.bpf_programs();
    let programs = found.absorb(programs);
    if !programs.iter().any(is_asked_for) {
        return found;
    }
    let orphans = view.bpf_orphans(programs);
    let orphans = found.absorb(orphans);
    // Whose descriptors could not be read may hold them.
    if !found.is_complete() {
        return found;
    }
    let orphans: Vec<BpfProgram> = orphans.into_iter().filter(is_asked_for).collect();
    if !orphans.is_empty() {
        let pinned = view.bpf_pinned(orphans);
        let pinned = found.absorb(pinned);
        found.items.extend(pinned.iter().map(|(program, pins)| finding(program, pins)));
    }
    found
}

fn finding(program: &BpfProgram, pins: &[String]) -> Finding {
    let (id, kind) = (program.id, program.type_name());
    let at = program.attached_to.as_deref().map(|function| format!(" at {function}")).unwrap_or_default();
    let pinned = match pins {
        [] => String::new(),
        [first] => format!("; pinned at {first:?}"),
        [first, more @ ..] => format!("; pinned at {first:?} and {} other paths", more.len()),
    };
    let summary =
        format!("BPF program {id} ({kind}{at}, {:?}) runs, and no process holds it{pinned}", program.name);
    let (symbol, address) = (format!("BPF program {id}"), program.at.0);
    DETECTOR.finding(Severity::Medium, summary, Subject::Kernel { symbol, address, value: kind.to_owned() })
}
