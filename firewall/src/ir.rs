//! Rules as the kernel likes them: per direction and tier a list of groups, each of which is one lookup in one set.
//!
//! A rule is in as many groups as there are kinds of packets that it is about. Which rules are together is for [`crate::arrange`] to say.

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

    /// What it is looked up by.
    pub fn kind(&self) -> Kind {
        Kind { family: self.family(), lane: self.numbers.map(|numbers| numbers.lane) }
    }
}

/// Packets that are looked up alike: one family, one lane or all of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Kind {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The lane; none for all of them.
    pub lane: Option<Lane>,
}

impl Kind {
    /// Whether a packet can be of both.
    pub fn meets(self, other: Kind) -> bool {
        self.family == other.family
            && (self.lane.is_none() || other.lane.is_none() || self.lane == other.lane)
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
    /// What it matches of the group's kind; nothing of its own where the group matches every packet.
    pub blocks: Vec<Block>,
}

/// Rules that do the same, and of which no packet matches two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// What it does.
    pub act: Act,
    /// Which packets are looked up; none where it matches every packet there is, and then its members have no blocks.
    pub kind: Option<Kind>,
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
