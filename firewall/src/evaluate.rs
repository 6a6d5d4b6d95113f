//! What a policy means: the reference that tests, plans and explanations use, and that the compiler is held against.
//!
//! *Does*: asks one rule after the other, and remembers why each did not match. *Never*: is clever.

use crate::names::address::is_private;
use crate::packet::Flow;
use crate::process::{Meant, Who, meant};
use lynceus_policy::{Action, Closed, Direction, Rule, Timestamp, Verdict, VmPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// What DNS names stand for, as this host's resolver said.
pub type Names = BTreeMap<String, BTreeSet<IpAddr>>;

/// All that a verdict depends on beside policy and packet.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The time.
    pub at: Timestamp,
    /// What names stand for. One that is not there matches nobody.
    pub names: Names,
    /// The rules, by id, whose rate is used up.
    pub exhausted: BTreeSet<String>,
    /// Which process of the VM whose rules are asked is behind the connection.
    pub who: Who,
}

impl Moment {
    /// A time at which no name is known, no rate used up and no process asked for.
    pub fn at(at: Timestamp) -> Moment {
        Moment { at, names: Names::new(), exhausted: BTreeSet::new(), who: Who::Unasked }
    }
}

/// Why a rule does not match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mismatch {
    /// The other end is somebody else.
    Peer,
    /// It is for something else.
    Service,
    /// It has expired.
    Expired,
    /// Its hours are others.
    OutsideHours,
    /// Its rate is used up.
    RateExceeded,
    /// It is about another process.
    Process,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mismatch::Peer => "another peer",
            Mismatch::Service => "another service",
            Mismatch::Expired => "it has expired",
            Mismatch::OutsideHours => "outside of its hours",
            Mismatch::RateExceeded => "its rate is used up",
            Mismatch::Process => "another process",
        })
    }
}

/// What came of asking a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It does not match.
    NotMatched(Mismatch),
    /// It matches, and its policy is in audit mode: it tells that it would have denied.
    WouldDeny,
    /// It matches and leaves it to the next tier.
    Passed,
    /// It matches and decides.
    Decided(Verdict),
    /// All but the process matches, and nobody has looked which one it is: the packet waits, or is dropped, until somebody has.
    Asks,
    /// All but the process matches, it is not known which one it is, and the rule decides what happens then.
    NotKnown(Verdict),
}

/// A rule that was asked.
#[derive(Clone, Debug)]
pub struct Step {
    /// The rule.
    pub rule: Arc<Rule>,
    /// What came of it.
    pub outcome: Outcome,
}

/// Who decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum By {
    /// A rule.
    Rule(Arc<Rule>),
    /// The default of this policy; of none where no policy has one.
    Default(Option<String>),
}

/// A verdict with all that led to it.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// Who decided.
    pub by: By,
    /// The rules that were asked, in order; the last may be the one that decided.
    pub steps: Vec<Step>,
    /// Whether something in audit mode would have denied it.
    pub would_deny: bool,
}

/// The addresses that a rule's names stand for. Private ones are opened only where the rule says so: whoever answers for a name elsewhere
/// could have it stand for a machine of this site.
pub fn named<'a>(rule: &'a Rule, known: &'a Names) -> impl Iterator<Item = IpAddr> + 'a {
    let all = rule.names.iter().filter_map(|name| known.get(name)).flatten().copied();
    all.filter(|address| takes(rule, *address))
}

/// The names of a rule that stand for private addresses which it does not take, and those.
pub fn withheld<'a>(rule: &'a Rule, known: &'a Names) -> impl Iterator<Item = (&'a str, IpAddr)> + 'a {
    let all = rule.names.iter().filter_map(|name| Some((name.as_str(), known.get(name)?)));
    let all = all.flat_map(|(name, addresses)| addresses.iter().map(move |address| (name, *address)));
    all.filter(|(_, address)| !takes(rule, *address))
}

fn takes(rule: &Rule, address: IpAddr) -> bool {
    rule.private || matches!(rule.action, Action::Deny | Action::Reject) || !is_private(address)
}

/// Judges a new connection by one VM's rules of one direction.
pub fn judge(policy: &VmPolicy, direction: Direction, flow: &Flow, moment: &Moment) -> Decision {
    let chain = policy.chain(direction);
    let mut steps: Vec<Step> = Vec::new();
    for tier in &chain.tiers {
        for rule in &tier.rules {
            let outcome = ask(rule, direction, flow, moment);
            steps.push(Step { rule: rule.clone(), outcome });
            match outcome {
                Outcome::NotMatched(_) | Outcome::WouldDeny => {}
                Outcome::Passed => break,
                Outcome::Decided(verdict) | Outcome::NotKnown(verdict) => {
                    return decided(verdict, By::Rule(rule.clone()), steps, false);
                }
                Outcome::Asks => return decided(Verdict::Deny, By::Rule(rule.clone()), steps, false),
            }
        }
    }
    let default = &chain.default;
    let would_deny = default.verdict != default.effective();
    decided(default.effective(), By::Default(default.policy.clone()), steps, would_deny)
}

/// Whether a connection comes to a rule about a process before another rule decides.
pub fn asks(policy: &VmPolicy, direction: Direction, flow: &Flow, moment: &Moment) -> bool {
    let unasked = Moment { who: Who::Unasked, ..moment.clone() };
    judge(policy, direction, flow, &unasked).steps.last().is_some_and(|step| step.outcome == Outcome::Asks)
}

fn decided(verdict: Verdict, by: By, steps: Vec<Step>, default_would_deny: bool) -> Decision {
    let would_deny = default_would_deny || steps.iter().any(|step| step.outcome == Outcome::WouldDeny);
    Decision { verdict, by, steps, would_deny }
}

