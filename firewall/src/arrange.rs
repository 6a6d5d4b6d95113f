//! Which rules are looked up together, and in which order.
//!
//! The order of two rules matters only where a packet matches both. So a rule moves up into an earlier group that does the same, over all
//! groups that it shares no packet with: of rules that do not overlap, one lookup is left for each thing that they do, however they alternate.
//! Where they do overlap, and many groups would stand in a row, a rule is cut: what rules before it decide is taken out of it, and then it
//! shares no packet with them.
//!
//! *Never*: changes which rule a packet meets, or in which order those meet it that only tell, or match at times.

use crate::cover::Cover;
use crate::ir::{Act, Block, Group, Member};
use lynceus_policy::{AddressSet, IpRange, ServiceRange};

/// Below so many lookups in a row for one kind of packet rules stay as they are written: a lookup less is not worth a rule that nobody
/// recognises.
const MANY: usize = 8;
/// A rule is cut into so many pieces at most, beside four for each block of it. What is in more pieces makes the set of its group large.
const MAX_PIECES: usize = 16;
/// So many cuts for each of those pieces: what was cut much before is not cut for ever.
const MAX_CUTS: usize = 16;

/// Puts parts of rules, each of one rule and one kind, into groups.
pub(crate) fn arrange(parts: impl Iterator<Item = Group>) -> Vec<Group> {
    let mut all: Vec<Placed> = Vec::new();
    parts.for_each(|part| place(&mut all, part));
    all.into_iter().map(|placed| placed.group).collect()
}

/// A group, and what its members match together.
struct Placed {
    group: Group,
    cover: Cover,
}

fn place(all: &mut Vec<Placed>, mut part: Group) {
    let behind = all.iter().rposition(|other| other.meets(&part)).map_or(0, |last| last.saturating_add(1));
    let mut place = (behind..all.len()).find(|at| all.get(*at).is_some_and(|other| other.takes(&part)));
    if place.is_none()
        && let Some((at, member)) = cut(all, &part)
    {
        part.members = vec![member];
        place = Some(at);
    }
    match place.and_then(|at| all.get_mut(at)) {
        Some(group) => group.take(part.members),
        None => {
            let members = std::mem::take(&mut part.members);
            let mut placed = Placed { group: part, cover: Cover::default() };
            placed.take(members);
            all.push(placed);
        }
    }
}

impl Placed {
    fn take(&mut self, members: Vec<Member>) {
        members.iter().flat_map(|member| &member.blocks).for_each(|block| self.cover.add(block));
        self.group.members.extend(members);
    }

    /// Whether a packet can match both.
    fn meets(&self, part: &Group) -> bool {
        let (Some(own), Some(kind)) = (self.group.kind, part.kind) else { return true };
        let mut blocks = part.members.iter().flat_map(|member| &member.blocks);
        own.meets(kind) && blocks.any(|block| self.cover.meeting(block).is_some())
    }

    /// Whether a part can be looked up together with its members, if it shares no packet with them.
    fn takes(&self, part: &Group) -> bool {
        let like = |group: &Group| (group.act, group.kind, group.from, group.until, group.log);
        // Each rate is a limit of its own.
        let is_one_of_many = |group: &Group| group.rate.is_none() && group.kind.is_some();
        like(&self.group) == like(part) && is_one_of_many(&self.group) && is_one_of_many(part)
    }

    /// Whether no packet that it matches comes to what stands behind it.
    fn is_final(&self) -> bool {
        let Group { act, from, until, rate, .. } = &self.group;
        *act != Act::Tell && from.is_none() && until.is_none() && rate.is_none()
    }
}

