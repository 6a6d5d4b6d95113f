//! Our own command line, release build, as a user runs it.

use super::measure::{Measured, output, whole_look, whole_process};
use crate::shell::program;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The listings that peers have too.
pub(crate) const LISTINGS: [&str; 6] = ["ps", "maps", "files", "sockets", "modules", "check"];
/// All of them.
pub(crate) const ALL_LISTINGS: [&str; 10] =
    ["ps", "tree", "maps", "files", "sockets", "modules", "mounts", "net", "dmesg", "bpf"];

/// A guest or a dump, and the folder that the profiles for it are kept in.
pub(crate) struct Looked {
    target: String,
    profiles: PathBuf,
}

impl Looked {
    /// Nothing is known of the target yet.
    pub(crate) fn new(target: impl Into<String>, profiles: &Path) -> Looked {
        Looked { target: target.into(), profiles: profiles.to_owned() }
    }

    /// A command with the profile that an earlier one left.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).arg(&self.target).env("LYNCEUS_PROFILES", &self.profiles);
        command
    }

    /// Forgets all profiles.
    fn forget(&self) -> Result<(), String> {
        match std::fs::remove_dir_all(&self.profiles) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// A listing by a whole process that finds the kernel's profile in the cache.
    pub(crate) fn cached(&self, runs: usize, listing: &str) -> Measured {
        whole_look(runs, || Ok(self.command(&[listing])))
    }

    /// The same with an empty cache each time: everything is found in memory.
    pub(crate) fn cold(&self, runs: usize, listing: &str) -> Measured {
        whole_process(runs, true, || self.forget().map(|()| self.command(&[listing])))
    }

    /// Milliseconds of an attach alone, as `info` measures it: the median.
    pub(crate) fn attach_ms(&self, runs: usize, cold: bool) -> Result<f64, String> {
        let mut all = Vec::new();
        self.info()?;
        for _ in 0..runs.max(1) {
            if cold {
                self.forget()?;
            }
            let info = self.info()?;
            let from = if cold { "the guest's memory" } else { "profile cache" };
            if info["profile_source"] != from {
                return Err(format!("the profile came from {}", info["profile_source"]));
            }
            all.push(info["attach_ms"].as_f64().ok_or("info does not say how long it took")?);
        }
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().ok_or_else(|| "no run".to_owned())
    }

    fn info(&self) -> Result<serde_json::Value, String> {
        let (text, _) = output(&mut self.command(&["--json", "info"]))?;
        serde_json::from_slice(&text).map_err(|error| error.to_string())
    }

    /// Writes the kernel's profile as the symbol file that the peers read, and loads the cache on the way.
    pub(crate) fn write_symbols(&self, file: &Path) -> Result<(), String> {
        let mut command = self.command(&["profile", "build"]);
        output(command.arg(file)).map(drop)
    }

    /// Writes the guest's memory as an ELF core.
    pub(crate) fn write_elf(&self, file: &Path) -> Result<(), String> {
        let mut command = self.command(&["dump"]);
        output(command.arg(file).arg("--force")).map(drop)
    }
}
