//! The table of one family: which ports it guards, and the chains that every packet passes.
//!
//! The base chain first looks whether a port of ours is involved, then whether the connection was judged by the rules of now: each set
//! of rules has a number, the *generation*, and a connection that was let pass is marked with it. After a change the number is
//! another, so that the next packet of every connection is judged again, whichever way it goes.

use super::TABLE;
use super::ask;
use super::elements::addresses;
use super::labels;
use super::model::{
    Chain, Element, Expr, Jump, Lookup, Mangle, Object, Reject, Rule, Set, Statement, Target, Types,
};
use super::vm::{self, VmObjects};
use crate::compile::compile;
use crate::evaluate::Moment;
use crate::host::{Host, PORT_PREFIXES, own_ranges};
use lynceus_policy::{Direction, Family};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a port's packets can be judged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// They are routed: `inet`.
    Routed,
    /// They are switched: `bridge`.
    Bridged,
}

impl Path {
    /// Both.
    pub const ALL: [Path; 2] = [Path::Routed, Path::Bridged];

    /// nft's family.
    pub fn family(self) -> &'static str {
        match self {
            Path::Routed => "inet",
            Path::Bridged => "bridge",
        }
    }
}

/// A whole table, without what the kernel adds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tables {
    /// Its family.
    pub path: Path,
    /// The number of this set of rules.
    pub generation: u32,
    /// Whether somebody is asked about processes: only then answers are given, and must be forgotten.
    pub asks: bool,
    /// The VMs' objects.
    pub vms: BTreeMap<String, VmObjects>,
    /// The ports, by name.
    pub ports: BTreeMap<String, PortObjects>,
}

/// What a port has in the table's own sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortObjects {
    /// Whose it is.
    pub vm: String,
    /// Its elements, by set.
    pub elements: BTreeMap<&'static str, Vec<Element>>,
}

/// The chains that differ from generation to generation: of a connection that was let pass by it, and of one that is let pass now.
pub(super) const JUDGED: &str = "judged";
pub(super) const PASSED: &str = "passed";
/// Marks of connections begin with these bits: others' marks are not taken for ours.
const MARK: u32 = 0x4c00_0000;

/// The mark of a connection that this generation let pass.
pub fn mark(generation: u32) -> u32 {
    MARK | generation & 0x00ff_ffff
}

/// What the name of the chain begins with that tells which generation is in the kernel.
const GENERATION: &str = "generation-";

/// The name of the empty chain that tells which generation is in the kernel.
pub fn generation_chain(generation: u32) -> String {
    format!("{GENERATION}{generation}")
}

/// Read back.
pub(super) fn generation_of(chain: &str) -> Option<u32> {
    chain.strip_prefix(GENERATION)?.parse().ok()
}

/// Compiles what a host's ports on one path need.
pub fn tables(host: &Host, path: Path, generation: u32, moment: &Moment) -> Tables {
    let mut vms = BTreeMap::new();
    let mut ports = BTreeMap::new();
    for (name, port) in &host.ports {
        let vm = &port.policy.vm.name;
        if !vms.contains_key(vm) {
            vms.insert(vm.clone(), vm::objects(&compile(&port.policy, moment), path, host.holds));
        }
        ports.insert(name.clone(), port_objects(name, port));
    }
    let asks = host.ports.values().any(|port| port.policy.asks());
    Tables { path, generation, asks, vms, ports }
}

fn port_objects(name: &str, port: &crate::host::Port) -> PortObjects {
    let key = || Expr::text(name);
    let jump = |direction| {
        let target = labels::entry(&port.policy.vm.name, direction);
        vec![Element::Verdict(key(), Jump::Jump(Target { target }))]
    };
    let bound = |family| {
        let own: lynceus_policy::AddressSet = own_ranges(&port.interface).into_iter().collect();
        let of_family: Vec<_> = own.of(family).copied().collect();
        of_family.iter().map(|range| Element::Key(Expr::Concat(vec![key(), addresses(range)]))).collect()
    };
    let mut elements = BTreeMap::from([
        (PORTS, vec![Element::Key(key())]),
        ("from", jump(Direction::Out)),
        ("into", jump(Direction::In)),
    ]);
    if port.interface.anti_spoofing {
        elements.insert("bound4", bound(Family::V4));
        elements.insert("bound6", bound(Family::V6));
    } else {
        elements.insert("unbound", vec![Element::Key(key())]);
    }
    PortObjects { vm: port.policy.vm.name.clone(), elements }
}

