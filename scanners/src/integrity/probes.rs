//! Handlers of probes.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{Allow, Hook, judged};
use crate::{Detector, Finding, Limits};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "kprobe_handler",
    technique: "T1014",
    about: "probes whose handlers are not the kernel's",
    limits: Limits {
        sees: "kprobes and kretprobes whose handlers lie in a module that hides or did not come with the kernel, or in nobody's memory",
        evaded_by: "a handler in a module that came with the kernel, a change of the handler's own code",
        false_positives: "SystemTap, LTTng and security products that load modules of their own: medium, not critical",
    },
    next: "the function that is probed says what is watched: do_exit and security_file_open programs, kallsyms_lookup_name a rootkit that starts",
    run: probe_handlers,
};

/// Probes whose handlers are not the kernel's.
pub fn probe_handlers(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut hooks = Partial::default();
    let probes = view.probes();
    for probe in hooks.absorb(probes) {
        hooks.items.extend(probe.handlers.into_iter().map(Hook::of));
    }
    judged(view, &DETECTOR, Allow::OwnModules, hooks)
}
