//! All packets there are, in so few kinds that each can be asked about: within a cell no rule tells two packets apart.
//!
//! The ends of every rule's addresses and numbers cut the whole into cells. What holds for a cell's first packet holds for all of it.

use crate::evaluate::{Names, named};
use crate::packet::Flow;
use lynceus_policy::{AddressSet, Direction, Family, IpRange, Lane, Rule, ServiceRange};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Addresses of the other end, and numbers, between which no rule distinguishes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cell {
    /// The other end.
    pub peers: IpRange,
    /// What for.
    pub numbers: ServiceRange,
}

impl Cell {
    /// Its first packet, for a VM with this address.
    pub fn flow(&self, direction: Direction, own: IpAddr) -> Flow {
        let peer = self.peers.first();
        let (source, destination) = if direction == Direction::In { (peer, own) } else { (own, peer) };
        Flow { source, destination, lane: self.numbers.lane, number: self.numbers.first }
    }
}

/// The cells that some rules make.
#[derive(Clone, Debug)]
pub struct Grid {
    peers: Vec<IpRange>,
    numbers: Vec<ServiceRange>,
}

impl Grid {
    /// The grid of rules, which may be of several policies.
    pub fn of<'a>(rules: impl IntoIterator<Item = &'a Rule>, names: &Names) -> Grid {
        let mut addresses: BTreeSet<IpAddr> = Family::ALL.map(|family| IpRange::all(family).first()).into();
        let mut ports: BTreeSet<(Lane, u16)> = Lane::ALL.map(|lane| (lane, 0)).into();
        for rule in rules {
            let by_name: AddressSet = named(rule, names).map(IpRange::one).collect();
            for range in rule.peers.ranges().iter().chain(by_name.ranges()) {
                addresses.insert(range.first());
                addresses.extend(range.after());
            }
            for range in rule.services.ranges() {
                ports.insert((range.lane, range.first));
                ports.extend(
                    range.last.checked_add(1).filter(|n| *n <= range.lane.highest()).map(|n| (range.lane, n)),
                );
            }
        }
        Grid { peers: stretches(&addresses), numbers: numbers(&ports) }
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.peers.len().saturating_mul(self.numbers.len())
    }

    /// Whether there is none; there always is one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every cell.
    pub fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        self.peers.iter().flat_map(move |peers| {
            let of_family = self.numbers.iter().filter(move |numbers| numbers.lane.is_in(peers.family()));
            of_family.map(move |numbers| Cell { peers: *peers, numbers: *numbers })
        })
    }
}

fn stretches(starts: &BTreeSet<IpAddr>) -> Vec<IpRange> {
    let everything = AddressSet::everything();
    let mut stretches = Vec::with_capacity(starts.len());
    for (start, next) in starts.iter().zip(starts.iter().skip(1).map(Some).chain([None])) {
        let whole = IpRange::all(Family::of(*start));
        let next = next.filter(|next| Family::of(**next) == whole.family());
        let rest: AddressSet = format!("{start}-{}", whole.last()).parse::<IpRange>().into_iter().collect();
        let behind = next.and_then(|next| format!("{next}-{}", whole.last()).parse::<IpRange>().ok());
        let stretch = rest.minus(&behind.into_iter().collect());
        stretches.extend(stretch.ranges());
    }
    debug_assert_eq!(stretches.iter().copied().collect::<AddressSet>(), everything);
    stretches
}

fn numbers(starts: &BTreeSet<(Lane, u16)>) -> Vec<ServiceRange> {
    let nexts = starts.iter().skip(1).map(Some).chain([None]);
    let range = |((lane, first), next): (&(Lane, u16), Option<&(Lane, u16)>)| {
        let last = next.filter(|(of, _)| of == lane).map_or(lane.highest(), |(_, n)| n.saturating_sub(1));
        ServiceRange { lane: *lane, first: *first, last }
    };
    starts.iter().zip(nexts).map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lynceus_policy::{Folder, Policy};

    #[test]
    fn cells_cover_everything_once() {
        let text = r#"
[vm.a]
[policy.a]
vms = ["a"]
[[policy.a.rule]]
direction = "in"
action = "allow"
peer = { addresses = ["10.0.0.0/8", "fd00::5-fd00::9", "255.255.255.255"] }
services = ["tcp/80-90", "udp/65535", "icmp/echo-request"]
"#;
        let policy = Policy::of(&Folder::parse(vec![("a".to_owned(), text.to_owned())]).unwrap()).unwrap();
        let rules: Vec<_> = policy.vms["a"].rules().cloned().collect();
        let grid = Grid::of(rules.iter().map(AsRef::as_ref), &Names::new());
        let peers: AddressSet = grid.peers.iter().copied().collect();
        assert!(peers.is_everything());
        assert!(grid.numbers.iter().copied().collect::<lynceus_policy::ServiceSet>().is_everything());
        assert_eq!(grid.peers.len(), 4 + 3);
        for cell in grid.cells() {
            for rule in &rules {
                assert_eq!(rule.peers.contains(cell.peers.first()), rule.peers.contains(cell.peers.last()));
            }
        }
    }
}
