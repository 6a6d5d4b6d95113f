//! BPF programs that do what only attackers and testers want.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "bpf_program",
    technique: "T1014",
    about: "BPF programs that write to the memory of processes or decide what functions return",
    limits: Limits {
        sees: "loaded programs that call bpf_probe_write_user or bpf_override_return, whatever they are attached to: how rootkits without a module hide files and steal what is typed",
        evaded_by: "programs that only read, and pass on what they read",
        false_positives: "fault injection and debugging on test systems",
    },
    next: "lynceus bpf tells who loaded the program, when, and for what; lynceus files which process holds it",
    run: bpf_helpers,
};

/// What gives a program away, and what it does.
const HELPERS: [(&str, &str); 2] = [
    ("bpf_probe_write_user", "writes to the memory of processes"),
    ("bpf_override_return", "decides what functions of the kernel return"),
];

/// Programs that do so.
pub fn bpf_helpers(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut found = Partial::default();
    let helpers: Vec<_> = HELPERS
        .iter()
        .filter_map(|(name, does)| Some((view.kernel().symbol(name).ok()?, *name, *does)))
        .collect();
    let programs = view.bpf_programs();
    for program in found.absorb(programs) {
        let Some(calls) = found.ok("BPF program", program.at, view.bpf_calls(&program)) else { continue };
        for (_, name, does) in helpers.iter().filter(|(at, ..)| calls.binary_search(at).is_ok()) {
            let (id, kind) = (program.id, program.type_name());
            let summary = format!("BPF program {id} ({kind}, {:?}) {does} ({name})", program.name);
            let subject = Subject::Kernel {
                symbol: format!("BPF program {id}"),
                address: program.at.0,
                value: (*name).to_owned(),
            };
            found.items.push(DETECTOR.finding(Severity::High, summary, subject));
        }
    }
    found
}
