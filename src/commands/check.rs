//! `lynceus check`: runs the detectors, prints alerts.

use super::alerts;
use crate::attach::Guest;
use crate::output::{Outcome, Output};
use anyhow::Result;
use lynceus_introspect::{GapReason, Partial};
use lynceus_scanners::DETECTORS;
use std::path::Path;

/// Runs every detector. Exit code 1 where one of them found something.
pub(super) fn run(output: Output, mut guest: Guest, kernel: Option<&Path>) -> Result<Outcome> {
    let image = guest.find_image(kernel)?;
    let mut all = Partial { items: guest.disagreements(), ..Partial::default() };
    if guest.damaged {
        // What is hidden may be in what is missing.
        all.gap("memory", None, GapReason::Inconsistent("the dump is damaged"));
    }
    for detector in DETECTORS {
        let findings = (detector.run)(guest.linux(), &guest.options);
        let found = all.absorb(findings);
        all.items.extend(found);
    }
    let names: Vec<&str> = DETECTORS.iter().map(|detector| detector.name).collect();
    let compared = match image {
        Some(from) => format!("kernel code and constants compared with {from}"),
        None => "kernel code and constants compared with nothing: import the kernel's vmlinuz, or give it with --kernel".to_owned(),
    };
    let closing = format!("{} detectors ran: {}\n{compared}", names.len(), names.join(", "));
    alerts::tell(output, &guest.name, all, &closing)
}
