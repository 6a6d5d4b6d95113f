//! Runs `nft`: the one place of this crate that touches the kernel.

use super::model::Transaction;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use thiserror::Error;

/// How to run nft.
#[derive(Clone, Debug)]
pub struct Nft {
    command: Vec<String>,
}

/// Why nft did not do what it was to do. The rules that were there are there still.
#[derive(Debug, Error)]
pub enum Error {
    /// It is not there.
    #[error("cannot run {program}: {source}; is the package `nftables` installed?")]
    Missing {
        /// What was to be run.
        program: String,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// It was stopped half-way, or could not be talked to.
    #[error("nft was not heard to the end: {0}")]
    Broken(std::io::Error),
    /// It, or the kernel, does not take the rules.
    #[error("nft refused the rules{}: {message}", if *checking { " when asked to check them" } else { "" })]
    Refused {
        /// In the check that comes first.
        checking: bool,
        /// What it said.
        message: String,
    },
    /// It answered with something that is not its JSON.
    #[error("nft's answer cannot be understood: {0}")]
    Answer(String),
}

impl Default for Nft {
    fn default() -> Nft {
        Nft::with(&["nft"])
    }
}

impl Nft {
    /// By another command: `ip netns exec NAME nft`, for one.
    pub fn with(command: &[&str]) -> Nft {
        Nft { command: command.iter().map(|part| (*part).to_owned()).collect() }
    }

    /// Checks a transaction and then does it. The kernel takes all of it or nothing.
    pub fn apply(&self, transaction: &Transaction) -> Result<(), Error> {
        self.check(transaction)?;
        self.commit(transaction)
    }

    /// Does a transaction. The kernel takes all of it or nothing.
    pub fn commit(&self, transaction: &Transaction) -> Result<(), Error> {
        self.feed(transaction, &["-j", "-f", "-"], false)
    }

    /// Asks nft and the kernel whether they would take it.
    pub fn check(&self, transaction: &Transaction) -> Result<(), Error> {
        self.feed(transaction, &["-c", "-j", "-f", "-"], true)
    }

    /// What `nft -j` answers.
    pub fn ask(&self, args: &[&str]) -> Result<serde_json::Value, Error> {
        let output = self.run(&[&["-j"], args].concat(), b"")?;
        if !output.status.success() {
            return Err(refused(&output, false));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| Error::Answer(error.to_string()))
    }

    fn feed(&self, transaction: &Transaction, args: &[&str], checking: bool) -> Result<(), Error> {
        let text = serde_json::to_vec(transaction).map_err(|error| Error::Answer(error.to_string()))?;
        let output = self.run(args, &text)?;
        if output.status.success() { Ok(()) } else { Err(refused(&output, checking)) }
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Result<Output, Error> {
        let program = self.command.first().cloned().unwrap_or_default();
        let mut child = Command::new(&program)
            .args(self.command.iter().skip(1))
            .args(args)
            // Times are written in UTC, and nft reads them in the zone that it is told.
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Missing { program, source })?;
        let mut stdin = child.stdin.take();
        // nft reads all of its input before it says anything.
        let written = stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(input));
        drop(stdin);
        let output = child.wait_with_output().map_err(Error::Broken)?;
        match written {
            Err(error) if output.status.success() => Err(Error::Broken(error)),
            _ => Ok(output),
        }
    }
}

fn refused(output: &Output, checking: bool) -> Error {
    const SHOWN: usize = 2000;
    let text = String::from_utf8_lossy(&output.stderr);
    let message = if text.trim().is_empty() {
        output.status.to_string()
    } else {
        text.trim().chars().take(SHOWN).collect()
    };
    Error::Refused { checking, message }
}
