//! What the full scenery plants on purpose, taken out of what the detectors find.

use anyhow::{Result, bail};
use lynceus_lab::scenery::ODDITIES;
use lynceus_scanners::{DETECTORS, Finding, Subject};

/// What is left of `found` when the oddities of the full scenery are taken away, each of them once.
///
/// # Errors
/// An oddity that was not found, although its detector ran.
pub fn without_oddities(mut found: Vec<Finding>) -> Result<Vec<Finding>> {
    for (detector, comm) in ODDITIES {
        if DETECTORS.iter().all(|known| known.name != *detector) {
            continue;
        }
        match found.iter().position(|finding| finding.detector == *detector && is_about(finding, comm)) {
            Some(index) => drop(found.remove(index)),
            None => bail!("{detector} did not find {comm}: {found:#?}"),
        }
    }
    Ok(found)
}

fn is_about(finding: &Finding, name: &str) -> bool {
    match &finding.subject {
        Subject::Task { comm, .. } => comm == name,
        Subject::Memory { comm, .. } => comm.as_deref() == Some(name),
        _ => false,
    }
}
