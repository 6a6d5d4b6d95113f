//! `lynceus policy lint`: what is no error, and most likely not what was meant.

use crate::cli::FolderArgs;
use crate::output::{Column, Outcome, Output, Row};
use anyhow::Result;
use lynceus_firewall::{Moment, lint};
use lynceus_policy::{Level, Lint, Timestamp};
use serde::Serialize;

#[derive(Serialize)]
struct LintRow(Lint);

impl Row for LintRow {
    const COLUMNS: &'static [Column] =
        &[Column::left("PLACE"), Column::left("LEVEL"), Column::left("KIND"), Column::left("WHAT")];
    fn cells(&self) -> Vec<String> {
        let Lint { code, level, place, message } = &self.0;
        vec![place.to_string(), level.name().to_owned(), (*code).to_owned(), message.clone()]
    }
}

/// Lists all that is worth a look; exit code 1 where something is more than a note.
pub(super) fn run(output: Output, folder: &FolderArgs) -> Result<Outcome> {
    let policy = super::load(output, &folder.policy)?;
    let lints = lint::all(&policy, &Moment::at(Timestamp::now()));
    let is_bad = lints.iter().any(|lint| lint.level > Level::Note);
    let count = lints.len();
    let rows: Vec<LintRow> = lints.into_iter().map(LintRow).collect();
    if output.is_json() || count > 0 {
        output.rows(&rows)?;
    }
    let text = format!("{} files, {} VMs: {count} things worth a look", policy.files, policy.vms.len());
    super::summary(output, "lints", count, &text)?;
    Ok(if is_bad { Outcome::Findings } else { Outcome::Clean })
}
