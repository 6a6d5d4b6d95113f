//! `cargo xtask test`: every test, as CI runs them.

use crate::shell::{cargo, run};
use anyhow::Result;
use lynceus_lab::volatility::Volatility;

/// Installs what is missing, fetches the lab's kernels, then runs the whole workspace's tests. What this machine cannot run is
/// left out by name, said so at the end, and not counted as passed.
pub(crate) fn run_all(passed_on: &[String]) -> Result<()> {
    lynceus_lab::packages::ensure(lynceus_lab::packages::ALL)?;
    lynceus_lab::kernels::fetch_all()?;
    let mut test = cargo(&["test", "--workspace", "--no-fail-fast"]);
    test.args(passed_on);
    let oracle = Volatility::install();
    if oracle.is_err() {
        // What is passed on may have its own `--`.
        test.args((!passed_on.iter().any(|arg| arg == "--")).then_some("--"));
        test.args(["--skip", "volatility_"]);
    }
    run(&mut test)?;
    // boreal against libyara, which nothing else is built with.
    run(&mut cargo(&["test", "--package", "lynceus-scanners", "--features", "libyara", "libyara"]))?;
    run(&mut cargo(&["test", "--package", "lynceus", "--features", "libyara", "--test", "engines"]))?;
    if let Err(reason) = oracle {
        eprintln!("\nSKIPPED: the tests against Volatility 3 (tests/oracle.rs, `volatility_*`): {reason:#}");
    }
    Ok(())
}
