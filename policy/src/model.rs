//! What the policy files come to: one [`VmPolicy`] per VM, with nothing left to look up.
//!
//! It is serialisable and carries its format's number, so that it can be signed, kept, and sent to the host where the VM runs.

use crate::net::{AddressSet, IpRange};
use crate::place::Place;
use crate::service::ServiceSet;
use crate::syntax::{
    Action, AllowEntry, Detector, Direction, ProcessEntry, Response, Scope, Severity, Tier, Verdict,
};
use crate::when::{Rate, Schedule, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The number of this format. A reader refuses any other.
pub const FORMAT: u32 = 1;

/// A VM as the inventory has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// Its uuid, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its virtual network cards.
    pub interfaces: Vec<Interface>,
}

impl Vm {
    /// All addresses of all its cards.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.interfaces.iter().flat_map(|interface| interface.addresses.iter().copied())
    }
}

/// A virtual network card.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// The host's name of it, where the policy gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Its MAC address.
    pub mac: Mac,
    /// The addresses that it may send from.
    pub addresses: Vec<IpAddr>,
    /// Whether frames with a foreign MAC or address are dropped.
    pub anti_spoofing: bool,
    /// The networks that it routes for; it may then send router advertisements too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<IpRange>,
    /// Whether it may answer DHCP.
    #[serde(default)]
    pub dhcp_server: bool,
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = crate::error::ParseError;
    fn from_str(text: &str) -> Result<Mac, Self::Err> {
        let wrong = || crate::error::ParseError::new("it is `52:54:00:12:34:56`");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if bytes[0] & 1 == 1 {
            return Err(crate::error::ParseError::new("it is a group's address, which no card can have"));
        }
        Ok(Mac(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = crate::error::ParseError;
    fn try_from(text: String) -> Result<Mac, Self::Error> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// Everything that holds for one VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmPolicy {
    /// [`FORMAT`].
    pub format: u32,
    /// The VM.
    pub vm: Vm,
    /// The names of the policies that select it, those that they extend included.
    pub policies: Vec<String>,
    /// Who may connect to it.
    pub inbound: Chain,
    /// To whom it may connect.
    pub outbound: Chain,
    /// What is looked for in its memory.
    pub look: Look,
}

impl VmPolicy {
    /// One direction's rules.
    pub fn chain(&self, direction: Direction) -> &Chain {
        match direction {
            Direction::In => &self.inbound,
            Direction::Out => &self.outbound,
        }
    }

    /// The rules of both directions.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        Direction::ALL.into_iter().flat_map(|direction| self.chain(direction).rules())
    }

    /// Whether any of its rules is about a process.
    pub fn asks(&self) -> bool {
        self.rules().any(|rule| rule.process.is_some())
    }

    /// When its meaning changes next because of the time of day.
    pub fn changes_after(&self, at: Timestamp) -> Option<Timestamp> {
        let windows = self.rules().filter_map(|rule| rule.schedule.next_window(at));
        windows.flat_map(|(from, until)| [from, until]).flatten().filter(|time| *time > at).min()
    }
}

/// The rules of one direction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// Tier by tier, each with its rules in order. Tiers without rules are there too.
    pub tiers: Vec<TierRules>,
    /// What happens to what no rule decides.
    pub default: ChainDefault,
}

impl Chain {
    /// All rules in the order in which they are asked.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.tiers.iter().flat_map(|tier| tier.rules.iter())
    }
}

/// The rules of one tier.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TierRules {
    /// Whose.
    pub tier: Tier,
    /// In order.
    pub rules: Vec<Arc<Rule>>,
}

/// What happens to what no rule decides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChainDefault {
    /// The verdict that the policy wants.
    pub verdict: Verdict,
    /// It is only told of; the packet goes on.
    pub audit: bool,
    /// Whether what is denied is logged.
    pub log: bool,
    /// The policy that says so; none where no policy does, and then it is deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// That policy's tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
}

impl ChainDefault {
    /// What happens to the packet.
    pub fn effective(&self) -> Verdict {
        if self.audit { Verdict::Allow } else { self.verdict }
    }
}

/// A rule with nothing left to look up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// `policy/rule`; the same in every VM that the rule is for.
    pub id: String,
    /// Where it stands.
    pub place: Place,
    /// Whose it is.
    pub tier: Tier,
    /// What it does.
    pub action: Action,
    /// It only tells what it would do.
    #[serde(default)]
    pub audit: bool,
    /// The other end.
    pub peers: AddressSet,
    /// The other end by DNS name; added to `peers` once resolved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Whether those may stand for private addresses.
    #[serde(default)]
    pub private: bool,
    /// What for.
    pub services: ServiceSet,
    /// When.
    #[serde(default)]
    pub schedule: Schedule,
    /// How often at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Whether matches are logged.
    #[serde(default)]
    pub log: bool,
    /// Which process of the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Box<ProcessEntry>>,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Box<str>>,
    /// Anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Box<str>>,
}

/// What is looked for in a VM's memory.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Look {
    /// Seconds between two looks; no looks by themselves without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_s: Option<u64>,
    /// Where signatures are looked for.
    #[serde(default)]
    pub scopes: BTreeSet<Scope>,
    /// What is different from how detectors come.
    #[serde(default)]
    pub detectors: BTreeMap<String, Detector>,
    /// What is no finding.
    #[serde(default)]
    pub allow: AllowEntry,
    /// What is done about findings.
    #[serde(default)]
    pub respond: BTreeMap<Severity, Response>,
}
