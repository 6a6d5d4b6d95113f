//! `lynceus check --cohort`: guests of the same kernel compared with each other.

use super::alerts;
use crate::attach::Guest;
use crate::output::{Outcome, Output};
use anyhow::Result;
use lynceus_introspect::linux::LinuxGuest;
use lynceus_scanners::cohort;
use std::collections::HashSet;

/// Tells who differs from most. A guest that has no sibling is named: it was compared with nobody.
pub(super) fn run(output: Output, guests: &[&Guest], told: &mut HashSet<String>) -> Result<Outcome> {
    let linux: Vec<&LinuxGuest> = guests.iter().map(|guest| guest.linux()).collect();
    let mut outcome = Outcome::Clean;
    for group in cohort::cohorts(&linux) {
        let names: Vec<&str> = group.members.iter().map(|index| guests[*index].name.as_str()).collect();
        if let [alone] = names[..] {
            eprintln!(
                "lynceus: {alone}: no other guest runs {} on such a processor: compared with nobody",
                group.release
            );
            continue;
        }
        let members: Vec<&LinuxGuest> = group.members.iter().map(|index| linux[*index]).collect();
        for (mut found, name) in cohort::compare(&members).into_iter().zip(&names) {
            found.items.retain(|finding| told.insert(lynceus_alerts::id(name, finding)));
            if !found.items.is_empty() || !found.is_complete() {
                outcome = outcome.and(alerts::tell(output, name, found, "compared with its cohort")?);
            }
        }
        if !output.is_json() {
            eprintln!("cohort of {} with {}: {}", names.len(), group.release, names.join(", "));
        }
    }
    Ok(outcome)
}
