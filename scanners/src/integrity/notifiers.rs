//! Who is told of events.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{Allow, Hook, judged};
use crate::{Detector, Finding, Limits};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "notifier",
    technique: "T1056.001",
    about: "functions that are told of keys and other events and are nobody's",
    limits: Limits {
        sees: "entries of the chains of keyboard, console, fault, panic, reboot, module and network device events that lie in a module that hides or in nobody's memory; on the keyboard's chain also those of a module that did not come with the kernel: a keylogger",
        evaded_by: "keyloggers that read input devices or terminals",
        false_positives: "a screen reader's module from elsewhere on the keyboard's chain: medium, not critical",
    },
    next: "a keyboard notifier is a keylogger: everything typed at this console is known to somebody",
    run: notifiers,
};

/// The chain by which keys are told.
const KEYBOARD: &str = "keyboard_notifier_list";

/// Functions that are told of keys and other events and are nobody's.
pub fn notifiers(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let (mut keys, mut others) = (Partial::default(), Partial::default());
    let callbacks = view.notifiers();
    for (chain, callback) in keys.absorb(callbacks) {
        let hooks = if chain == KEYBOARD { &mut keys } else { &mut others };
        hooks.items.push(Hook::of(callback));
    }
    let mut found = judged(view, &DETECTOR, Allow::OwnModules, keys);
    let rest = judged(view, &DETECTOR, Allow::AnyModule, others);
    let rest = found.absorb(rest);
    found.items.extend(rest);
    found
}
