//! The first thing that a frame from a VM meets: its port's own chain, on the device itself.
//!
//! *Does*: drops frames with a foreign MAC, ARP and neighbour discovery for foreign addresses, answers of DHCP servers and routers
//! from VMs that are none, tagged frames, and every protocol but IP, IPv6 and ARP. *Never*: judges a connection; that comes later.
//!
//! It sees every frame, also of ports that are switched by something that nftables does not see.

use super::TABLE;
use super::model::{Chain, Command, Counter, Expr, Object, Payload, Rule, Statement};
use crate::host::{Host, Port, own_ranges};
use lynceus_policy::{Family, IpRange};
use std::collections::BTreeMap;

/// nft's family for chains on a device.
const FAMILY: &str = "netdev";
/// Before everything else on the device.
const PRIORITY: i32 = -450;
/// The hooks of a device, in and out.
const DIRECTIONS: [&str; 2] = ["ingress", "egress"];
/// The counters of what is dropped.
pub const COUNTERS: [&str; 6] = ["mac", "arp", "dhcp", "router", "neighbour", "protocol"];

/// The chains of all ports, by port.
pub fn chains(host: &Host) -> BTreeMap<String, Vec<Vec<Statement>>> {
    let guarded = host.ports.iter().filter(|(_, port)| port.interface.anti_spoofing);
    guarded.map(|(name, port)| (name.clone(), rules(port))).collect()
}

/// From the chains that are there to those that should be; a device that is gone took its chain's hook with it, and the name `present`
/// tells which devices are there.
pub fn update(
    old: Option<&BTreeMap<String, Vec<Vec<Statement>>>>,
    new: &BTreeMap<String, Vec<Vec<Statement>>>,
) -> Vec<Command> {
    if old == Some(new) {
        return Vec::new();
    }
    let nothing = BTreeMap::new();
    let is_new = old.is_none();
    let mut commands = if is_new { Command::absent(FAMILY, TABLE).to_vec() } else { Vec::new() };
    commands.push(Command::Add(Object::table(FAMILY, TABLE)));
    let old = old.unwrap_or(&nothing);
    let counter = |name: &str| {
        Object::Counter(Counter { family: FAMILY.to_owned(), table: TABLE.to_owned(), name: name.to_owned() })
    };
    commands.extend(COUNTERS.map(|name| Command::Add(counter(name))));
    if is_new {
        commands.extend(COUNTERS.into_iter().flat_map(dropping));
    }
    commands.extend(shared());
    for (port, _) in old.iter().filter(|(port, rules)| new.get(*port) != Some(*rules)) {
        commands.extend([Command::Flush(chain(port, false)), Command::Delete(chain(port, false))]);
    }
    for (port, rules) in new.iter().filter(|(port, rules)| old.get(*port) != Some(*rules)) {
        commands.push(Command::Add(chain(port, true)));
        let chain = format!("in-{port}");
        commands.extend(rules.iter().map(|expr| Command::Add(in_chain(&chain, expr.clone()))));
    }
    commands
}

fn chain(port: &str, with_hook: bool) -> Object {
    device_chain(format!("in-{port}"), port, with_hook.then_some(("ingress", PRIORITY)))
}

/// A chain on a device, by its hook and priority; without them by its name alone, to be flushed or taken away.
fn device_chain(name: String, port: &str, hook: Option<(&str, i32)>) -> Object {
    let of = |text: &str| hook.map(|_| text.to_owned());
    Object::Chain(Chain {
        family: FAMILY.to_owned(),
        table: TABLE.to_owned(),
        name,
        kind: of("filter"),
        hook: hook.map(|(hook, _)| hook.to_owned()),
        prio: hook.map(|(_, priority)| priority),
        dev: of(port),
        policy: of("drop"),
    })
}

fn ether(field: &str) -> Expr {
    Expr::field("ether", field)
}

