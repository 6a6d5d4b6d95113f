//! The project's own chores: `cargo xtask --help` lists them.

mod bench;
mod deb;
mod demo;
mod detect;
mod fuzz;
mod shell;
mod site;
mod test;

use clap::Parser;

/// The project's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Boot a real VM, look into it, hide things in it, find them
    Demo,
    /// Run all tests, as CI does; what follows `--` goes to `cargo test`
    Test {
        /// Passed on to `cargo test`
        #[arg(last = true)]
        passed_on: Vec<String>,
    },
    /// Boot a real Xen with its service domain, look into PV and PVH guests from there
    XenLab,
    /// Measure beside the peers and write docs/benchmarks.md
    Bench(bench::Args),
    /// Attack guests of every kernel, find the attacks, and write docs/detection.md
    DetectMatrix(detect::Args),
    /// Build the Debian package
    Deb(deb::Args),
    /// Run every fuzz target for a while
    Fuzz(fuzz::Args),
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Demo => demo::run_all(),
        Chore::Test { passed_on } => test::run_all(&passed_on),
        Chore::XenLab => xen_lab(),
        Chore::Bench(args) => bench::run_all(&args),
        Chore::DetectMatrix(args) => detect::run_all(&args),
        Chore::Deb(args) => deb::run_all(&args),
        Chore::Fuzz(args) => fuzz::run_all(&args),
    }
}

/// What `tests/xen` runs, told while it happens.
fn xen_lab() -> anyhow::Result<()> {
    lynceus_lab::packages::ensure(lynceus_lab::packages::ALL)?;
    shell::run(&mut shell::cargo(&["test", "--package", "lynceus", "--test", "xen", "--", "--nocapture"]))
}
