//! `cargo xtask fuzz`: every fuzz target for a while.

use crate::shell::{cargo, root, run};
use anyhow::{Context, Result, bail};

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only these targets
    targets: Vec<String>,
}

/// Runs the targets one after the other and stops at the first find, which `cargo fuzz` leaves in `fuzz/artifacts`.
pub(crate) fn run_all(args: &Args) -> Result<()> {
    let listed = cargo(&["fuzz", "list"]).current_dir(root()).output().context("cannot start cargo")?;
    if !listed.status.success() {
        bail!("cargo fuzz is missing: cargo install --locked cargo-fuzz");
    }
    let known = String::from_utf8_lossy(&listed.stdout).into_owned();
    let known: Vec<&str> = known.lines().collect();
    if let Some(stranger) = args.targets.iter().find(|target| !known.contains(&target.as_str())) {
        bail!("no fuzz target `{stranger}`; there are: {}", known.join(", "));
    }
    let wanted =
        known.iter().filter(|name| args.targets.is_empty() || args.targets.iter().any(|t| t == *name));
    for target in wanted {
        println!("fuzz {target} for {} s", args.seconds);
        let limit = format!("-max_total_time={}", args.seconds);
        // cargo-fuzz needs -Z sanitizer; the stable compiler takes it when told to bootstrap.
        // What is found is kept in the first folder; the seeds, and the finds of earlier runs, are in the second.
        let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
        std::fs::create_dir_all(root().join(&corpus)).with_context(|| corpus.clone())?;
        let mut fuzz = cargo(&["fuzz", "run", target, &corpus]);
        if root().join(&seeds).is_dir() {
            fuzz.arg(&seeds);
        }
        let limits = ["--", &limit, "-rss_limit_mb=2048", "-timeout=20"];
        run(fuzz.args(limits).env("RUSTC_BOOTSTRAP", "1"))?;
    }
    Ok(())
}
