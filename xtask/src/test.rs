//! `cargo xtask test`: every test, as CI runs them.

use crate::shell::{cargo, run, shown};
use anyhow::{Context, Result, bail};
use lynceus_lab::volatility::Volatility;
use std::io::Write;
use std::process::{Command, Output};
use std::thread::JoinHandle;

/// An emulated Xen, in which everything happens one after the other: a processor of two is idle for many minutes.
const XEN: &str = "pv_and_pvh_guests_from_a_service_domain";
const XEN_LAB: &[&str] = &["test", "--workspace", "--test", "xen"];

/// Installs what is missing, fetches the lab's kernels, then runs the whole workspace's tests. What this machine cannot run is
/// left out by name, said so at the end, and not counted as passed. Where nobody chooses what to run, the Xen lab runs beside all else.
pub(crate) fn run_all(passed_on: &[String]) -> Result<()> {
    lynceus_lab::packages::ensure(lynceus_lab::packages::ALL)?;
    lynceus_lab::kernels::fetch_all()?;
    let oracle = Volatility::install();
    let xen = passed_on.is_empty().then(|| Beside::start(XEN_LAB)).transpose()?;
    let skipped = [(oracle.is_err(), "volatility_"), (!is_root(), "packets_"), (xen.is_some(), XEN)];
    let passed = run(&mut workspace(passed_on, &skipped)).and_then(|()| run(&mut libyara()));
    let xen = xen.map_or(Ok(()), Beside::end);
    if !is_root() {
        eprintln!(
            "\nSKIPPED: the firewall by real packets (tests/guard, `packets_*`): network namespaces need root"
        );
    }
    if let Err(reason) = oracle {
        eprintln!("\nSKIPPED: the tests against Volatility 3 (tests/oracle.rs, `volatility_*`): {reason:#}");
    }
    passed.and(xen)
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

/// Tests that run while others do, and are told of when both have ended.
struct Beside {
    what: String,
    output: JoinHandle<std::io::Result<Output>>,
}

impl Beside {
    /// Builds all tests first, so that nobody waits for the other's build.
    fn start(args: &[&str]) -> Result<Beside> {
        run(&mut cargo(&["test", "--workspace", "--no-run"]))?;
        let mut test = cargo(args);
        let what = shown(&test);
        Ok(Beside { what, output: std::thread::spawn(move || test.output()) })
    }

    fn end(self) -> Result<()> {
        let output = self
            .output
            .join()
            .ok()
            .context("a thread ended too soon")?
            .with_context(|| format!("cannot start {}", self.what))?;
        println!("\nbeside that, {}:", self.what);
        std::io::stdout().write_all(&output.stdout)?;
        std::io::stderr().write_all(&output.stderr)?;
        if !output.status.success() {
            bail!("{}: {}", self.what, output.status);
        }
        Ok(())
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
