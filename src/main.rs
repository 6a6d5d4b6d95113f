//! `lynceus`: looks into virtual machines from outside.
//!
//! The command line: finds a target, attaches, looks, prints. All knowledge of guests is in the crates below;
//! here are arguments, tables, JSON Lines and exit codes.
//!
//! *Trusts*: the admin who runs it. *Never*: prints a guest's bytes to a terminal unescaped.

mod attach;
mod cli;
mod commands;
mod daemon;
mod ipfix;
mod nflog;
mod output;
mod process_rules;
mod sandbox;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(outcome) => outcome.into(),
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Our own messages may have lines; what a guest wrote in them may not.
            told(&error).lines().for_each(|line| eprintln!("{}", output::escape(line)));
            ExitCode::from(output::EXIT_ERROR)
        }
    }
}

/// An error and its causes, without those that the error before it has told already.
fn told(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(format!("lynceus: {error}"), |text, cause| {
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
