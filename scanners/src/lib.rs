//! Detectors: functions that look at a guest and return what is wrong with it.
//!
//! *Trusts*: nothing that the guest says of itself; two independent views of the same thing are compared, and a difference
//! is a finding.
//! *Never*: calls a look clean that has gaps, or reports what a second look does not confirm.
//!
//! A detector is a plain function in [`DETECTORS`]; each says what it sees, what evades it and what it may get wrong.

mod crossview;
mod finding;
mod profiles;
pub mod signatures;

pub use crossview::{hidden_modules, hidden_tasks};
pub use finding::{Finding, Severity, Subject};
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
    /// Looks at a guest.
    pub run: fn(&LinuxGuest, &Options) -> Partial<Finding>,
}

/// All detectors.
pub const DETECTORS: &[Detector] = &[
    Detector {
        name: crossview::tasks::NAME,
        technique: crossview::tasks::TECHNIQUE,
        about: "tasks missing from the task list or the pid table, against run queues and slab pages",
        run: hidden_tasks,
    },
    Detector {
        name: crossview::modules::NAME,
        technique: crossview::modules::TECHNIQUE,
        about: "modules missing from the module list, against the address tree and sysfs objects",
        run: hidden_modules,
    },
];
