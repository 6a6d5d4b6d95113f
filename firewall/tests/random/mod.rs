//! Random policies over a small world, so that rules, peers and packets meet often.

use lynceus_policy::{Folder, Policy};
use proptest::prelude::*;
use std::fmt::Write;

/// Three VMs with both families, and one address of each family outside.
pub(crate) const INVENTORY: &str = r#"
[vm.a]
labels = { role = "web" }
[[vm.a.interface]]
port = "vif1.0"
mac = "52:54:00:00:00:01"
addresses = ["10.0.1.2", "fd00:1::2"]
[vm.b]
labels = { role = "web" }
[[vm.b.interface]]
port = "vif2.0"
mac = "52:54:00:00:00:02"
addresses = ["10.0.2.2", "fd00:2::2"]
[vm.c]
labels = { role = "db" }
[[vm.c.interface]]
port = "tap3"
mac = "52:54:00:00:00:03"
addresses = ["10.0.3.2", "fd00:3::2"]
[group.web]
select = 'role == "web"'
"#;

const PEERS: [&str; 11] = [
    "",
    "peer = { groups = ['web'] }",
    "peer = { vms = ['c'] }",
    "peer = { addresses = ['10.0.0.0/16'] }",
    "peer = { addresses = ['10.0.1.0/24', 'fd00:1::/64'] }",
    "peer = { addresses = ['any'], except = ['10.0.2.0/23', 'fd00:2::2'] }",
    "peer = { addresses = ['0.0.0.0/0'] }",
    "peer = { addresses = ['::/0'] }",
    "peer = { addresses = ['192.0.2.1-192.0.2.9', '2001:db8::1'] }",
    "peer = { groups = ['web'], except = ['10.0.1.2'] }",
    "peer = { vms = ['a'], names = ['outside.example'] }",
];

const SERVICES: [&str; 10] = [
    "",
    "services = ['tcp/1000']",
    "services = ['tcp/1000-1002', 'udp/1000']",
    "services = ['tcp']",
    "services = ['udp/1001-1003', 'tcp/1003']",
    "services = ['icmp/echo-request']",
    "services = ['icmp']",
    "services = ['icmp4/8.0', 'proto/47']",
    "services = ['sctp/1000', 'proto']",
    "services = ['any']",
];

/// Expired for ever, not yet, at times, always.
const TIMES: [&str; 6] = [
    "",
    "",
    "expires = 2020-01-01T00:00:00Z",
    "expires = 2026-06-03T12:00:00Z",
    "hours = ['mon-wed 08:00-18:00', 'sat']",
    "hours = ['22:00-06:00']\nexpires = 2026-06-05T00:00:00Z",
];

const ACTIONS: [&str; 5] = ["allow", "allow", "deny", "reject", "pass"];
const EXTRAS: [&str; 6] =
    ["", "", "", "log = true", "rate = '10/second'", "process = { uid = 0 }\nlog = true"];

/// What random policies may use.
#[derive(Clone, Copy)]
pub(crate) struct Menu {
    /// Hours, rates, processes, names: what the kernel cannot be asked about in passing.
    pub(crate) with_conditions: bool,
}

fn rule(menu: Menu) -> impl Strategy<Value = String> {
    let peers = if menu.with_conditions { PEERS.len() } else { PEERS.len() - 1 };
    let (times, extras) = if menu.with_conditions { (TIMES.len(), EXTRAS.len()) } else { (1, 4) };
    let pick = (0..ACTIONS.len(), 0..peers, 0..SERVICES.len(), 0..times, 0..extras, any::<bool>());
    pick.prop_map(|(action, peer, service, time, extra, is_in)| {
        let direction = if is_in { "in" } else { "out" };
        let action = ACTIONS[action];
        format!(
            "direction = '{direction}'\naction = '{action}'\n{}\n{}\n{}\n{}\n",
            PEERS[peer], SERVICES[service], TIMES[time], EXTRAS[extra]
        )
    })
}

