//! `cargo xtask test`: every test, as CI runs them.

use crate::shell::{cargo, run};
use anyhow::Result;

/// Installs what is missing, fetches the lab's kernels, then runs the whole workspace's tests.
pub(crate) fn run_all(passed_on: &[String]) -> Result<()> {
    lynceus_lab::packages::ensure(lynceus_lab::packages::ALL)?;
    lynceus_lab::kernels::fetch_all()?;
    let mut test = cargo(&["test", "--workspace", "--no-fail-fast"]);
    run(test.args(passed_on))
}
