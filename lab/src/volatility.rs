//! Volatility 3, the reference that ours is held against: installed once from PyPI into `target/lab`.

use crate::folder;
use crate::kernels::run;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version that the tests were written for.
const VERSION: &str = "2.28.2";

/// An installed Volatility 3.
#[derive(Debug)]
pub struct Volatility {
    program: PathBuf,
}

impl Volatility {
    /// Installs it, unless that was done before. Needs the package index of Python.
    pub fn install() -> Result<Volatility> {
        let folder = folder::once(&format!("volatility-{VERSION}"), |folder| {
            run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(folder.join("venv")))?;
            let wanted = format!("volatility3=={VERSION}");
            let mut pip = Command::new(folder.join("venv/bin/pip"));
            run(pip.args(["install", "--quiet", "--disable-pip-version-check", &wanted]))
        });
        let folder = folder.context("Volatility 3 cannot be installed from PyPI")?;
        Ok(Volatility { program: folder.join("venv/bin/vol") })
    }

    /// One that is there already: its `vol`.
    pub fn at(program: PathBuf) -> Volatility {
        Volatility { program }
    }

    /// Its `vol`.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a plugin over an image with the symbol files in `symbols` (in its folder `linux`). `rows` is how it shows what it finds:
    /// `quick`, as it does by itself, or `json`.
    pub fn command(&self, rows: &str, plugin: &str, image: &Path, symbols: &Path) -> Command {
        let mut command = Command::new(&self.program);
        // A cache of its own: the user's may know other symbol files.
        command.env("XDG_CACHE_HOME", symbols.join("cache"));
        command.args(["-q", "-r", rows, "-s"]).arg(symbols).arg("-f").arg(image).arg(plugin);
        command
    }

    /// The rows that a plugin shows.
    pub fn run(&self, plugin: &str, image: &Path, symbols: &Path) -> Result<Vec<Value>> {
        let output =
            self.command("json", plugin, image, symbols).output().context("cannot start Volatility 3")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "Volatility 3, {plugin}: {}: {errors}", output.status);
        serde_json::from_slice(&output.stdout).with_context(|| format!("Volatility 3, {plugin}: {errors}"))
    }
}
