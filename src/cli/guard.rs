//! The guarding half of the command line: policies and the firewall.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Look for rules without effect, contradictions, selectors that select nothing
    Lint(FolderArgs),
    /// Run the tests that stand in the policy files
    Test(FolderArgs),
    /// Tell what a connection comes to: which rule decides, and why each rule before it does not
    Explain(ExplainArgs),
    /// Show all that holds for a VM
    Show {
        /// The VM's name in the policy
        vm: String,
        #[command(flatten)]
        folder: FolderArgs,
    },
    /// Tell what applying the policy would change, also for recorded flows
    Plan(PlanArgs),
    /// Check the policy, run its tests, and enforce it on this host
    Apply(ApplyArgs),
    /// Keep a policy that was applied with --confirm
    Confirm(StateArgs),
    /// Put back what a policy replaced that was applied with --confirm and not confirmed in time
    #[command(hide = true)]
    Rollback {
        /// Wait for the deadline first
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Put a policy's files into one file that can be signed with minisign, and applied
    Bundle {
        /// The file to write: NAME.bundle
        out: PathBuf,
        /// Higher than that of every bundle before it
        #[arg(long)]
        serial: u64,
        #[command(flatten)]
        folder: FolderArgs,
    },
    /// Print the JSON Schema of policy files, for editors
    Schema,
}

#[derive(Args)]
pub(crate) struct FolderArgs {
    /// The folder with the policy files, one file, or a bundle (*.bundle)
    #[arg(long, value_name = "DIR", env = "LYNCEUS_POLICY", default_value = "/etc/lynceus/policy")]
    pub(crate) policy: PathBuf,
}

#[derive(Args)]
pub(crate) struct StateArgs {
    /// Where it is kept what is enforced
    #[arg(long, value_name = "DIR", env = "LYNCEUS_STATE", default_value = "/var/lib/lynceus/firewall")]
    pub(crate) state: PathBuf,
}

#[derive(Args)]
pub(crate) struct ExplainArgs {
    /// Who connects: a VM's name or an address
    pub(crate) from: String,
    /// To whom: a VM's name or an address
    pub(crate) to: String,
    /// What for: tcp/443, icmp/echo-request; or a protocol, and the port behind it
    pub(crate) service: String,
    /// The port, where it is not in SERVICE
    pub(crate) port: Option<String>,
    /// When, such as 2027-01-31T12:00:00Z; now without it
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
}

#[derive(Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Recorded flows, JSON Lines with `source`, `destination` and `service`
    #[arg(long, value_name = "FILE")]
    pub(crate) flows: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Which keys are trusted, and whether a signature is required
    #[arg(long, value_name = "FILE", env = "LYNCEUS_TRUST", default_value = "/etc/lynceus/trust.toml")]
    pub(crate) trust: PathBuf,
    /// Go back to what was before unless `lynceus policy confirm` says so in time, such as 120s
    #[arg(long, value_name = "TIME")]
    pub(crate) confirm: Option<humantime::Duration>,
}

#[derive(Args)]
pub(crate) struct FlowsArgs {
    /// Send them to this collector too, as IPFIX over UDP
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) ipfix: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

#[derive(Args)]
pub(crate) struct FirewallTopArgs {
    /// How long an interval is
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(crate) every: humantime::Duration,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

#[derive(Args)]
pub(crate) struct OwnersArgs {
    /// The VM's name, in the policy and on this host
    pub(crate) vm: String,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    #[command(flatten)]
    pub(crate) look: super::LookArgs,
}

#[derive(Args)]
pub(crate) struct IsolateArgs {
    /// The VM's name in the policy
    pub(crate) vm: String,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

#[derive(Subcommand)]
pub(crate) enum FirewallCommand {
    /// Show the ports of this host, whose they are, and whether the rules are as they were left
    Status(StateArgs),
    /// Show how often each rule matched
    Rules(StateArgs),
    /// Show who sends how much, who is denied and which rules decide, by the second; q ends
    ///
    /// Into a pipe, and with --json, the figures of one interval.
    Top(FirewallTopArgs),
    /// Tell what rules with `log = true`, audited policies and spoofed frames tell of, while it happens
    ///
    /// With --json what `lynceus policy plan --flows` reads. One listener at a time; of a rule no more than fifty a second.
    Flows(FlowsArgs),
    /// Tell which process of a VM is behind each of its connections; one that no socket in its memory has is a finding
    Owners(OwnersArgs),
    /// Stay and enforce: ports that come and go, hours, names, other people's changes
    Run(StateArgs),
    /// Enforce again what was enforced last: after a reboot, or after somebody else changed the rules
    Restore(StateArgs),
}
