//! All that we see in a guest against all that it told: nothing missing, nothing extra. What cannot be equal is named where it is
//! left out. Used by the tests of the matrix on the host, and by those that run in a Xen service domain.

pub mod detect;
mod files;
mod memory;
mod net;
mod oddities;
mod report;
mod symbols;
mod system;
mod tasks;

use anyhow::{Result, ensure};
use lynceus_introspect::linux::LinuxGuest;
use lynceus_lab::truth::Truth;
use lynceus_scanners::DETECTORS;
pub use oddities::without_oddities;
use report::Report;
pub use symbols::hold as hold_symbols;

/// Holds every view and every detector against the truth: how many facts are equal, or every difference by name.
///
/// # Errors
/// A difference, a gap, or a view that the kernel does not allow.
pub fn hold(guest: &LinuxGuest, truth: &Truth) -> Result<usize> {
    let (view, mut report) = (guest.view(), Report::default());
    let missing = guest.kernel().layouts.unavailable();
    ensure!(missing.is_empty(), "views that this kernel does not allow: {missing:?}");
    tasks::compare(&view, truth, &mut report)?;
    memory::compare(&view, truth, &mut report)?;
    files::compare(&view, truth, &mut report)?;
    net::compare(&view, truth, &mut report)?;
    system::compare(&view, truth, &mut report)?;
    let mut found = Vec::new();
    for detector in DETECTORS {
        found.extend(report.whole(detector.name, (detector.run)(guest, &Default::default())));
    }
    let alarms = without_oddities(found)?;
    report.differences.extend(alarms.iter().map(|finding| format!("false alarm: {finding:?}")));
    let differences = &report.differences;
    ensure!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    Ok(report.equal)
}
