//! From a VM's policy to [`ir`](crate::ir): pure and deterministic.
//!
//! *Does*: puts in what is known at the moment (names, the next stretch of time in which a rule holds) and groups rules.
//! *Never*: changes which rule decides; property tests hold it to that.

use crate::evaluate::{Moment, named};
use crate::ir::{Act, Block, Group, Member, Program, TierProgram, VmRules};
use lynceus_policy::{
    Action, AddressSet, Chain, Direction, Family, IpRange, Rule, ServiceRange, TierRules, Verdict, VmPolicy,
};

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
    let mut groups: Vec<Group> = Vec::new();
    for group in tier.rules.iter().filter_map(|rule| group(rule, moment)) {
        match groups.last_mut() {
            Some(last) if can_join(last, &group) => last.members.extend(group.members),
            _ => groups.push(group),
        }
    }
    groups
}

/// A rule as a group of its own; none when it matches nothing from now on.
fn group(rule: &Rule, moment: &Moment) -> Option<Group> {
    let act = match rule.action {
        _ if rule.process.is_some() => Act::Ask,
        Action::Pass => Act::Pass,
        Action::Deny | Action::Reject if rule.audit => Act::Tell,
        action => Act::Decide(action.verdict()?),
    };
    let (from, until) = rule.schedule.next_window(moment.at)?;
    let peers = rule.peers.union(&named(rule, &moment.names).map(IpRange::one).collect());
    let is_everything = peers.is_everything() && rule.services.is_everything();
    let blocks = if is_everything { Vec::new() } else { blocks(&peers, rule) };
    if blocks.is_empty() && !is_everything {
        return None;
    }
    let members = vec![Member { rule: rule.id.clone(), blocks }];
    Some(Group {
        act,
        is_everything,
        from,
        until,
        rate: rule.rate,
        // Whoever answers tells of the connection, with its process.
        log: act != Act::Ask && (rule.log || act == Act::Tell),
        members,
    })
}

/// Every stretch of addresses with every stretch of numbers. Both are disjoint, and so are the blocks.
fn blocks(peers: &AddressSet, rule: &Rule) -> Vec<Block> {
    let services: Vec<Option<ServiceRange>> = if rule.services.is_everything() {
        vec![None]
    } else {
        rule.services.ranges().iter().copied().map(Some).collect()
    };
    let mut blocks = Vec::new();
    for family in Family::ALL {
        for numbers in services.iter().filter(|numbers| numbers.is_none_or(|range| range.lane.is_in(family)))
        {
            blocks.extend(peers.of(family).map(|peers| Block { peers: *peers, numbers: *numbers }));
        }
    }
    blocks
}

/// Whether a group can take another in: they do the same under the same conditions, are looked up alike, and share no packet.
fn can_join(group: &Group, next: &Group) -> bool {
    let is_plain = |group: &Group| {
        group.rate.is_none()
            && !group.log
            && group.from.is_none()
            && group.until.is_none()
            && !group.is_everything
    };
    let takes_all = |group: &Group| {
        group.members.iter().flat_map(|member| &member.blocks).any(|block| block.numbers.is_none())
    };
    let mine = || group.members.iter().flat_map(|member| &member.blocks);
    group.act == next.act
        && is_plain(group)
        && is_plain(next)
        && takes_all(group) == takes_all(next)
        && next
            .members
            .iter()
            .flat_map(|member| &member.blocks)
            .all(|new| mine().all(|old| !old.overlaps(new)))
}
