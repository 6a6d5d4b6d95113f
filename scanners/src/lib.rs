//! Detectors: functions that look at a guest and return what is wrong with it.
//!
//! *Trusts*: nothing that the guest says of itself; two independent views of the same thing are compared, and a difference
//! is a finding.
//! *Never*: calls a look clean that has gaps, or reports what a second look does not confirm.
//!
//! A detector is a plain function in [`DETECTORS`]; beside it stands what it sees, what evades it and what it may get wrong.

pub mod cohort;
mod crossview;
pub mod evidence;
mod finding;
pub mod flows;
mod integrity;
mod processes;
mod profiles;
pub mod signatures;

pub use crossview::{hidden_modules, hidden_tasks};
pub use finding::{Finding, Severity, Subject};
pub use integrity::{
    bpf_helpers, bpf_orphans, helper_programs, interrupt_handlers, kernel_constants, kernel_text,
    module_text, notifiers, operation_tables, packet_hooks, probe_handlers, processor_states,
    shared_credentials, syscall_handlers, terminal_inputs, trace_handlers,
};
pub use processes::{
    bpf_attachments, covered_paths, dispatched, executable_memory, hidden_files, hidden_sockets,
    odd_executables, packet_sockets, preloaded_libraries, process_hollowing, ptrace_links,
    raised_credentials,
};
pub use profiles::profile_disagreements;

use lynceus_introspect::Partial;
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::observe::Options;

/// A detector and what is known of it.
#[derive(Clone, Copy)]
pub struct Detector {
    /// Its name, stable: policies and SIEM rules refer to it.
    pub name: &'static str,
    /// The MITRE ATT&CK technique that it sees.
    pub technique: &'static str,
    /// What it looks for, in a line.
    pub about: &'static str,
    /// What it sees, what evades it, what it may get wrong.
    pub limits: Limits,
    /// What to look at next, for whoever was woken by it.
    pub next: &'static str,
    /// Looks at a guest.
    pub run: fn(&LinuxGuest, &Options) -> Partial<Finding>,
}

impl Detector {
    fn finding(&self, severity: Severity, summary: String, subject: Subject) -> Finding {
        Finding::new(self.name, self.technique, severity, summary, subject)
    }
}

/// What is known of a detector's reach.
#[derive(Clone, Copy)]
pub struct Limits {
    /// What it sees.
    pub sees: &'static str,
    /// What evades it.
    pub evaded_by: &'static str,
    /// What it may get wrong.
    pub false_positives: &'static str,
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All detectors.
pub const DETECTORS: &[Detector] = &[
    crossview::tasks::DETECTOR,
    crossview::modules::DETECTOR,
    integrity::text::DETECTOR,
    integrity::text::modules::DETECTOR,
    integrity::constants::DETECTOR,
    integrity::syscalls::DETECTOR,
    integrity::interrupts::DETECTOR,
    integrity::processors::DETECTOR,
    integrity::operations::DETECTOR,
    integrity::probes::DETECTOR,
    integrity::traces::DETECTOR,
    integrity::packets::DETECTOR,
    integrity::notifiers::DETECTOR,
    integrity::terminals::DETECTOR,
    integrity::bpf::DETECTOR,
    integrity::orphans::DETECTOR,
    integrity::helpers::DETECTOR,
    integrity::credentials::DETECTOR,
    processes::executables::DETECTOR,
    processes::preload::DETECTOR,
    processes::executable_memory::DETECTOR,
    processes::hollowing::DETECTOR,
    processes::raised::DETECTOR,
    processes::sockets::DETECTOR,
    processes::packets::DETECTOR,
    processes::bpf::DETECTOR,
    processes::covered::DETECTOR,
    processes::nameless::DETECTOR,
    processes::tracing::TRACED,
    processes::tracing::DISPATCHED,
];
