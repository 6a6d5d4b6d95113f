//! The project's own chores: `cargo xtask --help` lists them.

mod fuzz;
mod shell;
mod test;

use clap::Parser;

/// The project's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Run all tests, as CI does; what follows `--` goes to `cargo test`
    Test {
        /// Passed on to `cargo test`
        #[arg(last = true)]
        passed_on: Vec<String>,
    },
    /// Run every fuzz target for a while
    Fuzz(fuzz::Args),
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Test { passed_on } => test::run_all(&passed_on),
        Chore::Fuzz(args) => fuzz::run_all(&args),
    }
}
