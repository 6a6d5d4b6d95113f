//! `lynceus explain`: what a detector's findings mean, for a person at three in the morning.

use crate::output::{Outcome, Output};
use anyhow::{Result, bail};
use lynceus_scanners::{DETECTORS, Detector, cohort, flows};
use serde::Serialize;

#[derive(Serialize)]
struct Explanation {
    detector: &'static str,
    technique: &'static str,
    about: &'static str,
    sees: &'static str,
    evaded_by: &'static str,
    false_positives: &'static str,
    next: &'static str,
}

/// Explains one detector, or all.
pub(super) fn run(output: Output, wanted: Option<&str>) -> Result<Outcome> {
    let named = |name: &str| wanted.is_none_or(|wanted| wanted == name);
    let every = || DETECTORS.iter().chain([&cohort::DETECTOR, &flows::DETECTOR]);
    let all: Vec<&Detector> = every().filter(|detector| named(detector.name)).collect();
    if let (Some(wanted), true) = (wanted, all.is_empty()) {
        let names: Vec<&str> = every().map(|detector| detector.name).collect();
        bail!("no detector is called {wanted:?}; there are {}", names.join(", "));
    }
    for detector in all {
        let limits = detector.limits;
        let told = Explanation {
            detector: detector.name,
            technique: detector.technique,
            about: detector.about,
            sees: limits.sees,
            evaded_by: limits.evaded_by,
            false_positives: limits.false_positives,
            next: detector.next,
        };
        if output.is_json() {
            output.json_line(&told)?;
            continue;
        }
        println!(
            "{}  {} (https://attack.mitre.org/techniques/{})",
            told.detector,
            told.technique,
            told.technique.replace('.', "/")
        );
        for (what, text) in [
            ("looks for", told.about),
            ("sees", told.sees),
            ("evaded by", told.evaded_by),
            ("may be wrong", told.false_positives),
            ("look next at", told.next),
        ] {
            println!("  {what:<13} {text}");
        }
    }
    Ok(Outcome::Clean)
}