fn ask(rule: &Rule, direction: Direction, flow: &Flow, moment: &Moment) -> Outcome {
    if let Some(mismatch) = mismatch(rule, direction, flow, moment) {
        return Outcome::NotMatched(mismatch);
    }
    match meant(rule, &moment.who) {
        Meant::Yes => {}
        Meant::No => return Outcome::NotMatched(Mismatch::Process),
        Meant::NotYet => return Outcome::Asks,
        Meant::Answer(verdict) if rule.audit && verdict != Verdict::Allow => return Outcome::WouldDeny,
        Meant::Answer(verdict) => return Outcome::NotKnown(verdict),
    }
    match rule.action {
        Action::Pass => Outcome::Passed,
        Action::Deny | Action::Reject if rule.audit => Outcome::WouldDeny,
        Action::Allow => Outcome::Decided(Verdict::Allow),
        Action::Deny => Outcome::Decided(Verdict::Deny),
        Action::Reject => Outcome::Decided(Verdict::Reject),
    }
}

fn mismatch(rule: &Rule, direction: Direction, flow: &Flow, moment: &Moment) -> Option<Mismatch> {
    let peer = flow.peer(direction);
    if !rule.peers.contains(peer) && !named(rule, &moment.names).any(|address| address == peer) {
        return Some(Mismatch::Peer);
    }
    if !rule.services.contains(flow.lane, flow.number) {
        return Some(Mismatch::Service);
    }
    match rule.schedule.check(moment.at) {
        Err(Closed::Expired) => return Some(Mismatch::Expired),
        Err(Closed::OutsideHours) => return Some(Mismatch::OutsideHours),
        Ok(()) => {}
    }
    if rule.rate.is_some() && moment.exhausted.contains(&rule.id) {
        return Some(Mismatch::RateExceeded);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use lynceus_policy::{Folder, Lane, Policy};

    const POLICY: &str = r#"
[vm.a]
[[vm.a.interface]]
mac = "52:54:00:00:00:01"
addresses = ["10.0.0.1", "fd00::1"]
[policy.platform]
tier = "platform"
vms = ["a"]
[[policy.platform.rule]]
name = "admin"
direction = "in"
action = "pass"
peer = { addresses = ["10.9.0.0/16"] }
[[policy.platform.rule]]
name = "no-telnet"
direction = "in"
action = "reject"
services = ["tcp/23"]
[policy.team]
vms = ["a"]
[[policy.team.rule]]
name = "temporary"
direction = "in"
action = "allow"
services = ["tcp/1000"]
expires = 2026-01-01T00:00:00Z
[[policy.team.rule]]
name = "limited"
direction = "in"
action = "allow"
services = ["tcp/1001"]
rate = "1/second"
[[policy.team.rule]]
name = "browser"
direction = "in"
action = "allow"
services = ["tcp/1002"]
process = { exe = "/usr/bin/firefox" }
[[policy.team.rule]]
name = "mirror"
direction = "in"
action = "allow"
peer = { names = ["deb.debian.org"] }
services = ["tcp/1003"]
[[policy.team.rule]]
name = "telnet"
direction = "in"
action = "allow"
services = ["tcp/23"]
"#;

    fn decide(from: &str, port: u16, change: impl FnOnce(&mut Moment)) -> (Verdict, String) {
        let folder = Folder::parse(vec![("p.toml".to_owned(), POLICY.to_owned())]).unwrap();
        let policy = Policy::of(&folder).unwrap();
        let destination = if from.contains(':') { "fd00::1" } else { "10.0.0.1" };
        let flow = Flow {
            source: from.parse().unwrap(),
            destination: destination.parse().unwrap(),
            lane: Lane::Tcp,
            number: port,
        };
        let mut moment = Moment::at(Timestamp(1_700_000_000));
        change(&mut moment);
        let decision = judge(&policy.vms["a"], Direction::In, &flow, &moment);
        let last = decision.steps.last().unwrap();
        (decision.verdict, format!("{} {:?}", last.rule.id, last.outcome))
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_pass_leaves_it_to_the_next_tier() {
        assert_eq!(
            decide("10.0.0.9", 23, |_| ()),
            (Verdict::Reject, "platform/no-telnet Decided(Reject)".to_owned())
        );
        assert_eq!(decide("10.9.0.9", 23, |_| ()), (Verdict::Allow, "team/telnet Decided(Allow)".to_owned()));
        assert_eq!(decide("fd00::9", 24, |_| ()).0, Verdict::Deny);
    }

    #[test]
    fn time_rate_process_and_name_are_asked() {
        assert_eq!(decide("::2", 1000, |_| ()).0, Verdict::Allow);
        assert_eq!(decide("::2", 1000, |moment| moment.at = Timestamp(1_800_000_000)).0, Verdict::Deny);
        assert_eq!(decide("::2", 1001, |_| ()).0, Verdict::Allow);
        let used_up = |moment: &mut Moment| moment.exhausted = BTreeSet::from(["team/limited".to_owned()]);
        assert_eq!(decide("::2", 1001, used_up).0, Verdict::Deny);
        assert_eq!(decide("::2", 1002, |_| ()).0, Verdict::Deny);
        assert_eq!(decide("::2", 1003, |_| ()).0, Verdict::Deny);
        let known = |moment: &mut Moment| {
            moment.names.insert("deb.debian.org".to_owned(), BTreeSet::from(["::2".parse().unwrap()]));
        };
        assert_eq!(decide("::2", 1003, known).0, Verdict::Allow);
    }
}