fn is_advert() -> Statement {
    Statement::is(Expr::field("icmpv6", "type"), Expr::text("nd-neighbor-advert"))
}

fn is_type(kind: &str) -> Statement {
    Statement::is(ether("type"), Expr::text(kind))
}

fn drop(counter: &str) -> [Statement; 1] {
    [Statement::goto(&format!("drop-{counter}"))]
}

/// The chain that tells of a frame, as often as a log can bear, and drops and counts it every time.
fn dropping(counter: &str) -> Vec<Command> {
    plain(
        &format!("drop-{counter}"),
        vec![
            super::vm::told(&format!("lynceus spoofed {counter}")),
            vec![Statement::count(counter), Statement::Drop(())],
        ],
    )
}

/// A chain without a hook, with these rules and no others.
fn plain(name: &str, rules: Vec<Vec<Statement>>) -> Vec<Command> {
    let (family, table) = (FAMILY.to_owned(), TABLE.to_owned());
    let chain = Object::Chain(Chain { family, table, name: name.to_owned(), ..Chain::default() });
    let rules = rules.into_iter().map(|expr| Command::Add(in_chain(name, expr)));
    [Command::Add(chain.clone()), Command::Flush(chain)].into_iter().chain(rules).collect()
}

fn in_chain(chain: &str, expr: Vec<Statement>) -> Object {
    Object::Rule(Rule { family: FAMILY.to_owned(), table: TABLE.to_owned(), chain: chain.to_owned(), expr })
}

/// The chains of what is the same for every port: what is no VM's to send, and where every other frame ends.
const FRAGMENTS: &str = "fragments";
const SERVERS: &str = "servers";
const ROUTERS: &str = "routers";
const REST: &str = "rest";

/// A port's chain. What no rule accepts is dropped by the chain's policy.
fn rules(port: &Port) -> Vec<Vec<Statement>> {
    let mac = port.interface.mac.to_string();
    let mut rules = vec![rule([Statement::is_not(ether("saddr"), Expr::text(mac.as_str()))], drop("mac"))];
    let own = own_ranges(&port.interface);
    rules.extend(arp(&mac, &own));
    rules.push(vec![Statement::jump(FRAGMENTS)]);
    if !port.interface.dhcp_server {
        rules.push(vec![Statement::jump(SERVERS)]);
    }
    if port.interface.routes.is_empty() {
        rules.push(vec![Statement::jump(ROUTERS)]);
    }
    rules.extend(neighbours(port, &own));
    rules.push(vec![Statement::goto(REST)]);
    rules
}

/// Those chains, put there anew whenever something changes, because the table may be one of a version that had none. No frame ever finds one
/// without its rules.
fn shared() -> Vec<Command> {
    let from_server = |(family, kind, server)| {
        let is_server = Statement::is(Expr::field(kind, "sport"), Expr::Number(server));
        rule([is_type(family), is_server], drop("dhcp"))
    };
    let kinds = Expr::any_of(&["nd-router-advert", "nd-redirect"]);
    let advises = Statement::is(Expr::field("icmpv6", "type"), kinds);
    let rest = vec![
        rule([is_type("arp")], drop("arp")),
        rule([is_type("ip6"), is_advert()], drop("neighbour")),
        vec![is_type("ip"), Statement::Accept(())],
        vec![is_type("ip6"), Statement::Accept(())],
        drop("protocol").to_vec(),
    ];
    let chains = [
        (FRAGMENTS, vec![fragments()]),
        (SERVERS, [("ip", "udp", 67), ("ip6", "udp", 547)].map(from_server).to_vec()),
        (ROUTERS, vec![rule([is_type("ip6"), advises], drop("router"))]),
        (REST, rest),
    ];
    chains.into_iter().flat_map(|(name, rules)| plain(name, rules)).collect()
}

fn rule<const N: usize>(conditions: [Statement; N], then: [Statement; 1]) -> Vec<Statement> {
    conditions.into_iter().chain(then).collect()
}

