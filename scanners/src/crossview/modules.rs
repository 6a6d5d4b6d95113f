//! Hidden modules: the module list against the tree of module addresses and the objects behind `/sys/module`.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::confirmed;
use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{LinuxGuest, Module, ModuleState, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};
use std::collections::BTreeMap;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "hidden_module",
    technique: "T1014",
    about: "modules missing from the module list, against the address tree and sysfs objects",
    limits: Limits {
        sees: "a module unlinked from the list that /proc/modules shows, from the tree of module addresses, or from sysfs",
        evaded_by: "a module that leaves all three; code that was copied into memory without being a module",
        false_positives: "none known: a module that is being loaded or unloaded is not counted",
    },
    next: "lynceus scan --scope kernel with your rules; lynceus check again: what the module hooks is listed as well; then lynceus dump",
    run: hidden_modules,
};

const LIST: &str = "module list";
const TREE: &str = "module address tree";
const SYSFS: &str = "sysfs module objects";

/// Modules that one of the kernel's three places does not show.
pub fn hidden_modules(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    let look = || guest.observe(options, look).result;
    confirmed(guest, look, |a, b| a.subject == b.subject && a.missing_from == b.missing_from)
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut findings = Partial::default();
    let mut by_address: BTreeMap<Gva, (Module, Vec<&'static str>)> = BTreeMap::new();
    let mut read = Vec::new();
    for (name, modules) in
        [(LIST, view.modules()), (TREE, view.modules_in_tree()), (SYSFS, view.modules_in_sysfs())]
    {
        // A view that could not be read at all accuses nobody.
        if modules.is_complete() || !modules.items.is_empty() {
            read.push(name);
        }
        for module in findings.absorb(modules) {
            by_address.entry(module.at).or_insert_with(|| (module, Vec::new())).1.push(name);
        }
    }
    for (module, seen_in) in by_address.into_values() {
        let missing: Vec<_> = read.iter().copied().filter(|name| !seen_in.contains(name)).collect();
        if module.state == ModuleState::Live && !missing.is_empty() {
            findings.items.push(finding(module, seen_in, missing));
        }
    }
    findings
}

fn finding(module: Module, seen_in: Vec<&'static str>, missing_from: Vec<&'static str>) -> Finding {
    let summary = format!(
        "module {} is hidden: in the {}, not in the {}",
        module.name,
        seen_in.join(" and the "),
        missing_from.join(" or the ")
    );
    let subject = Subject::Module { name: module.name, base: module.base.0, address: module.at.0 };
    DETECTOR.finding(Severity::Critical, summary, subject).seen(&seen_in, &missing_from)
}
