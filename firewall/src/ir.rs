//! Rules as the kernel likes them: per direction and tier a list of groups, each of which is one lookup in one set per kind of packet.
//!
//! Neighbouring rules that do the same, and of which no packet matches two, are one group: it does not matter which is asked first.

use lynceus_policy::{Direction, Family, IpRange, Lane, Rate, ServiceRange, Tier, Timestamp, Verdict};

/// Packets of one family and lane, to or from some addresses, for some numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Block {
    /// The other end.
    pub peers: IpRange,
    /// What for; everything where there is none.
    pub numbers: Option<ServiceRange>,
}

impl Block {
    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        self.peers.family()
    }

    /// The lane; none for all of them.
    pub fn lane(&self) -> Option<Lane> {
        self.numbers.map(|numbers| numbers.lane)
    }

    /// Whether a packet can be in both.
    pub fn overlaps(&self, other: &Block) -> bool {
        let numbers = match (self.numbers, other.numbers) {
            (Some(one), Some(two)) => one.lane == two.lane && one.first <= two.last && two.first <= one.last,
            _ => true,
        };
        numbers
            && self.family() == other.family()
            && self.peers.first() <= other.peers.last()
            && other.peers.first() <= self.peers.last()
    }
}

/// What a group does with what it matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// It decides.
    Decide(Verdict),
    /// The next tier decides.
    Pass,
    /// It only tells that it would have denied.
    Tell,
    /// Which process it is decides, and the host is asked for that.
    Ask,
}

/// One rule in a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The rule's id; its counter is named after it.
    pub rule: String,
    /// What it matches; everything where it has none and `is_everything` says so.
    pub blocks: Vec<Block>,
}

/// Neighbouring rules that do the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// What it does.
    pub act: Act,
    /// It matches every packet; its members have no blocks.
    pub is_everything: bool,
    /// From then on.
    pub from: Option<Timestamp>,
    /// Until then.
    pub until: Option<Timestamp>,
    /// So many at most.
    pub rate: Option<Rate>,
    /// Whether matches are logged.
    pub log: bool,
    /// The rules.
    pub members: Vec<Member>,
}

/// The groups of one tier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TierProgram {
    /// Whose.
    pub tier: Tier,
    /// In order.
    pub groups: Vec<Group>,
}

/// One direction of one VM. Tiers without groups are not there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// Which way.
    pub direction: Direction,
    /// In order.
    pub tiers: Vec<TierProgram>,
    /// What happens to the rest.
    pub default: Act,
    /// Whether what is denied, or would be, is logged.
    pub log_default: bool,
    /// Whether the default would deny, were it not in audit mode.
    pub default_would_deny: bool,
}

/// Everything for one VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmRules {
    /// The VM's name.
    pub vm: String,
    /// Both directions.
    pub programs: Vec<Program>,
}