/// Where a part can go if what is decided before it is taken out of it, and what is left of it then. It goes into the last group that does the same:
/// the least has to be taken out.
fn cut(all: &[Placed], part: &Group) -> Option<(usize, Member)> {
    let kind = part.kind?;
    let concerns = |other: &&Placed| other.group.kind.is_none_or(|own| own.meets(kind));
    if all.iter().filter(concerns).count() < MANY {
        return None;
    }
    let at = all.iter().rposition(|other| other.takes(part))?;
    let behind: Vec<&Placed> = all.get(at..)?.iter().filter(concerns).collect();
    let member = part.members.first()?;
    let blocks = rest(&member.blocks, &behind)?;
    Some((at, Member { rule: member.rule.clone(), blocks }))
}

/// Blocks without what groups decide. None where there is something that does not decide, or where it would come to too many pieces.
fn rest(blocks: &[Block], groups: &[&Placed]) -> Option<Vec<Block>> {
    let limit = blocks.len().saturating_mul(4).saturating_add(MAX_PIECES);
    let (mut open, mut pieces) = (blocks.to_vec(), Vec::new());
    for _ in 0..limit.saturating_mul(MAX_CUTS) {
        let Some(block) = open.pop() else {
            pieces.sort();
            return Some(pieces);
        };
        let met = groups.iter().find_map(|group| Some((group, group.cover.meeting(&block)?)));
        match met {
            None => pieces.push(block),
            Some((group, met)) if group.is_final() => open.extend(without(&block, met)?),
            Some(_) => return None,
        }
        if open.len().saturating_add(pieces.len()) > limit {
            return None;
        }
    }
    None
}

