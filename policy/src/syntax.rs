//! The shape of a policy file, key by key. These doc comments are the reference: the JSON Schema is made from them.
//!
//! *Does*: names every key and its type; an unknown key is an error. *Never*: gives a value meaning; that is `resolve`.

use crate::place::At;
pub use crate::words::{Action, Detector, Direction, Mode, Response, Scope, Severity, Tier, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One policy file. All files of the folder together are the policy.
#[derive(Deserialize, JsonSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Settings of the whole host.
    pub site: Option<At<SiteEntry>>,
    /// The VMs, by name.
    pub vm: BTreeMap<String, At<VmEntry>>,
    /// Groups of VMs, by name.
    pub group: BTreeMap<String, At<GroupEntry>>,
    /// Sets of addresses, by name; used as `@name`.
    pub addresses: BTreeMap<String, At<AddressEntry>>,
    /// Sets of services, by name; used as `@name`.
    pub services: BTreeMap<String, At<ServiceEntry>>,
    /// Lists of rules with parameters, by name.
    pub template: BTreeMap<String, At<TemplateEntry>>,
    /// Policies, by name. `isolate` is the one that `lynceus isolate` swaps in.
    pub policy: BTreeMap<String, At<PolicyEntry>>,
    /// What the policy must do; `lynceus policy test` holds it to that.
    pub test: Vec<At<TestEntry>>,
}

/// Settings of the whole host.
#[derive(Deserialize, JsonSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct SiteEntry {
    /// From where VMs are managed; `lynceus policy lint` warns of a VM that cannot be reached from there.
    pub management: Option<At<ManagementEntry>>,
}

/// From where, and by which service, VMs are managed.
#[derive(Deserialize, JsonSchema, Debug)]
#[serde(deny_unknown_fields)]
pub struct ManagementEntry {
    /// Addresses, networks, ranges, `@sets`.
    pub addresses: Vec<At<String>>,
    /// Services.
    pub services: Vec<At<String>>,
}

/// A virtual machine.
#[derive(Deserialize, JsonSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct VmEntry {
    /// Its uuid, as the hypervisor has it.
    pub uuid: Option<At<String>>,
    /// What selectors ask for.
    pub labels: BTreeMap<String, String>,
    /// Its virtual network cards.
    pub interface: Vec<At<InterfaceEntry>>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Anything.
    pub comment: Option<String>,
}

/// A virtual network card.
#[derive(Deserialize, JsonSchema, Debug)]
#[serde(deny_unknown_fields)]
pub struct InterfaceEntry {
    /// The host's name of it: `vif3.0`, `tap0`, `vnet2`. Without one the card is known by its MAC.
    pub port: Option<At<String>>,
    /// Its MAC address; frames from another are dropped.
    pub mac: At<String>,
    /// The addresses that it may send from.
    pub addresses: Vec<At<String>>,
    /// Whether frames with a foreign MAC or address are dropped. True without it.
    #[serde(default = "yes")]
    pub anti_spoofing: bool,
    /// The VM is a router: it may send router advertisements, and packets from these networks as well.
    #[serde(default)]
    pub routes: Vec<At<String>>,
    /// The VM is a DHCP server.
    #[serde(default)]
    pub dhcp_server: bool,
}

fn yes() -> bool {
    true
}

/// A group of VMs.
#[derive(Deserialize, JsonSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct GroupEntry {
    /// A selector: `role == "web" && env in ["prod"]`.
    pub select: Option<At<String>>,
    /// VMs by name.
    pub vms: Vec<At<String>>,
    /// Groups whose VMs belong to this one too.
    pub extends: Vec<At<String>>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Anything.
    pub comment: Option<String>,
}

/// A set of addresses.
#[derive(Deserialize, JsonSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct AddressEntry {
    /// Addresses, networks, ranges, `@sets`, `any`.
    pub members: Vec<At<String>>,
    /// Taken away from the members.
    pub except: Vec<At<String>>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Anything.
    pub comment: Option<String>,
}

/// A set of services.
#[derive(Deserialize, JsonSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceEntry {
    /// `tcp/443`, `udp/1000-2000`, `icmp/echo-request`, `proto/47`, `@sets`.
    pub members: Vec<At<String>>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Anything.
    pub comment: Option<String>,
}

/// A list of rules with parameters: `${name}` in their texts.
#[derive(Deserialize, JsonSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct TemplateEntry {
    /// The parameters' names.
    pub parameters: Vec<At<String>>,
    /// The rules.
    pub rule: Vec<At<RuleEntry>>,
    /// Anything.
    pub comment: Option<String>,
}

/// The use of a template.
#[derive(Deserialize, JsonSchema, Debug)]
#[serde(deny_unknown_fields)]
pub struct UseEntry {
    /// Which.
    pub template: At<String>,
    /// A value for every parameter.
    #[serde(default)]
    pub with: BTreeMap<String, Parameter>,
}

/// A parameter's value.
#[derive(Deserialize, JsonSchema, Clone, Debug)]
#[serde(untagged)]
pub enum Parameter {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
    /// Several texts; stands for itself where a list is expected.
    List(Vec<String>),
}

