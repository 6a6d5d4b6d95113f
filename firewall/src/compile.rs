//! From a VM's policy to [`ir`](crate::ir): pure and deterministic.
//!
//! *Does*: puts in what is known at the moment (names, the next stretch of time in which a rule holds) and groups rules.
//! *Never*: changes which rule decides; property tests hold it to that.

use crate::arrange::arrange;
use crate::evaluate::{Moment, named};
use crate::ir::{Act, Block, Group, Kind, Member, Program, TierProgram, VmRules};
use lynceus_policy::{
    Action, AddressSet, Chain, Direction, Family, IpRange, Rule, ServiceRange, TierRules, Verdict, VmPolicy,
};
use std::collections::BTreeMap;

/// Compiles one VM's policy for a moment, and for all moments until a rule with hours opens or closes a second time.
pub fn compile(policy: &VmPolicy, moment: &Moment) -> VmRules {
    let program = |direction| program(policy.chain(direction), direction, moment);
    VmRules { vm: policy.vm.name.clone(), programs: Direction::ALL.map(program).to_vec() }
}

fn program(chain: &Chain, direction: Direction, moment: &Moment) -> Program {
    let tiers = chain.tiers.iter().map(|tier| TierProgram { tier: tier.tier, groups: groups(tier, moment) });
    let default = &chain.default;
    Program {
        direction,
        tiers: tiers.filter(|tier| !tier.groups.is_empty()).collect(),
        default: Act::Decide(default.effective()),
        log_default: default.log && default.verdict != Verdict::Allow,
        default_would_deny: default.verdict != default.effective(),
    }
}

fn groups(tier: &TierRules, moment: &Moment) -> Vec<Group> {
    arrange(tier.rules.iter().flat_map(|rule| parts(rule, moment)))
}

/// A rule as groups of its own, one for each kind of packets; none when it matches nothing from now on.
fn parts(rule: &Rule, moment: &Moment) -> Vec<Group> {
    let act = match (rule.action, rule.action.verdict()) {
        _ if rule.process.is_some() => Act::Ask,
        (Action::Deny | Action::Reject, _) if rule.audit => Act::Tell,
        (_, Some(verdict)) => Act::Decide(verdict),
        (_, None) => Act::Pass,
    };
    let Some((from, until)) = rule.schedule.next_window(moment.at) else { return Vec::new() };
    let part = |kind, blocks| Group {
        act,
        kind,
        from,
        until,
        rate: rule.rate,
        // Whoever answers tells of the connection, with its process.
        log: act != Act::Ask && (rule.log || act == Act::Tell),
        members: vec![Member { rule: rule.id.clone(), blocks }],
    };
    let peers = rule.peers.union(&named(rule, &moment.names).map(IpRange::one).collect());
    if peers.is_everything() && rule.services.is_everything() {
        return vec![part(None, Vec::new())];
    }
    blocks(&peers, rule).into_iter().map(|(kind, blocks)| part(Some(kind), blocks)).collect()
}

/// Every stretch of addresses with every stretch of numbers, by their kinds. Both are disjoint, and so are the blocks.
fn blocks(peers: &AddressSet, rule: &Rule) -> BTreeMap<Kind, Vec<Block>> {
    let services: Vec<Option<ServiceRange>> = if rule.services.is_everything() {
        vec![None]
    } else {
        rule.services.ranges().iter().copied().map(Some).collect()
    };
    let mut blocks: BTreeMap<Kind, Vec<Block>> = BTreeMap::new();
    for family in Family::ALL {
        for numbers in services.iter().filter(|numbers| numbers.is_none_or(|range| range.lane.is_in(family)))
        {
            for block in peers.of(family).map(|peers| Block { peers: *peers, numbers: *numbers }) {
                blocks.entry(block.kind()).or_default().push(block);
            }
        }
    }
    blocks
}
