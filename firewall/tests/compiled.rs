//! Random policies and packets: what nft's JSON does is what the evaluator says.

mod interpreter;
mod random;

use interpreter::{Packet, Ruleset};
use lynceus_firewall::host::{Host, Port, State, Transit, forward};
use lynceus_firewall::nft::ask::{Connection, answer};
use lynceus_firewall::nft::model::{Command, Object, Transaction};
use lynceus_firewall::nft::table::{self, Path, Tables, mark};
use lynceus_firewall::nft::vm;
use lynceus_firewall::nft::{Change, install, update};
use lynceus_firewall::{By, Flow, Moment, Outcome, Process, Who, asks, judge};
use lynceus_policy::{Direction, Lane, Policy, Timestamp, Verdict};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

fn host(policy: &Policy) -> Host {
    let mut ports = BTreeMap::new();
    for vm in policy.vms.values() {
        for interface in &vm.vm.interfaces {
            let port = Port { policy: Arc::new(vm.clone()), interface: interface.clone() };
            ports.insert(interface.port.clone().unwrap(), port);
        }
    }
    Host { ports, ..Host::default() }
}

/// What nft would read.
fn as_read(transaction: &Transaction) -> Transaction {
    serde_json::from_str(&serde_json::to_string(transaction).unwrap()).unwrap()
}

/// One transaction after the other.
fn apply(ruleset: &mut Ruleset, change: Change) -> Result<(), TestCaseError> {
    change.transactions().try_for_each(|step| ruleset.apply(&as_read(&step)).map_err(TestCaseError::fail))
}

/// Interfaces with the address behind them: three VMs, outside, a port that no policy knows; and this host itself.
const ENDS: [(Option<&str>, [&str; 2]); 6] = [
    (Some("vif1.0"), ["10.0.1.2", "fd00:1::2"]),
    (Some("vif2.0"), ["10.0.2.2", "fd00:2::2"]),
    (Some("tap3"), ["10.0.3.2", "fd00:3::2"]),
    (Some("eth0"), ["192.0.2.1", "2001:db8::1"]),
    (Some("vif9.0"), ["10.0.9.2", "fd00:9::2"]),
    (None, ["10.0.1.1", "fd00:1::1"]),
];

/// Monday, and the seconds of two weeks.
const MONDAY: i64 = 1_780_272_000;

#[derive(Clone, Debug)]
struct Case {
    from: usize,
    to: usize,
    is_v6: bool,
    lane: Lane,
    number: u16,
    is_reply: bool,
    state: State,
    is_spoofed: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let service = prop_oneof![
        6 => (prop_oneof![Just(Lane::Tcp), Just(Lane::Udp), Just(Lane::Sctp)], 999u16..1005),
        1 => Just((Lane::Icmp4, 8 << 8)),
        1 => Just((Lane::Icmp4, 13 << 8 | 3)),
        1 => Just((Lane::Other, 47)),
    ];
    let state = prop_oneof![
        4 => Just(State::New),
        2 => Just(State::Established { judged: true }),
        4 => Just(State::Established { judged: false }),
        1 => Just(State::Invalid),
    ];
    let flags = (any::<bool>(), any::<bool>(), proptest::bool::weighted(0.1));
    (0..ENDS.len(), 0..ENDS.len(), flags, service, state).prop_map(
        |(from, to, (is_v6, is_reply, is_spoofed), (lane, number), state)| {
            let is_reply = is_reply && matches!(state, State::Established { .. });
            let (lane, number) = match lane {
                Lane::Icmp4 if is_v6 => (Lane::Icmp6, if number == 8 << 8 { 128 << 8 } else { number }),
                _ => (lane, number),
            };
            Case { from, to, is_v6, lane, number, is_reply, state, is_spoofed }
        },
    )
}

