//! Handlers of traced functions.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{Allow, Hook, judged};
use crate::{Detector, Finding, Limits};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "ftrace_handler",
    technique: "T1014",
    about: "traced functions whose handlers are not the kernel's",
    limits: Limits {
        sees: "handlers registered with ftrace that lie in a module that hides or did not come with the kernel, or in nobody's memory: how rootkits since 5.7 hook system calls without touching a table",
        evaded_by: "a handler in a module that came with the kernel; a call written over a traced function by hand, which kernel_text sees",
        false_positives: "products that load modules of their own and trace with them: medium, not critical; live patches are the kernel's own handler",
    },
    next: "lynceus modules tells since when the module is there; kernel_text tells which functions lead to it",
    run: trace_handlers,
};

/// Traced functions whose handlers are not the kernel's.
pub fn trace_handlers(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    judged(view, &DETECTOR, Allow::OwnModules, view.traces().map(Hook::of))
}
