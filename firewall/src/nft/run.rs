//! Runs `nft`: the one place of this crate that touches the kernel.

use super::model::Transaction;
use super::table::generation_of;
use super::{TABLE, wire};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use thiserror::Error;

/// How to run nft.
#[derive(Clone, Debug)]
pub struct Nft {
    command: Vec<String>,
    /// Whether small changes go to the kernel without it.
    is_direct: bool,
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
        Nft { is_direct: true, ..Nft::with(&["nft"]) }
    }
}

impl Nft {
    /// Always by this command: `nft`, or `ip netns exec NAME nft`.
    pub fn with(command: &[&str]) -> Nft {
        Nft { command: command.iter().map(|part| (*part).to_owned()).collect(), is_direct: false }
    }

    /// Checks a transaction and then does it. The kernel takes all of it or nothing.
    pub fn apply(&self, transaction: &Transaction) -> Result<(), Error> {
        self.check(transaction)?;
        self.commit(transaction)
    }

    /// Does a transaction. The kernel takes all of it or nothing.
    pub fn commit(&self, transaction: &Transaction) -> Result<(), Error> {
        // What the kernel refuses is told by nft, in words. It is refused again, or the cause is gone meanwhile.
        match self.is_direct.then(|| wire::commit(transaction)).flatten() {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => self.feed(transaction, &["-j", "-f", "-"], false),
        }
    }

    /// Does a transaction without nft. `None`, and nothing done, where it is not one for that.
    pub fn commit_directly(transaction: &Transaction) -> Option<std::io::Result<()>> {
        wire::commit(transaction)
    }

    /// Asks nft and the kernel whether they would take it.
    pub fn check(&self, transaction: &Transaction) -> Result<(), Error> {
        self.feed(transaction, &["-c", "-j", "-f", "-"], true)
    }

    /// Whether our table of a family has this chain.
    pub(crate) fn has_chain(&self, family: &str, name: &str) -> bool {
        if self.is_direct
            && let Some(Ok(is_there)) = wire::has_chain(family, name)
        {
            return is_there;
        }
        let is_it =
            |chain: &Value| chain["family"] == family && chain["table"] == TABLE && chain["name"] == name;
        self.listed("chain", |chain| is_it(chain).then_some(())).is_some_and(|all| !all.is_empty())
    }

    /// The highest generation of rules that our tables in the kernel are named after.
    pub(crate) fn generation(&self) -> Option<u32> {
        let number =
            |chain: &Value| generation_of(chain["name"].as_str()?).filter(|_| chain["table"] == TABLE);
        self.listed("chain", number)?.into_iter().max()
    }

    /// Whether our table of a family is there.
    pub(crate) fn has_table(&self, family: &str) -> bool {
        if self.is_direct
            && let Some(Ok(is_there)) = wire::has_table(family)
        {
            return is_there;
        }
        let is_it = |table: &Value| table["family"] == family && table["name"] == TABLE;
        self.listed("table", |table| is_it(table).then_some(())).is_some_and(|all| !all.is_empty())
    }

    /// Something of all that nft lists of a kind: `chain`, `table`. None where it lists nothing.
    fn listed<T>(&self, kind: &str, of: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        let listing = self.ask(&["list", &format!("{kind}s")]).ok()?;
        let all = listing["nftables"].as_array()?;
        Some(all.iter().filter_map(|entry| of(&entry[kind])).collect())
    }

    /// What `nft -j` answers.
    pub fn ask(&self, args: &[&str]) -> Result<Value, Error> {
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
