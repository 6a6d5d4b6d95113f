//! The words of policy files: whose, which way, what happens, how bad.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose policy it is.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Those who run the hosts.
    Platform,
    /// Those who run the service.
    #[default]
    Team,
    /// Those who use the VM.
    Vm,
}

impl Tier {
    /// In the order in which they are asked.
    pub const ALL: [Tier; 3] = [Tier::Platform, Tier::Team, Tier::Vm];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Platform => "platform",
            Tier::Team => "team",
            Tier::Vm => "vm",
        }
    }
}

/// Whether a policy is enforced.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is.
    #[default]
    Enforce,
    /// What it would deny is counted and logged, and goes on to the next rule.
    Audit,
    /// Its rules are left out.
    Off,
}

/// What happens to a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It goes on.
    Allow,
    /// It is dropped, silently.
    Deny,
    /// It is dropped, and its sender is told.
    Reject,
}

impl Verdict {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::Reject => "reject",
        }
    }
}

/// What a rule does with the packets that it matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// They go on.
    Allow,
    /// They are dropped, silently.
    Deny,
    /// They are dropped, and their sender is told.
    Reject,
    /// The next tier decides.
    Pass,
}

impl Action {
    /// The verdict; none for `pass`.
    pub fn verdict(self) -> Option<Verdict> {
        match self {
            Action::Allow => Some(Verdict::Allow),
            Action::Deny => Some(Verdict::Deny),
            Action::Reject => Some(Verdict::Reject),
            Action::Pass => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.verdict().map_or("pass", Verdict::name)
    }
}

/// Which way a connection goes, seen from the VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Somebody connects to the VM.
    In,
    /// The VM connects to somebody.
    Out,
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::In, Direction::Out];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Direction::In => "in",
            Direction::Out => "out",
        }
    }
}

/// Parts of a guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every map of every process.
    Process,
    /// Every file in the page cache.
    Files,
    /// The kernel's text and read-only data.
    Kernel,
    /// All RAM.
    Physical,
}

/// Whether a detector runs, and how bad its findings are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Detector {
    /// It runs; its findings are as bad as it says.
    On,
    /// It does not run.
    Off,
    /// It runs; its findings are worth knowing.
    Low,
    /// It runs; its findings are worth a look.
    Medium,
    /// It runs; its findings are worth waking somebody.
    High,
    /// It runs; the VM of its findings is no longer its owner's.
    Critical,
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Worth a look.
    Medium,
    /// Worth waking somebody.
    High,
    /// The VM is no longer its owner's.
    Critical,
}

/// What is done about a finding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// People are told.
    Alert,
    /// And the VM is cut off the network.
    Isolate,
    /// And the VM is paused.
    Pause,
    /// And a person is asked whether to isolate the VM.
    Ask,
}