/// The set of the ports that are ours.
pub(super) const PORTS: &str = "ports";
/// Name, types of the key, whether it maps to verdicts, flags.
type PortSet = (&'static str, &'static [&'static str], bool, &'static [&'static str]);
const PORT_SETS: [PortSet; 6] = [
    (PORTS, &["ifname"], false, &[]),
    ("unbound", &["ifname"], false, &[]),
    ("bound4", &["ifname", "ipv4_addr"], false, &["interval"]),
    ("bound6", &["ifname", "ipv6_addr"], false, &["interval"]),
    ("from", &["ifname"], true, &[]),
    ("into", &["ifname"], true, &[]),
];

/// One of the sets that know the ports, empty.
pub(super) fn port_set(path: Path, name: &str) -> Option<Set> {
    let (name, kind, is_map, flags) = PORT_SETS.iter().find(|(known, ..)| *known == name)?;
    Some(Set {
        family: path.family().to_owned(),
        table: TABLE.to_owned(),
        name: (*name).to_owned(),
        kind: Types::of(kind),
        map: is_map.then(|| "verdict".to_owned()),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        size: None,
        elem: Vec::new(),
    })
}

impl Tables {
    fn family(&self) -> String {
        self.path.family().to_owned()
    }

    /// The table itself.
    pub fn table(&self) -> Object {
        Object::table(self.path.family(), TABLE)
    }

    /// A chain by name.
    pub fn chain(&self, name: &str) -> Object {
        let family = self.family();
        Object::Chain(Chain { family, table: TABLE.to_owned(), name: name.to_owned(), ..Chain::default() })
    }

    fn hook(&self, hook: &str) -> Object {
        Object::Chain(Chain {
            family: self.family(),
            table: TABLE.to_owned(),
            name: hook.to_owned(),
            kind: Some("filter".to_owned()),
            hook: Some(hook.to_owned()),
            prio: Some(0),
            dev: None,
            policy: Some("accept".to_owned()),
        })
    }

    fn rule(&self, chain: &str, expr: Vec<Statement>) -> Object {
        Object::Rule(Rule { family: self.family(), table: TABLE.to_owned(), chain: chain.to_owned(), expr })
    }

    /// The sets that know the ports.
    pub fn port_sets(&self) -> Vec<Object> {
        let object = |set: Set| if set.map.is_some() { Object::Map(set) } else { Object::Set(set) };
        PORT_SETS
            .iter()
            .filter_map(|(name, ..)| port_set(self.path, name))
            .chain(ask::maps(self.path))
            .map(object)
            .collect()
    }

    /// The chains that every packet passes, empty, and their counters.
    pub fn base_chains(&self) -> Vec<Object> {
        let hooks = ["forward", "input", "output"].map(|hook| self.hook(hook));
        let chains = ["reject", "spoof", JUDGED, PASSED, "judge", "guard"].map(|name| self.chain(name));
        let counters = COUNTERS.map(|name| {
            Object::Counter(super::model::Counter {
                family: self.family(),
                table: TABLE.to_owned(),
                name: name.to_owned(),
            })
        });
        counters.into_iter().chain(chains).chain(hooks).collect()
    }

    /// The rules of those chains that do not depend on the generation.
    pub fn base_rules(&self) -> Vec<Object> {
        let mut rules: Vec<Object> = answers().into_iter().map(|expr| self.rule("output", expr)).collect();
        for hook in ["forward", "input", "output"] {
            rules.push(self.rule(hook, vec![Statement::jump("guard")]));
        }
        rules.extend(judge().into_iter().map(|expr| self.rule("judge", expr)));
        rules.extend(guard().into_iter().map(|expr| self.rule("guard", expr)));
        rules.extend(spoof().into_iter().map(|expr| self.rule("spoof", expr)));
        rules.extend(reject(self.path).into_iter().map(|expr| self.rule("reject", expr)));
        rules
    }

    /// The rules that do, and what answers are held by.
    pub fn generation_rules(&self) -> Vec<Object> {
        let mark = || Expr::Number(mark(self.generation).into());
        let known = vec![Statement::is(Expr::ct("mark", None), mark()), Statement::Accept(())];
        let key = Expr::ct("mark", None);
        let passes = vec![Statement::Mangle(Mangle { key, value: mark() }), Statement::Accept(())];
        let mut rules = vec![self.rule(JUDGED, known), self.rule(PASSED, passes)];
        rules.extend(self.asks.then(|| ask::mark_elements(self)).into_iter().flatten());
        rules
    }
}

/// Counters of the base chains: a port without a policy, a foreign address, a packet of no connection, an ICMP error to be judged again.
pub const COUNTERS: [&str; 4] = ["closed", "spoofed", "invalid", "related"];

fn of_set(key: &str, set: &str) -> Statement {
    Statement::is(Expr::meta(key), Expr::text(set))
}

/// What this host itself answers to a packet that it does not let pass: resets and ICMP errors. They belong to that packet's
/// connection, which is refused; they are not.
fn answers() -> Vec<Vec<Statement>> {
    let is_related = || Statement::compare("in", Expr::ct("state", None), Expr::text("related"));
    let icmp = Expr::any_of(&["icmp", "ipv6-icmp"]);
    vec![
        vec![
            is_related(),
            Statement::compare("in", Expr::field("tcp", "flags"), Expr::text("rst")),
            Statement::Accept(()),
        ],
        vec![is_related(), Statement::is(Expr::meta("l4proto"), icmp), Statement::Accept(())],
    ]
}

/// Whose packet is it?
fn guard() -> Vec<Vec<Statement>> {
    let mut rules = Vec::new();
    // What no policy knows takes no part, whoever is at the other end.
    for prefix in PORT_PREFIXES {
        for key in ["iifname", "oifname"] {
            let is_port = Statement::is(Expr::meta(key), Expr::text(format!("{prefix}*")));
            let is_unknown = Statement::is_not(Expr::meta(key), Expr::text("@ports"));
            rules.push(vec![is_port, is_unknown, Statement::count("closed"), Statement::Drop(())]);
        }
    }
    rules.push(vec![of_set("iifname", "@ports"), Statement::jump("spoof")]);
    rules.push(vec![of_set("iifname", "@ports"), Statement::goto("judge")]);
    rules.push(vec![of_set("oifname", "@ports"), Statement::goto("judge")]);
    rules
}

/// May the port send from this address? DHCP and neighbour discovery begin without one.
fn spoof() -> Vec<Vec<Statement>> {
    let source = |family: &str| Expr::field(family, "saddr");
    let bound = |family: &str, set: &str| {
        let key = Expr::Concat(vec![Expr::meta("iifname"), source(family)]);
        vec![Statement::is(key, Expr::text(set)), Statement::Return(())]
    };
    let beginnings = Expr::any_of(&[
        "nd-neighbor-solicit",
        "nd-router-solicit",
        "mld2-listener-report",
        "mld-listener-report",
    ]);
    vec![
        bound("ip", "@bound4"),
        bound("ip6", "@bound6"),
        vec![of_set("iifname", "@unbound"), Statement::Return(())],
        vec![
            Statement::is(source("ip"), Expr::text("0.0.0.0")),
            Statement::is(Expr::field("udp", "sport"), Expr::Number(68)),
            Statement::is(Expr::field("udp", "dport"), Expr::Number(67)),
            Statement::Return(()),
        ],
        vec![
            Statement::is(source("ip6"), Expr::text("::")),
            Statement::is(Expr::field("icmpv6", "type"), beginnings),
            Statement::Return(()),
        ],
        // ARP, where a bridge shows it: the port's own chain has looked at it.
        vec![Statement::is_not(Expr::meta("protocol"), Expr::any_of(&["ip", "ip6"])), Statement::Return(())],
        vm::told("lynceus spoofed address"),
        vec![Statement::count("spoofed"), Statement::Drop(())],
    ]
}

fn reject(path: Path) -> Vec<Vec<Statement>> {
    if path == Path::Bridged {
        // The kernel cannot answer from a bridge's forward hook.
        return vec![vec![Statement::Drop(())]];
    }
    let with = |kind: &str, expr: Option<&str>| {
        Statement::Reject(Reject { kind: kind.to_owned(), expr: expr.map(str::to_owned) })
    };
    vec![
        vec![Statement::is(Expr::meta("l4proto"), Expr::text("tcp")), with("tcp reset", None)],
        vec![with("icmpx", Some("admin-prohibited"))],
    ]
}

/// Was the connection let pass by these rules, and if not, do they?
fn judge() -> Vec<Vec<Statement>> {
    let state = |name: &str| Statement::compare("in", Expr::ct("state", None), Expr::text(name));
    let goes = |direction: &str| Statement::is(Expr::ct("direction", None), Expr::text(direction));
    let vmap =
        |key: &str, map: &str| Statement::Vmap(Lookup { key: Expr::meta(key), data: format!("@{map}") });
    let hop_limit = |limit| Statement::is(Expr::field("ip6", "hoplimit"), Expr::Number(limit));
    let is_icmp6 = |names: &[&str]| Statement::is(Expr::field("icmpv6", "type"), Expr::any_of(names));
    let neighbours = ["nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"];
    let listeners =
        ["mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"];
    vec![
        vec![Statement::jump(JUDGED)],
        // Neighbour discovery is IPv6's ARP, and no connection. No router passes these on: the hop limit says so.
        vec![hop_limit(255), is_icmp6(&neighbours), Statement::Accept(())],
        vec![hop_limit(1), is_icmp6(&listeners), Statement::Accept(())],
        vec![Statement::is(Expr::meta("protocol"), Expr::text("arp")), Statement::Accept(())],
        vec![state("invalid"), Statement::count("invalid"), Statement::Drop(())],
        vec![state("untracked"), Statement::count("invalid"), Statement::Drop(())],
        // An error about a connection that is to be judged again: the next packet of it is judged, and causes the next error.
        vec![
            state("related"),
            Statement::is(Expr::meta("l4proto"), Expr::any_of(&["icmp", "ipv6-icmp"])),
            Statement::count("related"),
            Statement::Drop(()),
        ],
        vec![goes("original"), vmap("iifname", "from")],
        vec![goes("original"), vmap("oifname", "into")],
        vec![goes("reply"), vmap("oifname", "from")],
        vec![goes("reply"), vmap("iifname", "into")],
        vec![Statement::goto(PASSED)],
    ]
}
