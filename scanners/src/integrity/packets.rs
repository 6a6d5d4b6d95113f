//! Who sees packets.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{Allow, Hook, judged};
use crate::{Detector, Finding, Limits};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "packet_hook",
    technique: "T1205",
    about: "functions that see packets and are not the kernel's or a known module's",
    limits: Limits {
        sees: "netfilter hooks of every network namespace that lie in a module that hides or did not come with the kernel, or in nobody's memory: back doors that wait for a packet",
        evaded_by: "a hook in a module that came with the kernel; packets taken before netfilter, by protocol handlers or XDP",
        false_positives: "firewall modules from elsewhere: medium, not critical",
    },
    next: "lynceus sockets and the flows of the VM at the host: what comes in with no socket that waits for it",
    run: packet_hooks,
};

/// Functions that see packets and are not the kernel's or a known module's.
pub fn packet_hooks(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    judged(view, &DETECTOR, Allow::OwnModules, view.packet_hooks().map(Hook::of))
}
