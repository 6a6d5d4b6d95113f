//! Running other programs, with errors that say which one failed.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// `cargo` with `args`, in the workspace's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    // What the cargo that runs this says of xtask: ring is compiled again where it changes, and with it all that speaks TLS.
    for (name, _) in std::env::vars_os() {
        let start = name.as_encoded_bytes();
        if start.starts_with(b"CARGO_PKG_") || start.starts_with(b"CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// The program as it is released, once it was built.
pub(crate) fn program() -> PathBuf {
    target_dir().join("release/lynceus")
}

/// Builds it.
pub(crate) fn build_program() -> Result<()> {
    run(&mut cargo(&["build", "--release", "--package", "lynceus"]))
}

/// Runs `command`; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let shown = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}
