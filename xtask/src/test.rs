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
    let skipped = [(oracle.is_err(), "volatility_"), (!is_root(), "packets_")];
    if skipped.iter().any(|(is_skipped, _)| *is_skipped) {
        // What is passed on may have its own `--`.
        test.args((!passed_on.iter().any(|arg| arg == "--")).then_some("--"));
    }
    for (_, name) in skipped.iter().filter(|(is_skipped, _)| *is_skipped) {
        test.args(["--skip", name]);
    }
    run(&mut test)?;
    if !is_root() {
        eprintln!(
            "\nSKIPPED: the firewall by real packets (tests/guard, `packets_*`): network namespaces need root"
        );
    }
    // boreal against libyara, which nothing else is built with.
    run(&mut cargo(&["test", "--package", "lynceus-scanners", "--features", "libyara", "libyara"]))?;
    run(&mut cargo(&["test", "--package", "lynceus", "--features", "libyara", "--test", "engines"]))?;
    if let Err(reason) = oracle {
        eprintln!("\nSKIPPED: the tests against Volatility 3 (tests/oracle.rs, `volatility_*`): {reason:#}");
    }
    Ok(())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
