//! Connections judged from end to end: what tests, plans and explanations ask.

use crate::evaluate::{Decision, Moment, judge};
use crate::packet::Flow;
use crate::process::{Process, Who};
use lynceus_policy::{Direction, End, Family, Policy, Test, Verdict, VmPolicy};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A VM's rules that a connection must pass.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The VM.
    pub vm: String,
    /// Which way the connection goes, seen from it.
    pub direction: Direction,
    /// What its rules say.
    pub decision: Decision,
}

/// Which VM has which address.
pub fn owners(vms: &BTreeMap<String, VmPolicy>) -> BTreeMap<IpAddr, &VmPolicy> {
    vms.values().flat_map(|policy| policy.vm.addresses().map(move |address| (address, policy))).collect()
}

/// Judges a connection by the rules of the VM that it comes from and of the one that it goes to.
pub fn connection(owners: &BTreeMap<IpAddr, &VmPolicy>, flow: &Flow, moment: &Moment) -> Vec<Judged> {
    let ends = [(Direction::Out, flow.source), (Direction::In, flow.destination)];
    let of_end = |(direction, address): (Direction, IpAddr)| {
        let policy = owners.get(&address)?;
        let decision = judge(policy, direction, flow, moment);
        Some(Judged { vm: policy.vm.name.clone(), direction, decision })
    };
    ends.into_iter().filter_map(of_end).collect()
}

/// What happens to the connection: the first VM that refuses decides.
pub fn verdict(judged: &[Judged]) -> Verdict {
    let refused = judged.iter().map(|one| one.decision.verdict).find(|verdict| *verdict != Verdict::Allow);
    refused.unwrap_or(Verdict::Allow)
}

/// A flow that did not do what the test says.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The flow.
    pub flow: Flow,
    /// What happens to it.
    pub verdict: Verdict,
    /// By whose rules.
    pub judged: Vec<Judged>,
}

/// What came of a test.
#[derive(Clone, Debug)]
pub struct TestResult {
    /// How many flows it stands for; one that stands for none fails.
    pub flows: usize,
    /// Those that did not do what it says.
    pub failures: Vec<Failure>,
}

impl TestResult {
    /// Whether all is as it should be.
    pub fn is_passed(&self) -> bool {
        self.flows > 0 && self.failures.is_empty()
    }
}

/// Runs a test of the policy.
pub fn run(policy: &Policy, owners: &BTreeMap<IpAddr, &VmPolicy>, test: &Test, now: &Moment) -> TestResult {
    let who = test.process.as_ref().map_or(Who::Unasked, |process| Who::Known(vec![Process::of(process)]));
    let moment = Moment { at: test.at.unwrap_or(now.at), who, ..now.clone() };
    let flows = flows(policy, test);
    let judge = |flow: &Flow| {
        let judged = connection(owners, flow, &moment);
        Failure { flow: *flow, verdict: verdict(&judged), judged }
    };
    let failures = flows.iter().map(judge).filter(|failure| failure.verdict != test.expect).collect();
    TestResult { flows: flows.len(), failures }
}

/// Every flow that a test, or an explanation, stands for: each address of one end with each of the other of the same family.
pub fn flows(policy: &Policy, test: &Test) -> Vec<Flow> {
    let addresses = |end: &End| match end {
        End::Address(address) => vec![*address],
        End::Vm(name) => policy.vms.get(name).map(|vm| vm.vm.addresses().collect()).unwrap_or_default(),
    };
    let mut flows = Vec::new();
    for source in addresses(&test.from) {
        for destination in addresses(&test.to) {
            let family = Family::of(source);
            if family != Family::of(destination) {
                continue;
            }
            let ranges = test.services.iter().filter(|range| range.lane.is_in(family));
            flows.extend(ranges.map(|range| Flow {
                source,
                destination,
                lane: range.lane,
                number: range.first,
            }));
        }
    }
    flows
}
