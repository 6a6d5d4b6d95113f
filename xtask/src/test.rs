//! `cargo xtask test`: every test, as CI runs them.

use crate::shell::{cargo, run};
use anyhow::Result;

/// Runs the whole workspace's tests.
pub(crate) fn run_all(passed_on: &[String]) -> Result<()> {
    let mut test = cargo(&["test", "--workspace", "--no-fail-fast"]);
    run(test.args(passed_on))
}