/// ARP from the card's own MAC, for its own addresses or, when it asks whether an address is free, for none.
fn arp(mac: &str, own: &[IpRange]) -> Vec<Vec<Statement>> {
    let foreign_mac = Statement::is_not(Expr::field("arp", "saddr ether"), Expr::text(mac));
    let mut rules = vec![rule([is_type("arp"), foreign_mac], drop("arp"))];
    let none = IpRange::one(std::net::Ipv4Addr::UNSPECIFIED.into());
    for range in own.iter().filter(|range| range.family() == Family::V4).chain([&none]) {
        let address = super::elements::addresses(range);
        let is_own = Statement::is(Expr::field("arp", "saddr ip"), address);
        rules.push(vec![is_type("arp"), is_own, Statement::Accept(())]);
    }
    rules
}

/// ICMPv6 in fragments hides what it is (RFC 7113), and neighbour discovery is never fragmented (RFC 6980).
fn fragments() -> Vec<Statement> {
    let next = Expr::Exthdr { name: "frag".to_owned(), field: Some("nexthdr".to_owned()) };
    // ICMPv6, and the headers behind which it may hide: hop-by-hop, routing, destination options.
    let hiding = Expr::Set([58, 0, 43, 60].map(Expr::Number).to_vec());
    rule([is_type("ip6"), Statement::is(next, hiding)], drop("neighbour"))
}

/// Neighbour advertisements for the card's own addresses, with its own MAC and nothing else in them.
fn neighbours(port: &Port, own: &[IpRange]) -> Vec<Vec<Statement>> {
    let raw = |offset, len| Expr::Payload(Payload::Raw { base: "th".to_owned(), offset, len });
    let mut rules = Vec::new();
    // Target (16 bytes at 8), then one option: target link-layer address (type 2, 8 bytes long), or none.
    // Two comparisons: a set of numbers of two bytes is a bitmap of 16 KB in the kernel.
    let [not_short, not_long] =
        [24, 32].map(|len| Statement::is_not(Expr::field("ip6", "length"), Expr::Number(len)));
    rules.push(rule([is_type("ip6"), is_advert(), not_short, not_long], drop("neighbour")));
    let [a, b, c, d, e, f] = port.interface.mac.0;
    let option = u64::from_be_bytes([2, 1, a, b, c, d, e, f]);
    let is_long = || Statement::is(Expr::field("ip6", "length"), Expr::Number(32));
    let halves = [(192, option >> 32), (224, option & 0xffff_ffff)];
    for (offset, value) in halves {
        let differs = Statement::is_not(raw(offset, 32), Expr::Number(value));
        rules.push(rule([is_type("ip6"), is_advert(), is_long(), differs], drop("neighbour")));
    }
    for range in own.iter().filter(|range| range.family() == Family::V6 && range.first() == range.last()) {
        let std::net::IpAddr::V6(address) = range.first() else { continue };
        let bits = address.to_bits();
        let words = [0u32, 1, 2, 3].map(|n| (64 + n * 32, (bits >> (96 - n * 32)) as u32));
        let is_target = words.map(|(offset, word)| Statement::is(raw(offset, 32), Expr::Number(word.into())));
        let mut steps = vec![is_type("ip6"), is_advert()];
        steps.extend(is_target);
        steps.push(Statement::Accept(()));
        rules.push(steps);
    }
    rules
}

/// The chains that close a port in both directions.
pub fn close(port: &str) -> Vec<Command> {
    DIRECTIONS.map(|hook| Command::Add(closed(port, hook, Some((hook, PRIORITY - 1))))).to_vec()
}

/// Takes those chains away.
pub fn open(port: &str) -> Vec<Command> {
    DIRECTIONS.map(|hook| Command::Delete(closed(port, hook, None))).to_vec()
}

fn closed(port: &str, direction: &str, hook: Option<(&str, i32)>) -> Object {
    device_chain(format!("closed-{direction}-{port}"), port, hook)
}
