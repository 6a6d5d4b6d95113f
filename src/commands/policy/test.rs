//! `lynceus policy test`: the tests that stand in the policy files.

use crate::cli::FolderArgs;
use crate::output::{Column, Outcome, Output, Row};
use anyhow::Result;
use lynceus_firewall::{Moment, suite};
use lynceus_policy::{Policy, Timestamp};
use serde::Serialize;

/// One test.
#[derive(Serialize)]
pub(super) struct TestRow {
    place: String,
    name: Option<String>,
    from: String,
    to: String,
    service: String,
    expected: &'static str,
    pub(super) passed: bool,
    /// What was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

impl TestRow {
    /// Where it stands.
    pub(super) fn place(&self) -> &str {
        &self.place
    }
}

impl Row for TestRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("PLACE"),
        Column::left("FROM"),
        Column::left("TO"),
        Column::left("SERVICE"),
        Column::left("EXPECTED"),
        Column::left("RESULT"),
    ];
    fn cells(&self) -> Vec<String> {
        let result = self.why.clone().unwrap_or_else(|| "ok".to_owned());
        let [place, from, to, service] = [&self.place, &self.from, &self.to, &self.service].map(Clone::clone);
        vec![place, from, to, service, self.expected.to_owned(), result]
    }
}

/// Every test with what came of it.
pub(super) fn results(policy: &Policy, now: &Moment) -> Vec<TestRow> {
    let owners = suite::owners(&policy.vms);
    let row = |test: &lynceus_policy::Test| {
        let result = suite::run(policy, &owners, test, now);
        let why = match result.failures.first() {
            Some(failure) => {
                let last = failure.judged.iter().find(|judged| judged.decision.verdict == failure.verdict);
                let by = last.map_or_else(
                    || "no VM is at either end".to_owned(),
                    |judged| {
                        format!(
                            "{} {}: {}",
                            judged.vm,
                            judged.direction.name(),
                            super::decided_by(&judged.decision)
                        )
                    },
                );
                Some(format!("FAILED: {} is {} by {by}", failure.flow, failure.verdict.name()))
            }
            None if result.flows == 0 => Some("FAILED: the two ends have no family in common".to_owned()),
            None => None,
        };
        TestRow {
            place: test.place.to_string(),
            name: test.name.clone(),
            from: test.from.to_string(),
            to: test.to.to_string(),
            service: test.service.clone(),
            expected: test.expect.name(),
            passed: result.is_passed(),
            why,
        }
    };
    policy.tests.iter().map(row).collect()
}

/// Runs them; exit code 1 where one fails.
pub(super) fn run(output: Output, folder: &FolderArgs) -> Result<Outcome> {
    let policy = super::load(output, &folder.policy)?;
    let rows = results(&policy, &Moment::at(Timestamp::now()));
    let failed = rows.iter().filter(|row| !row.passed).count();
    if output.is_json() || !rows.is_empty() {
        output.rows(&rows)?;
    }
    let text = match rows.len() {
        0 => "the policy has no tests".to_owned(),
        count => format!("{count} tests, {failed} failed"),
    };
    super::summary(output, "tests", rows.len(), &text)?;
    Ok(if failed > 0 { Outcome::Findings } else { Outcome::Clean })
}
