//! `cargo xtask test`: every test, as CI runs them.

use crate::shell::{cargo, run};
use anyhow::Result;
use lynceus_introspect::backend::carryless::Carryless;
use lynceus_lab::volatility::Volatility;
use std::process::Command;

/// Installs what is missing, fetches the lab's kernels, then runs the whole workspace's tests. What this machine cannot run is
/// left out by name, said so at the end, and not counted as passed.
pub(crate) fn run_all(passed_on: &[String]) -> Result<()> {
    lynceus_lab::packages::ensure(lynceus_lab::packages::ALL)?;
    lynceus_lab::kernels::fetch_all()?;
    let oracle = Volatility::install();
    let multiplies = Carryless::new().is_some();
    let has_field_rules = std::env::var_os("LYNCEUS_FIELD_RULES").is_some();
    let skipped = [
        (oracle.is_err(), "volatility_"),
        (!is_root(), "packets_"),
        (!multiplies, "carryless_"),
        (!has_field_rules, "field_rules_"),
    ];
    let passed = run(&mut workspace(passed_on, &skipped)).and_then(|()| run(&mut libyara()));
    if !is_root() {
        eprintln!(
            "\nSKIPPED: the firewall by real packets (tests/guard, `packets_*`): network namespaces need root"
        );
    }
    if !multiplies {
        eprintln!(
            "\nSKIPPED: digests by carry-less products (`carryless_*`): this processor lacks AVX-512 or VPCLMULQDQ"
        );
    }
    if !has_field_rules {
        eprintln!(
            "\nSKIPPED: rules from the field (`field_rules_*`, tests/engines.rs): LYNCEUS_FIELD_RULES names no folder"
        );
    }
    if let Err(reason) = oracle {
        eprintln!("\nSKIPPED: the tests against Volatility 3 (tests/oracle.rs, `volatility_*`): {reason:#}");
    }
    passed
}

/// All tests but those whose names begin with what is skipped.
fn workspace(passed_on: &[String], skipped: &[(bool, &str)]) -> Command {
    let mut test = cargo(&["test", "--workspace", "--no-fail-fast"]);
    test.args(passed_on);
    if skipped.iter().any(|(is_skipped, _)| *is_skipped) {
        // What is passed on may have its own `--`.
        test.args((!passed_on.iter().any(|arg| arg == "--")).then_some("--"));
    }
    for (_, name) in skipped.iter().filter(|(is_skipped, _)| *is_skipped) {
        test.args(["--skip", name]);
    }
    test
}

/// boreal against libyara, which nothing else is built with. xtask is named for the features that it wants of what all depend on: of the other two alone cargo
/// would choose others, and compile most of the workspace again.
fn libyara() -> Command {
    let packages = ["--package", "lynceus", "--package", "lynceus-scanners", "--package", "xtask"];
    let mut test = cargo(&["test", "--no-fail-fast"]);
    test.args(packages).args(["--features", "lynceus/libyara", "--lib", "--test", "engines", "libyara"]);
    test
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
