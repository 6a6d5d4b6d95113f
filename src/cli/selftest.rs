//! Tests that an admin runs on a host of their own.

use super::LookArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum SelftestCommand {
    /// Lock a process down as a worker is, and try from inside what must not work
    ///
    /// Each attempt has a process of its own, which its filter may kill. It is made a second time without the filter, to tell what else
    /// stops it. With a TARGET, a locked-down process also attaches to it, runs all detectors and scans it.
    ///
    /// Exit code 1: something worked that must not. 3: nothing did, but this host lacks a layer, which is named.
    Sandbox(SandboxArgs),
}

#[derive(Args)]
pub(crate) struct SandboxArgs {
    /// A running VM's name or uuid, pid:N, xen:DOMID, or a dump file's path
    pub(crate) target: Option<String>,
    /// Scan with these rule files, or folders of them [default: one rule that every Linux kernel matches]
    #[arg(short, long, num_args = 1.., value_name = "PATH", requires = "target")]
    pub(crate) rules: Vec<PathBuf>,
    /// Make this attempt, in this very process
    #[arg(long, hide = true, value_name = "NAME")]
    pub(crate) attempt: Option<String>,
    /// With --attempt: where the parent listens
    #[arg(long, hide = true, default_value_t = 0)]
    pub(crate) port: u16,
    /// With --attempt: without the filter
    #[arg(long, hide = true)]
    pub(crate) without_filter: bool,
    /// Look at the target, in this very process
    #[arg(long, hide = true, requires = "target")]
    pub(crate) work: bool,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}
