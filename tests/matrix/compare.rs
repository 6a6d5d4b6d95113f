//! All that we see in a guest against all that it told.

use crate::report::Report;
use crate::{files, memory, net, system, tasks};
use anyhow::{Result, ensure};
use lynceus_introspect::linux::LinuxGuest;
use lynceus_lab::truth::Truth;
use lynceus_scanners::DETECTORS;

/// Fails with every difference, by name.
pub(crate) fn hold(guest: &LinuxGuest, truth: &Truth) -> Result<usize> {
    let (view, mut report) = (guest.view(), Report::default());
    let missing = guest.kernel().layouts.unavailable();
    ensure!(missing.is_empty(), "views that this kernel does not allow: {missing:?}");
    tasks::compare(&view, truth, &mut report)?;
    memory::compare(&view, truth, &mut report)?;
    files::compare(&view, truth, &mut report)?;
    net::compare(&view, truth, &mut report)?;
    system::compare(&view, truth, &mut report)?;
    for detector in DETECTORS {
        let findings = (detector.run)(guest, &Default::default());
        report.differences.extend(findings.items.iter().map(|finding| format!("false alarm: {finding:?}")));
        report.whole(detector.name, findings);
    }
    let differences = &report.differences;
    ensure!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    Ok(report.equal)
}