impl Case {
    fn transit(&self) -> Transit<'static> {
        let address = |end: usize| ENDS[end].1[usize::from(self.is_v6)].parse::<IpAddr>().unwrap();
        let spoofed: IpAddr = if self.is_v6 { "fd00:66::6" } else { "10.66.6.6" }.parse().unwrap();
        let sender = if self.is_spoofed { spoofed } else { address(self.from) };
        let (source, destination) =
            if self.is_reply { (address(self.to), sender) } else { (sender, address(self.to)) };
        Transit {
            from: ENDS[self.from].0,
            to: ENDS[self.to].0,
            flow: Flow { source, destination, lane: self.lane, number: self.number },
            is_reply: self.is_reply,
            state: self.state,
        }
    }
}

fn run(
    ruleset: &mut Ruleset,
    transit: &Transit<'_>,
    generation: u32,
    moment: &Moment,
) -> (Verdict, Vec<String>) {
    let hook = match (transit.from, transit.to) {
        (None, _) => "output",
        (_, None) => "input",
        _ => "forward",
    };
    let exhausted: BTreeSet<String> = ["a", "b", "c"]
        .iter()
        .flat_map(|vm| Direction::ALL.map(|direction| (vm, direction)))
        .flat_map(|(vm, direction)| {
            moment.exhausted.iter().map(move |rule| vm::counter(vm, direction, rule) + ".")
        })
        .collect();
    let (state, mark) = match transit.state {
        State::New => ("new", 0),
        State::Established { judged: true } => ("established", mark(generation)),
        State::Established { judged: false } => ("established", mark(generation - 1)),
        State::Invalid => ("invalid", 0),
    };
    let fate = ruleset.run(&Packet {
        hook,
        iifname: transit.from.unwrap_or_default(),
        oifname: transit.to.unwrap_or_default(),
        source: transit.source(),
        original: (transit.flow.source, transit.flow.destination),
        protocol: transit.flow.lane.protocol().unwrap_or(transit.flow.number as u8),
        number: transit.flow.number,
        is_reply: transit.is_reply,
        state,
        mark,
        at: moment.at,
        exhausted: &exhausted,
    });
    let verdict = match (fate.is_accepted, fate.is_rejected) {
        (true, _) => Verdict::Allow,
        (false, true) => Verdict::Reject,
        (false, false) => Verdict::Deny,
    };
    (verdict, fate.counted)
}

fn moment(offset_s: i64, exhausted: &[usize]) -> Moment {
    let mut moment = Moment::at(Timestamp(MONDAY + offset_s));
    let outside = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    moment.names.insert("outside.example".to_owned(), BTreeSet::from(outside));
    let policies = ["one", "two", "three"];
    moment.exhausted = exhausted.iter().map(|n| format!("{}/{}", policies[n % 3], n / 3 + 1)).collect();
    moment
}

fn check(
    policy: &Policy,
    tables: &Tables,
    ruleset: &mut Ruleset,
    cases: &[Case],
    now: &Moment,
) -> Result<(), TestCaseError> {
    let host = host(policy);
    for case in cases {
        let transit = case.transit();
        let expected = forward(&host, &transit, now);
        let (verdict, counted) = run(ruleset, &transit, tables.generation, now);
        prop_assert_eq!(verdict, expected, "{:?} {:?} counted {:?}", case, transit, counted);
        let is_of_vm = |name: &&String| name.starts_with("vm-");
        let counted: Vec<&String> = counted.iter().filter(is_of_vm).collect();
        if !counted.is_empty() {
            let asked = asked(&host, &transit, now);
            prop_assert_eq!(counted, asked.iter().collect::<Vec<_>>(), "{:?} {:?}", case, transit);
        }
    }
    Ok(())
}

