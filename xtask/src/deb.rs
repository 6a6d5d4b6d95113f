//! `cargo xtask deb`: the Debian package.

use crate::shell::{build_program, program, target_dir};
use anyhow::Result;
use lynceus_lab::deb;
use std::path::PathBuf;

/// What `cargo xtask deb` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The package to write [default: target/lynceus_VERSION_amd64.deb]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Pack this program instead of building it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// The package's version [default: the program's]
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
}

/// Builds and packs.
pub(crate) fn run_all(args: &Args) -> Result<()> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => {
            build_program()?;
            program()
        }
    };
    let version = args.version.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
    let out = args.out.clone().unwrap_or_else(|| target_dir().join(format!("lynceus_{version}_amd64.deb")));
    deb::pack(&program, &version, &out)?;
    println!("{}", out.display());
    Ok(())
}