fn one_policy(name: &'static str, menu: Menu) -> impl Strategy<Value = String> {
    let default = prop_oneof![
        Just(""),
        Just("default = { in = 'allow', out = 'allow' }"),
        Just("default = { in = 'deny', out = 'allow' }"),
        Just("default = { out = 'reject', log = false }"),
    ];
    let mode = prop_oneof![6 => Just("enforce"), 1 => Just("audit"), 1 => Just("off")];
    let tier = prop_oneof![Just("platform"), Just("team"), Just("vm")];
    let who = prop_oneof![Just("select = 'all()'"), Just("groups = ['web']"), Just("vms = ['a', 'c']")];
    (tier, who, default, mode, proptest::collection::vec(rule(menu), 0..8)).prop_map(
        move |(tier, who, default, mode, rules)| {
            let mut text = format!("[policy.{name}]\ntier = '{tier}'\n{who}\n{default}\nmode = '{mode}'\n");
            for rule in rules {
                let _ = write!(text, "[[policy.{name}.rule]]\n{rule}");
            }
            text
        },
    )
}

/// Up to three policies for the three VMs, some of them with a long list in which rules overlap.
pub(crate) fn policies(menu: Menu) -> impl Strategy<Value = String> {
    prop_oneof![2 => short(menu), 1 => crowded(menu)]
}

fn short(menu: Menu) -> impl Strategy<Value = String> {
    (one_policy("one", menu), one_policy("two", menu), one_policy("three", menu))
        .prop_map(|(one, two, three)| format!("{one}{two}{three}"))
}

/// Addresses at which the peers of a crowded list begin and end: around those of [`INVENTORY`], and of the whole.
const EDGES: [&[&str]; 2] = [
    &[
        "0.0.0.0",
        "10.0.1.2",
        "10.0.1.3",
        "10.0.2.2",
        "10.0.2.200",
        "10.0.3.2",
        "192.0.2.1",
        "192.0.2.2",
        "255.255.255.255",
    ],
    &[
        "::",
        "2001:db8::1",
        "2001:db8::2",
        "fd00:1::2",
        "fd00:1::3",
        "fd00:2::2",
        "fd00:3::2",
        "fd00:3::ffff",
        "ffff::",
    ],
];

/// A rule that overlaps many others in part, whatever they do.
fn crowding(menu: Menu) -> impl Strategy<Value = String> {
    let action = prop_oneof![8 => 0usize..3, 2 => Just(3), 1 => Just(4)];
    let service = prop_oneof![
        8 => (prop_oneof![Just("tcp"), Just("udp")], 998u16..1006, 0u16..4)
            .prop_map(|(lane, first, more)| format!("services = ['{lane}/{first}-{}']", first + more)),
        1 => (0..SERVICES.len()).prop_map(|service| SERVICES[service].to_owned()),
    ];
    let (times, extras) = if menu.with_conditions { (TIMES.len(), EXTRAS.len()) } else { (1, 4) };
    // Mostly nothing, often `log = true`.
    let special = prop_oneof![9 => Just((0, 0)), 3 => Just((0, 3)), 1 => (0..times, 0..extras)];
    let peers = (any::<bool>(), 0..EDGES[0].len(), 0..EDGES[0].len());
    (action, peers, service, special, proptest::bool::weighted(0.8)).prop_map(
        |(action, (is_v6, one, other), service, (time, extra), is_in)| {
            let edges = EDGES[usize::from(is_v6)];
            let peers =
                format!("peer = {{ addresses = ['{}-{}'] }}", edges[one.min(other)], edges[one.max(other)]);
            let direction = if is_in { "in" } else { "out" };
            let action = ACTIONS[action];
            format!(
                "direction = '{direction}'\naction = '{action}'\n{peers}\n{service}\n{}\n{}\n",
                TIMES[time], EXTRAS[extra]
            )
        },
    )
}

/// A long list in which rules that do different things overlap, between a short one before and one behind it.
fn crowded(menu: Menu) -> impl Strategy<Value = String> {
    let rules = proptest::collection::vec(crowding(menu), 20..70);
    let mode = prop_oneof![5 => Just("enforce"), 1 => Just("audit")];
    (one_policy("one", menu), rules, mode, one_policy("three", menu)).prop_map(|(one, rules, mode, three)| {
        let mut text =
            format!("{one}{three}[policy.two]\ntier = 'team'\nselect = 'all()'\nmode = '{mode}'\n");
        for rule in rules {
            let _ = write!(text, "[[policy.two.rule]]\n{rule}");
        }
        text
    })
}

pub(crate) fn resolve(text: &str) -> Policy {
    let files =
        vec![("inventory.toml".to_owned(), INVENTORY.to_owned()), ("p.toml".to_owned(), text.to_owned())];
    let folder = Folder::parse(files).unwrap_or_else(|error| panic!("{error}\n{text}"));
    Policy::of(&folder).unwrap_or_else(|error| panic!("{error}\n{text}"))
}
