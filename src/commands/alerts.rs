//! Alerts as lines, for the commands that may have some.

use crate::output::{Column, Outcome, Output, Row, escape};
use anyhow::Result;
use lynceus_alerts::Alert;
use lynceus_introspect::Partial;
use lynceus_scanners::{Finding, Subject};
use serde::Serialize;
use std::io::Write;
use std::time::SystemTime;

/// An alert as a line.
#[derive(Serialize)]
#[serde(transparent)]
struct AlertRow(Alert);

/// Prints what was found in a VM. Exit code 1 where that is anything.
pub(super) fn tell(output: Output, vm: &str, found: Partial<Finding>, closing: &str) -> Result<Outcome> {
    let alerts = found.map(|finding| AlertRow(Alert::new(vm, finding, SystemTime::now())));
    if output.is_json() || !alerts.items.is_empty() {
        output.rows(&alerts.items)?;
    }
    if !output.is_json() {
        let mut err = std::io::stderr().lock();
        for alert in &alerts.items {
            writeln!(err, "{} {}", output.red("ALERT"), escape(alert.0.summary()))?;
        }
        writeln!(err, "{closing}")?;
    }
    let coverage = output.coverage("findings", &alerts)?;
    let outcome = if alerts.items.is_empty() { Outcome::Clean } else { Outcome::Findings };
    Ok(outcome.and(coverage))
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
        let Some(finding) = self.0.finding() else { return vec![String::new(); Self::COLUMNS.len()] };
        let severity = finding.severity.name();
        let subject = match &finding.subject {
            Subject::Task { pid, comm, .. } => format!("task {pid} ({comm})"),
            Subject::Module { name, .. } => format!("module {name}"),
            Subject::Memory { pid: Some(pid), comm, path, .. } => {
                format!("memory of {pid} ({}) {path}", comm.as_deref().unwrap_or_default())
            }
            Subject::Memory { path, .. } => path.clone(),
            Subject::Kernel { symbol, .. } => symbol.clone(),
            Subject::File { path, fs, inode, .. } => format!("file {path} ({fs}, inode {inode})"),
            Subject::Socket { protocol, local, .. } => format!("socket {protocol} {local}"),
            Subject::Profile { symbol, .. } => format!("symbol or type {symbol}"),
        };
        vec![
            severity.to_owned(),
            finding.detector.to_string(),
            finding.technique.to_string(),
            subject,
            finding.seen_in.join(", "),
            finding.missing_from.join(", "),
        ]
    }
}