/// The counters of all rules that tell, pass on or decide, in the order in which a packet meets them.
fn asked(host: &Host, transit: &Transit<'_>, now: &Moment) -> Vec<String> {
    let port = |name: Option<&str>| name.and_then(|name| host.ports.get(name));
    let (from, to) = (port(transit.from), port(transit.to));
    let (client, server) = if transit.is_reply { (to, from) } else { (from, to) };
    let mut counters = Vec::new();
    for (port, direction) in [(client, Direction::Out), (server, Direction::In)] {
        let Some(port) = port else { continue };
        let vm = &port.policy.vm.name;
        let decision = judge(&port.policy, direction, &transit.flow, now);
        let matched = decision.steps.iter().filter(|step| !matches!(step.outcome, Outcome::NotMatched(_)));
        counters.extend(matched.map(|step| vm::counter(vm, direction, &step.rule.id)));
        if matches!(decision.by, By::Default(_)) {
            counters.push(vm::default_counter(vm, direction));
        }
        if decision.verdict != Verdict::Allow {
            break;
        }
    }
    counters
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_compiled_rules_are_the_policy(
        text in random::policies(random::Menu { with_conditions: true }),
        cases in proptest::collection::vec(case(), 40),
        offset_s in 0i64..14 * 86_400,
        later_s in 0i64..40_000,
        exhausted in proptest::collection::vec(0usize..24, 0..4),
    ) {
        let policy = random::resolve(&text);
        let now = moment(offset_s, &exhausted);
        let tables = table::tables(&host(&policy), Path::Routed, 7, &now);
        let mut ruleset = Ruleset::default();
        apply(&mut ruleset, install(&tables))?;
        check(&policy, &tables, &mut ruleset, &cases, &now)?;
        // The kernel's clock goes on until the next time at which rules change more than once.
        let later = Moment { at: Timestamp(now.at.0 + later_s), ..now.clone() };
        let next = policy.vms.values().filter_map(|vm| vm.changes_after(now.at)).min();
        if next.is_none_or(|next| later.at < next) {
            check(&policy, &tables, &mut ruleset, &cases, &later)?;
        }
        // When a rule opens or closes for the first time, nobody need be there either.
        if let Some(next) = next {
            let then = Moment { at: next, ..now.clone() };
            check(&policy, &tables, &mut ruleset, &cases, &then)?;
        }
    }

    #[test]
    fn a_change_leads_to_the_new_rules_and_keeps_hits(
        before in random::policies(random::Menu { with_conditions: true }),
        after in random::policies(random::Menu { with_conditions: true }),
        cases in proptest::collection::vec(case(), 20),
        offset_s in 0i64..14 * 86_400,
        isolated in 0usize..4,
    ) {
        let (old_policy, mut new_policy) = (random::resolve(&before), random::resolve(&after));
        if let Some(name) = ["a", "b", "c"].get(isolated) {
            let isolated = new_policy.isolated(&new_policy.vms[*name]);
            new_policy.vms.insert((*name).to_owned(), isolated);
        }
        let now = moment(offset_s, &[]);
        let old = table::tables(&host(&old_policy), Path::Routed, 7, &now);
        let new = table::tables(&host(&new_policy), Path::Routed, 8, &now);
        let mut ruleset = Ruleset::default();
        apply(&mut ruleset, install(&old))?;
        check(&old_policy, &old, &mut ruleset, &cases, &now)?;
        let hits = ruleset.counters().clone();
        let Change { prepare, switch, clean } = update(&old, &new);
        let fills_a_set = |command: &Command| matches!(command, Command::Add(Object::Set(_) | Object::Map(_)));
        prop_assert!(!switch.iter().any(fills_a_set), "rules come into force before their sets: {:?}", switch);
        let step = |nftables| Change { prepare: nftables, ..Change::default() };
        let begun = ruleset.clone();
        apply(&mut ruleset, step(prepare))?;
        check(&old_policy, &old, &mut ruleset.clone(), &cases, &now)?;
        // When nothing comes of it, what is left over goes.
        let mut undone = ruleset.clone();
        apply(&mut undone, step(update(&new, &old).clean))?;
        prop_assert_eq!(undone, begun);
        apply(&mut ruleset, step(switch))?;
        check(&new_policy, &new, &mut ruleset.clone(), &cases, &now)?;
        apply(&mut ruleset, step(clean))?;
        for (name, count) in ruleset.counters() {
            prop_assert_eq!(*count, hits.get(name).copied().unwrap_or(0), "{}", name);
        }
        let wanted: BTreeSet<&String> = new.vms.values().flat_map(|vm| &vm.counters).collect();
        let there: BTreeSet<&String> =
            ruleset.counters().keys().filter(|name| name.starts_with("vm-")).collect();
        prop_assert_eq!(wanted, there);
        check(&new_policy, &new, &mut ruleset, &cases, &now)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_does_what_the_policy_says_of_the_process(
        text in random::policies(random::Menu { with_conditions: true }),
        cases in proptest::collection::vec(case(), 40),
        offset_s in 0i64..14 * 86_400,
        uid in 0u32..2,
    ) {
        let policy = random::resolve(&text);
        let now = moment(offset_s, &[]);
        let process = Process { pid: 9, comm: "nc".to_owned(), uid, ..Process::default() };
        let told = Moment { who: Who::Known(vec![process]), ..now.clone() };
        let tables = table::tables(&host(&policy), Path::Routed, 7, &now);
        let mut ruleset = Ruleset::default();
        apply(&mut ruleset, install(&tables))?;
        let outside = |case: &Case| Case { to: 3, from: case.from % 3, is_reply: false, is_spoofed: false, state: State::New, ..case.clone() };
        for case in cases.iter().map(outside) {
            let transit = case.transit();
            let vm = ["a", "b", "c"][case.from];
            let is_asked = asks(&policy.vms[vm], Direction::Out, &transit.flow, &now);
            let (before, _) = run(&mut ruleset, &transit, 7, &now);
            if is_asked {
                prop_assert_eq!(before, Verdict::Deny);
            }
            if is_asked && case.lane.has_ports() && case.lane != Lane::Sctp {
                let wanted = judge(&policy.vms[vm], Direction::Out, &transit.flow, &told).verdict;
                let connection = Connection {
                    direction: Direction::Out,
                    lane: case.lane,
                    source: (transit.flow.source, 40_000).into(),
                    destination: (transit.flow.destination, case.number).into(),
                };
                let mut answered = ruleset.clone();
                answered.apply(&as_read(&answer(Path::Routed, 7, &connection, wanted))).map_err(TestCaseError::fail)?;
                prop_assert_eq!(run(&mut answered, &transit, 7, &now).0, wanted);
                let late = answer(Path::Routed, 6, &connection, wanted);
                prop_assert!(answered.apply(&as_read(&late)).is_err(), "an answer for older rules is taken");
            }
        }
    }
}

#[test]
fn a_change_of_one_vm_touches_no_other() {
    let policy = |port: u16| {
        random::resolve(&format!(
            "[policy.all]\nselect='all()'\n[[policy.all.rule]]\ndirection='in'\naction='allow'\nservices=['tcp/22']\n\
             [policy.b]\nvms=['b']\n[[policy.b.rule]]\ndirection='in'\naction='allow'\nservices=['tcp/{port}']\n"
        ))
    };
    let now = moment(0, &[]);
    let tables = |port, generation| table::tables(&host(&policy(port)), Path::Routed, generation, &now);
    let commands = update(&tables(80, 1), &tables(81, 2)).whole();
    let text = serde_json::to_string(&commands).unwrap();
    assert!(text.contains("vm-b-in") && !text.contains("vm-a-") && !text.contains("vm-c-"), "{text}");
}

#[test]
fn compiling_is_deterministic() {
    let text = "[policy.all]\nselect='all()'\n[[policy.all.rule]]\ndirection='in'\naction='allow'\nservices=['@s']\n[services.s]\nmembers=['tcp/1-9','udp']";
    let now = moment(0, &[]);
    let once = || {
        serde_json::to_string(
            &install(&table::tables(&host(&random::resolve(text)), Path::Routed, 1, &now)).whole(),
        )
    };
    assert_eq!(once().unwrap(), once().unwrap());
}
