//! `lynceus check`: runs the detectors, prints alerts.

use crate::attach::Guest;
use crate::output::{Column, Outcome, Output, Row};
use anyhow::Result;
use lynceus_alerts::Alert;
use lynceus_introspect::{GapReason, Partial};
use lynceus_scanners::{DETECTORS, Severity, Subject};
use serde::Serialize;
use std::io::Write;
use std::time::SystemTime;

/// An alert as a line.
#[derive(Serialize)]
#[serde(transparent)]
struct AlertRow(Alert);

/// Runs every detector. Exit code 1 where one of them found something.
pub(super) fn run(output: Output, guest: &Guest) -> Result<Outcome> {
    let mut alerts = Partial::default();
    for disagreement in guest.disagreements() {
        alerts.items.push(AlertRow(Alert::new(&guest.name, disagreement, SystemTime::now())));
    }
    if guest.damaged {
        // What is hidden may be in what is missing.
        alerts.gap("memory", None, GapReason::Inconsistent("the dump is damaged"));
    }
    for detector in DETECTORS {
        let findings = (detector.run)(guest.linux(), &guest.options);
        let found = alerts.absorb(findings);
        alerts.items.extend(
            found.into_iter().map(|finding| AlertRow(Alert::new(&guest.name, finding, SystemTime::now()))),
        );
    }
    if output.is_json() || !alerts.items.is_empty() {
        output.rows(&alerts.items)?;
    }
    if !output.is_json() {
        let mut err = std::io::stderr().lock();
        for alert in &alerts.items {
            writeln!(err, "{} {}", output.red("ALERT"), crate::output::escape(&alert.0.finding.summary))?;
        }
        let names: Vec<&str> = DETECTORS.iter().map(|detector| detector.name).collect();
        writeln!(err, "{} detectors ran: {}", names.len(), names.join(", "))?;
    }
    let coverage = output.coverage("findings", &alerts)?;
    let found = if alerts.items.is_empty() { Outcome::Clean } else { Outcome::Findings };
    Ok(found.and(coverage))
}

impl Row for AlertRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("SEVERITY"),
        Column::left("DETECTOR"),
        Column::left("ATT&CK"),
        Column::left("SUBJECT"),
        Column::left("SEEN IN"),
        Column::left("MISSING FROM"),
    ];
    fn cells(&self) -> Vec<String> {
        let finding = &self.0.finding;
        let severity = match finding.severity {
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        };
        let subject = match &finding.subject {
            Subject::Task { pid, comm, .. } => format!("task {pid} ({comm})"),
            Subject::Module { name, .. } => format!("module {name}"),
            Subject::Profile { symbol, .. } => format!("symbol or type {symbol}"),
        };
        vec![
            severity.to_owned(),
            finding.detector.to_owned(),
            finding.technique.to_owned(),
            subject,
            finding.seen_in.join(", "),
            finding.missing_from.join(", "),
        ]
    }
}
