//! Completions and man pages, made from the command line's own definition.

use crate::cli::Cli;
use crate::output::Outcome;
use anyhow::{Context, Result};
use clap::CommandFactory;
use std::path::Path;

/// Prints the completion script of `shell` on standard output.
pub(super) fn completions(shell: clap_complete::Shell) -> Outcome {
    clap_complete::generate(shell, &mut Cli::command(), "lynceus", &mut std::io::stdout());
    Outcome::Clean
}

/// Writes `lynceus.1` and a page for each command into `folder`.
pub(super) fn man_pages(folder: &Path) -> Result<Outcome> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    clap_mangen::generate_to(Cli::command(), folder)
        .with_context(|| format!("cannot write man pages into {}", folder.display()))?;
    Ok(Outcome::Clean)
}
