//! Random policies against the kernel: every packet that passes, and no other, is one that the evaluator lets pass.

use crate::random::{self, Menu};
use crate::world::{GATEWAYS, MEMBERS, Probe, World, results};
use anyhow::{Result, ensure};
use lynceus_firewall::host::{Host, Port, State, Transit, forward};
use lynceus_firewall::{Flow, Moment};
use lynceus_policy::{Family, Lane, Policy, Timestamp, Verdict};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::net::IpAddr;
use std::sync::Arc;

/// So many random policies.
const POLICIES: usize = 10;

/// From whom, to whom or to the host, and what.
pub(crate) type Tried = (usize, Option<usize>, Probe);

/// Everybody to everybody else and to the host, both families, some services.
pub(crate) fn probes() -> Vec<Tried> {
    let mut probes = Vec::new();
    for (from, member) in MEMBERS.iter().enumerate() {
        let others = (0..MEMBERS.len()).filter(|to| *to != from).map(Some);
        for to in others.chain([None]) {
            for family in [0, 1] {
                let target = to.map_or(GATEWAYS[from][family], |to| MEMBERS[to].3[family]);
                for (proto, port) in [("tcp", 1000), ("tcp", 1003), ("udp", 1000), ("udp", 1002), ("icmp", 0)]
                {
                    probes.push((from, to, Probe { proto, source: member.3[family], target, port }));
                }
            }
        }
    }
    probes
}

fn expected(host: &Host, from: usize, to: Option<usize>, probe: &Probe, now: &Moment) -> Verdict {
    let (source, destination): (IpAddr, IpAddr) =
        (probe.source.parse().unwrap(), probe.target.parse().unwrap());
    let (lane, number) = match (probe.proto, Family::of(source)) {
        ("tcp", _) => (Lane::Tcp, probe.port),
        ("udp", _) => (Lane::Udp, probe.port),
        (_, Family::V4) => (Lane::Icmp4, 8 << 8),
        (_, Family::V6) => (Lane::Icmp6, 128 << 8),
    };
    let flow = Flow { source, destination, lane, number };
    let (from, to) = (Some(MEMBERS[from].1), to.map(|to| MEMBERS[to].1));
    forward(host, &Transit { from, to, flow, is_reply: false, state: State::New }, now)
}

fn host(policy: &Policy) -> Host {
    let ports = policy.vms.values().map(|vm| {
        let interface = vm.vm.interfaces[0].clone();
        (interface.port.clone().unwrap(), Port { policy: Arc::new(vm.clone()), interface })
    });
    Host { ports: ports.collect(), ..Host::default() }
}

#[test]
fn packets_of_random_policies_do_what_the_evaluator_says() -> Result<()> {
    compare(&World::new()?, &probes(), POLICIES, false)
}

/// Tries all probes under so many policies. A bridge cannot answer for a packet that it refuses.
pub(crate) fn compare(world: &World, probes: &[Tried], policies: usize, is_silent: bool) -> Result<()> {
    let config = Config { rng_seed: RngSeed::Fixed(20_261_121), ..Config::default() };
    let mut runner = TestRunner::new(config);
    let strategy = random::policies(Menu { with_conditions: false });
    let mut passed = 0;
    for _ in 0..policies {
        let text = strategy.new_tree(&mut runner).expect("a policy").current();
        let host = host(&random::resolve(&text));
        world.apply(&text)?;
        let now = Moment::at(Timestamp::now());
        let mut running = Vec::new();
        for (index, member) in MEMBERS.iter().enumerate() {
            let of_member: Vec<_> = probes.iter().filter(|(from, ..)| *from == index).collect();
            let wanted: Vec<Probe> = of_member.iter().map(|(_, _, probe)| *probe).collect();
            running.push((of_member, world.start_probes(member.0, &wanted, "0.5")?));
        }
        for (of_member, child) in running {
            for ((from, to, probe), seen) in of_member.into_iter().zip(results(child)?) {
                let verdict = expected(&host, *from, *to, probe, &now);
                let right = match (verdict, probe.proto) {
                    (Verdict::Allow, _) => seen == "open",
                    (Verdict::Deny, _) => seen == "timeout",
                    (Verdict::Reject, _) if is_silent => seen == "timeout",
                    (Verdict::Reject, "tcp" | "udp") => seen == "refused",
                    (Verdict::Reject, _) => seen != "open",
                };
                ensure!(right, "{probe:?}: the evaluator says {verdict:?}, the kernel {seen}\n{text}");
                passed += usize::from(verdict == Verdict::Allow);
            }
        }
    }
    let all = probes.len() * policies;
    println!("{all} connections tried, {passed} let pass");
    // A test in which everything or nothing passes would prove nothing.
    ensure!(passed > all / 10 && passed < all * 9 / 10, "{passed} of {all} passed");
    Ok(())
}