/// A policy: rules for the VMs that it selects.
#[derive(Deserialize, JsonSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyEntry {
    /// Whose it is. The platform's rules come first, the VM's last.
    pub tier: Tier,
    /// Policies of one tier apply in this order, then by name. 100 without it.
    pub order: Option<i32>,
    /// Which VMs, by selector. Without `select`, `groups` and `vms` it is only there for others to extend.
    pub select: Option<At<String>>,
    /// Which VMs, by group.
    pub groups: Vec<At<String>>,
    /// Which VMs, by name.
    pub vms: Vec<At<String>>,
    /// Policies whose rules follow this one's, and whose settings hold where this one has none.
    pub extends: Vec<At<String>>,
    /// `enforce`, `audit` (tell, but drop nothing), or `off`.
    pub mode: Option<Mode>,
    /// What happens to packets that no rule of any tier decides.
    pub default: DefaultEntry,
    /// The rules, in order.
    pub rule: Vec<At<RuleEntry>>,
    /// Templates, whose rules follow.
    pub r#use: Vec<At<UseEntry>>,
    /// What to look for in the VMs' memory.
    pub look: LookEntry,
    /// From then on none of its rules holds.
    #[schemars(with = "Option<String>")]
    pub expires: Option<At<toml::value::Datetime>>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Anything.
    pub comment: Option<String>,
}

/// What happens to packets that no rule decides.
#[derive(Deserialize, JsonSchema, Clone, Copy, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct DefaultEntry {
    /// To the VM.
    pub r#in: Option<Verdict>,
    /// From the VM.
    pub out: Option<Verdict>,
    /// Whether what is denied by default is logged. True without it.
    pub log: Option<bool>,
}

/// A rule: the first that matches decides.
#[derive(Deserialize, JsonSchema, Debug)]
#[serde(deny_unknown_fields)]
pub struct RuleEntry {
    /// Told in logs, counters and explanations; its number in the policy without one.
    pub name: Option<At<String>>,
    /// Which way the connection goes.
    pub direction: Direction,
    /// What happens to it.
    pub action: Action,
    /// The other end; anybody without it.
    pub peer: Option<At<PeerEntry>>,
    /// What the connection is for: `tcp/443`, `udp/1000-2000`, `icmp/echo-request`, `proto/47`, `@sets`; anything without it.
    pub services: Option<Vec<At<String>>>,
    /// From then on it does not match.
    #[schemars(with = "Option<String>")]
    pub expires: Option<At<toml::value::Datetime>>,
    /// When it matches, in UTC: `mon-fri 08:00-18:00`.
    #[serde(default)]
    pub hours: Vec<At<String>>,
    /// It matches so many new connections at most: `10/second burst 20`.
    pub rate: Option<At<String>>,
    /// Whether matches are logged.
    #[serde(default)]
    pub log: bool,
    /// Which process of the VM it is about.
    pub process: Option<At<ProcessEntry>>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Anything.
    pub comment: Option<String>,
}

/// The other end of a connection: all that is named here, less the exceptions.
#[derive(Deserialize, JsonSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct PeerEntry {
    /// Groups of VMs.
    pub groups: Vec<At<String>>,
    /// VMs by name.
    pub vms: Vec<At<String>>,
    /// Addresses, networks, ranges, `@sets`, `any`.
    pub addresses: Vec<At<String>>,
    /// DNS names, resolved by this host.
    pub names: Vec<At<String>>,
    /// Whether those may stand for private addresses: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, fc00::/7.
    pub private: bool,
    /// Addresses that are not meant.
    pub except: Vec<At<String>>,
}

/// A process inside the VM; what is not said may be anything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessEntry {
    /// The path of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its container's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What happens to a connection of which it is not known which process is behind it; deny without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Verdict>,
    /// What happens to one of which it was not found out in time; deny without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Verdict>,
}

/// What to look for in the VMs' memory.
#[derive(Deserialize, JsonSchema, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct LookEntry {
    /// How often: `15m`, `1h`.
    pub every: Option<At<String>>,
    /// Where signatures are looked for.
    pub scopes: Option<Vec<Scope>>,
    /// Detectors by name: `on`, `off`, or the severity of what they find.
    pub detectors: BTreeMap<String, Detector>,
    /// What is no finding.
    pub allow: AllowEntry,
    /// What is done about a finding, by its severity.
    pub respond: BTreeMap<Severity, Response>,
}

/// What is no finding.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AllowEntry {
    /// Paths of programs.
    pub executables: Vec<String>,
    /// Names of kernel modules.
    pub modules: Vec<String>,
    /// Ports that are listened on: `tcp/22`.
    pub listening: Vec<String>,
}

/// A connection, and what must happen to it.
#[derive(Deserialize, JsonSchema, Debug)]
#[serde(deny_unknown_fields)]
pub struct TestEntry {
    /// Told where it fails.
    pub name: Option<String>,
    /// Who connects: a VM or an address. A VM stands for all its addresses.
    pub from: At<String>,
    /// To whom: a VM or an address.
    pub to: At<String>,
    /// For what: one service, such as `tcp/443`.
    pub service: At<String>,
    /// When; now without it.
    #[schemars(with = "Option<String>")]
    pub at: Option<At<toml::value::Datetime>>,
    /// Which process is behind it, in the VM whose rules ask for one: its `exe`, `uid` and `container`.
    pub process: Option<At<ProcessEntry>>,
    /// What must happen.
    pub expect: Verdict,
}

/// The JSON Schema of a policy file, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(File).to_value()
}
