//! Who gets what is typed.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{Allow, Hook, judged};
use crate::{Detector, Finding, Limits};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "terminal_input",
    technique: "T1056.001",
    about: "line disciplines that hand what is typed to others",
    limits: Limits {
        sees: "receive_buf and receive_buf2 of the line discipline of an open terminal that lie in a module that hides or did not come with the kernel, or in nobody's memory: what is typed is read along",
        evaded_by: "keyloggers that read input devices or the memory of the terminal program",
        false_positives: "drivers of modems and serial buses from elsewhere: medium, not critical",
    },
    next: "which terminal it is says whose secrets are lost: tty1 the console, ttyS0 the serial line, pts the network logins",
    run: terminal_inputs,
};

/// Line disciplines that hand what is typed to others.
pub fn terminal_inputs(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    judged(view, &DETECTOR, Allow::OwnModules, view.terminal_inputs().map(Hook::of))
}
