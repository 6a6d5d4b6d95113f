//! What an alert is: a fact about a VM, a rule, a connection, or the appliance itself.
//!
//! *Does*: names every field once; all encodings take them from here. Reads and writes JSON.
//! *Trusts*: nobody for the strings: most of them are the guest's. They are bounded here and escaped where they are encoded.
//! *Never*: changes what a detector found, but for cutting what is longer than an alert may be, and then says so.

use crate::id;
use lynceus_scanners::{Finding, Severity};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// A fact about a VM or about the appliance, for people and for a SIEM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Alert {
    /// The same for the same fact: 32 hexadecimal digits.
    pub id: String,
    /// When it was raised, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// When the same was first raised.
    pub first_seen_ms: u64,
    /// When the same was last raised.
    pub last_seen_ms: u64,
    /// How often the same was raised until now.
    pub count: u64,
    /// Its number in the spool: no two alerts share one, and it only grows. None before it is on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The VM or dump; none for what concerns the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// The file with what proves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Something of it was cut because it was too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
    /// The fact.
    #[serde(flatten)]
    pub about: About,
}

/// The kinds of facts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum About {
    /// A detector found something in a guest.
    Detection(Box<Finding>),
    /// A VM, or what is configured for it, goes against a policy.
    Policy(PolicyViolation),
    /// A connection went against the rules of a VM.
    Flow(FlowViolation),
    /// A part of the appliance works, or does not.
    Health(Health),
    /// The appliance acted, or was told not to.
    Response(Response),
}

/// A VM, or what is configured for it, goes against a policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyViolation {
    /// The policy, as its file names it.
    pub policy: String,
    /// The rule in it.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// The fact in a line.
    pub summary: String,
}

/// A connection that went against the rules of a VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowViolation {
    /// `in` or `out`, seen from the VM; empty where only the port is known.
    pub direction: String,
    /// The protocol's name: `tcp`, `udp`, `icmp4`, or its number.
    pub protocol: String,
    /// Who sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// From which port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// To which port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// `deny`, `reject`, `would-deny`, `spoofed`, as the flow log has it.
    pub verdict: String,
    /// The rule that decided.
    pub rule: String,
    /// The process in the guest whose connection it is, where it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<FlowProcess>,
    /// How bad it is.
    pub severity: Severity,
    /// The fact in a line.
    pub summary: String,
}

/// A process in the guest with a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowProcess {
    /// Process id in the guest.
    pub pid: u32,
    /// Its name, as the guest wrote it.
    pub comm: String,
    /// The path of its program, as the guest wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// How a part of the appliance is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// Which part: `spool`, `sink siem`, `worker web-1`.
    pub component: String,
    /// What of it: `delivery`, `damage`.
    pub what: String,
    /// How it is now: `down`, `back`. A change of it is told at once.
    pub state: String,
    /// How bad it is.
    pub severity: Severity,
    /// The fact in a line.
    pub summary: String,
}

/// Something that the appliance did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Response {
    /// What was done: `isolate`, `release`, `pause`.
    pub action: String,
    /// The rule or person that decided it.
    pub decided_by: String,
    /// Why.
    pub reason: String,
    /// How bad what led to it is.
    pub severity: Severity,
    /// The fact in a line.
    pub summary: String,
}

impl Alert {
    /// An alert for what was found in `vm`.
    pub fn new(vm: &str, finding: Finding, seen: SystemTime) -> Alert {
        Alert::about(Some(vm), About::Detection(Box::new(finding)), seen)
    }
    /// An alert for any fact; `vm` is none for what concerns the host.
    pub fn about(vm: Option<&str>, about: About, seen: SystemTime) -> Alert {
        let time_ms = seen.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Alert {
            id: id::of(vm.unwrap_or_default(), &about, time_ms),
            time_ms,
            first_seen_ms: time_ms,
            last_seen_ms: time_ms,
            count: 1,
            sequence: None,
            vm: vm.map(str::to_owned),
            evidence: None,
            shortened: false,
            about,
        }
    }
    /// The same with the file that proves it.
    pub fn with_evidence(mut self, path: impl Into<String>) -> Alert {
        self.evidence = Some(path.into());
        self
    }
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match &self.about {
            About::Detection(finding) => finding.severity,
            About::Policy(violation) => violation.severity,
            About::Flow(flow) => flow.severity,
            About::Health(health) => health.severity,
            About::Response(response) => response.severity,
        }
    }
    /// The fact in a line.
    pub fn summary(&self) -> &str {
        match &self.about {
            About::Detection(finding) => &finding.summary,
            About::Policy(violation) => &violation.summary,
            About::Flow(flow) => &flow.summary,
            About::Health(health) => &health.summary,
            About::Response(response) => &response.summary,
        }
    }
    /// MITRE ATT&CK technique, where a detector named one.
    pub fn technique(&self) -> Option<&str> {
        self.finding().map(|finding| finding.technique.as_ref()).filter(|technique| !technique.is_empty())
    }
    /// What a detector found, where that is what it is about.
    pub fn finding(&self) -> Option<&Finding> {
        match &self.about {
            About::Detection(finding) => Some(finding),
            _ => None,
        }
    }
    /// The word for its kind, as in its JSON.
    pub fn kind(&self) -> &'static str {
        match self.about {
            About::Detection(_) => "detection",
            About::Policy(_) => "policy",
            About::Flow(_) => "flow",
            About::Health(_) => "health",
            About::Response(_) => "response",
        }
    }
    /// What of it may change from one time to the next and is then worth telling at once.
    pub(crate) fn state(&self) -> &str {
        match &self.about {
            About::Health(health) => &health.state,
            _ => "",
        }
    }
}