/// What is left of a block without another one that shares packets with it; none where that is no block of the same kind.
fn without(block: &Block, other: &Block) -> Option<Vec<Block>> {
    let (beside, shared) = match (block.numbers, other.numbers) {
        (None, Some(_)) => return None,
        (numbers, None) => (Vec::new(), numbers),
        (Some(own), Some(gone)) => {
            let lane = own.lane;
            let below = gone.first.checked_sub(1).map(|last| ServiceRange { lane, first: own.first, last });
            let above = gone.last.checked_add(1).map(|first| ServiceRange { lane, first, last: own.last });
            let beside = [below, above].into_iter().flatten().filter(|range| range.first <= range.last);
            let (first, last) = (own.first.max(gone.first), own.last.min(gone.last));
            (beside.collect(), Some(ServiceRange { lane, first, last }))
        }
    };
    let set = |range: IpRange| -> AddressSet { [range].into_iter().collect() };
    let peers = set(block.peers).minus(&set(other.peers));
    let beside = beside.into_iter().map(|range| Block { peers: block.peers, numbers: Some(range) });
    Some(beside.chain(peers.ranges().iter().map(|peers| Block { peers: *peers, numbers: shared })).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lynceus_policy::Verdict;

    /// One rule for each line: what it does, whose packets, the first port and the last.
    fn arranged(rules: &[(Act, &str, u16, u16)]) -> Vec<Group> {
        let part = |(number, (act, peers, first, last)): (usize, &(Act, &str, u16, u16))| {
            let numbers = Some(ServiceRange { lane: lynceus_policy::Lane::Tcp, first: *first, last: *last });
            let block = Block { peers: peers.parse().unwrap(), numbers };
            let members = vec![Member { rule: number.to_string(), blocks: vec![block] }];
            let (kind, log) = (Some(block.kind()), *act == Act::Tell);
            Group { act: *act, kind, from: None, until: None, rate: None, log, members }
        };
        arrange(rules.iter().enumerate().map(part))
    }

    fn of(groups: &[Group]) -> Vec<Vec<&str>> {
        let rules = |group: &'_ Group| group.members.len();
        assert!(groups.iter().all(|group| rules(group) > 0));
        groups.iter().map(|group| group.members.iter().map(|member| &*member.rule).collect()).collect()
    }

    const ALLOW: Act = Act::Decide(Verdict::Allow);
    const DENY: Act = Act::Decide(Verdict::Deny);

    #[test]
    fn rules_that_share_no_packet_are_together_however_they_alternate() {
        let rules: Vec<_> =
            (0..5000).map(|n| (if n % 5 == 4 { DENY } else { ALLOW }, "10.0.0.0/8", n, n)).collect();
        let groups = arranged(&rules);
        assert_eq!(groups.iter().map(|group| group.members.len()).collect::<Vec<_>>(), [4000, 1000]);
        // Those that only tell, too.
        let rules: Vec<_> = (0..100)
            .map(|n: u16| (if n.is_multiple_of(2) { Act::Tell } else { ALLOW }, "10.0.0.0/8", n, n))
            .collect();
        assert_eq!(arranged(&rules).len(), 2);
        // The same ports, other peers.
        let rules = [(ALLOW, "10.0.0.1", 1, 9), (DENY, "10.0.0.2", 1, 9), (ALLOW, "10.0.0.3", 5, 5)];
        assert_eq!(of(&arranged(&rules)), [vec!["0", "2"], vec!["1"]]);
    }

    #[test]
    fn rules_that_share_packets_stay_in_order() {
        let rules = [(DENY, "10.0.0.1", 80, 80), (ALLOW, "10.0.0.0/8", 1, 90), (DENY, "10.0.0.2", 9, 99)];
        assert_eq!(of(&arranged(&rules)), [["0"], ["1"], ["2"]]);
        // The second of two that do the same has hits of its own, and only those that the first leaves.
        let rules = [(ALLOW, "10.0.0.0/8", 80, 80), (ALLOW, "10.0.0.0/9", 1, 80)];
        assert_eq!(of(&arranged(&rules)), [["0"], ["1"]]);
        // Nobody jumps over what only tells.
        let rules = [(ALLOW, "10.0.0.1", 1, 1), (Act::Tell, "10.0.0.0/8", 2, 9), (ALLOW, "10.0.0.1", 9, 9)];
        assert_eq!(of(&arranged(&rules)), [["0"], ["1"], ["2"]]);
    }

    #[test]
    fn many_that_overlap_are_cut_into_few_groups() {
        let nested =
            |n: u16| (if n.is_multiple_of(2) { ALLOW } else { DENY }, "10.0.0.0/8", 1000 - n, 1000 + n);
        let rules: Vec<_> = (0..500).map(nested).collect();
        let groups = arranged(&rules);
        assert!(groups.len() <= 3 * MANY, "{}", groups.len());
        assert_eq!(groups.iter().map(|group| group.members.len()).sum::<usize>(), 500);
        let covers: Vec<Cover> = groups
            .iter()
            .map(|group| {
                let mut cover = Cover::default();
                for block in group.members.iter().flat_map(|member| &member.blocks) {
                    assert!(cover.meeting(block).is_none(), "two of one group share packets");
                    cover.add(block);
                }
                cover
            })
            .collect();
        // Whoever comes first decides: the innermost that has the port.
        for port in 501..1500u16 {
            let numbers = Some(ServiceRange { lane: lynceus_policy::Lane::Tcp, first: port, last: port });
            let packet = Block { peers: "10.9.9.9".parse().unwrap(), numbers };
            let first = covers.iter().position(|cover| cover.meeting(&packet).is_some()).unwrap();
            let wanted = nested(port.abs_diff(1000)).0;
            assert_eq!(groups[first].act, wanted, "{port}");
        }
    }

    #[test]
    fn what_rules_before_decide_is_nothing_of_a_rule_behind() {
        let mut rules: Vec<_> = (0..20)
            .map(|n: u16| (if n.is_multiple_of(2) { ALLOW } else { DENY }, "10.0.0.0/8", 1, 100 + n))
            .collect();
        rules.push((ALLOW, "10.0.0.7", 5, 50));
        let groups = arranged(&rules);
        let last = groups.iter().flat_map(|group| &group.members).find(|member| member.rule == "20").unwrap();
        assert!(last.blocks.is_empty(), "{last:?}");
    }
}
