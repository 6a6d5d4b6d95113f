//! Which lookups the blocks of a group take, and how they stand in sets.
//!
//! *Does*: sorts blocks by the length of their networks' prefixes and by their range of numbers, as tuple space search does (Srinivasan, Suri, Varghese,
//! SIGCOMM 1999): of each sort one value is looked up, in a hash table of some hundred bytes. Where there are too many sorts, all blocks are in
//! one set of intervals, which finds each in one lookup, but takes 97 KB of the kernel's memory for IPv4 and 289 KB for IPv6 however little is in it
//! (`nft_set_pipapo.c`: eight bits of a key at once, 256 buckets for them, each of 256 bits).
//!
//! *Trusts*: that no two blocks share a packet, as those of a group do not: which lookup comes first makes no difference then.

use super::elements::{element, numbers, with_number};
use super::model::{Expr, Statement, Types};
use crate::ir::{Block, Kind, Member};
use lynceus_policy::{Direction, Family};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// So many lookups in hash tables take about the time of two in sets of intervals.
const MAX_PROBES: usize = 8;

/// One lookup.
pub(super) struct Probe {
    /// What has to hold before.
    pub(super) before: Option<Statement>,
    /// What is looked up.
    pub(super) key: Expr,
    /// Its types.
    pub(super) kind: Types,
    /// Whether it is looked up among intervals.
    pub(super) is_interval: bool,
    /// In which elements, and the number of the member that each is of.
    pub(super) elements: Vec<(Expr, usize)>,
}

/// The lookups that find every block of some members, and nothing else.
pub(super) fn probes(kind: Kind, direction: Direction, members: &[Member]) -> Vec<Probe> {
    let numbered = members.iter().enumerate();
    let blocks: Vec<(usize, &Block)> = numbered
        .flat_map(|(number, member)| member.blocks.iter().map(move |block| (number, block)))
        .collect();
    match sorted(&blocks) {
        Some(sorts) => {
            sorts.into_iter().map(|(sort, elements)| sort.probe(kind, direction, elements)).collect()
        }
        None => vec![intervals(kind, direction, &blocks)],
    }
}

/// Blocks that are looked up by one value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Sort {
    prefix: u32,
    numbers: Numbers,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Numbers {
    /// All that there are.
    All,
    /// One, which is part of the value.
    One,
    /// From, to: a comparison of its own.
    Between(u16, u16),
}

/// The blocks by sort, as elements. None where there are too many sorts.
fn sorted(blocks: &[(usize, &Block)]) -> Option<BTreeMap<Sort, Vec<(Expr, usize)>>> {
    let mut sorts: BTreeMap<Sort, Vec<(Expr, usize)>> = BTreeMap::new();
    for (member, block) in blocks {
        let numbers = match block.numbers {
            None => Numbers::All,
            Some(range) if range.first == range.last => Numbers::One,
            Some(range) if range.first == 0 && range.last == range.lane.highest() => Numbers::All,
            Some(range) => Numbers::Between(range.first, range.last),
        };
        let number = block.numbers.filter(|_| numbers == Numbers::One);
        let number = number.map(|range| Expr::Number(range.first.into()));
        for (first, prefix) in block.peers.networks() {
            let value = with_number(Expr::text(first.to_string()), number.clone());
            sorts.entry(Sort { prefix, numbers }).or_default().push((value, *member));
            if sorts.len() > MAX_PROBES {
                return None;
            }
        }
    }
    Some(sorts)
}

impl Sort {
    fn probe(self, kind: Kind, direction: Direction, elements: Vec<(Expr, usize)>) -> Probe {
        let whole = kind.address(direction);
        let address = match mask(kind.family, self.prefix) {
            Some(mask) => Expr::And(Box::new([whole, Expr::text(mask)])),
            None => whole,
        };
        let number = kind.number(direction);
        let (before, number) = match self.numbers {
            Numbers::One => (None, number),
            Numbers::Between(first, last) => {
                (number.map(|number| Statement::is(number, numbers(first, last))), None)
            }
            Numbers::All => (None, None),
        };
        let kind = kind.types(self.numbers == Numbers::One);
        let key = with_number(address, number);
        Probe { before, key, kind, is_interval: false, elements }
    }
}

/// The bits of an address that a prefix of this length has; none where it has them all.
fn mask(family: Family, prefix: u32) -> Option<String> {
    match family {
        Family::V4 if prefix < 32 => Some(Ipv4Addr::from_bits(!(u32::MAX >> prefix)).to_string()),
        Family::V6 if prefix < 128 => Some(Ipv6Addr::from_bits(!(u128::MAX >> prefix)).to_string()),
        _ => None,
    }
}

/// All of them in one set.
fn intervals(kind: Kind, direction: Direction, blocks: &[(usize, &Block)]) -> Probe {
    Probe {
        before: None,
        key: with_number(kind.address(direction), kind.number(direction)),
        kind: kind.types(true),
        is_interval: true,
        elements: blocks.iter().map(|(member, block)| (element(block), *member)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lynceus_policy::{Lane, ServiceRange};

    fn probed(blocks: &[(&str, u16, u16)]) -> Vec<Probe> {
        let block = |(peers, first, last): &(&str, u16, u16)| {
            let numbers = Some(ServiceRange { lane: Lane::Tcp, first: *first, last: *last });
            Block { peers: peers.parse().unwrap(), numbers }
        };
        let blocks: Vec<_> = blocks.iter().map(block).collect();
        let kind = blocks[0].kind();
        probes(kind, Direction::In, &[Member { rule: "r".to_owned(), blocks }])
    }

    #[test]
    fn networks_of_one_length_are_one_lookup() {
        let probes = probed(&[("10.1.0.0/16", 80, 80), ("10.2.0.0/16", 443, 443), ("10.3.0.1", 22, 22)]);
        assert_eq!(probes.iter().map(|probe| probe.elements.len()).collect::<Vec<_>>(), [2, 1]);
        let masked = serde_json::to_string(&probes[0].key).unwrap();
        assert!(
            masked.contains(r#"{"&":[{"ct":{"key":"ip saddr","dir":"original"}},"255.255.0.0"]}"#),
            "{masked}"
        );
        assert!(!serde_json::to_string(&probes[1].key).unwrap().contains('&'));
        // Everything there is, has a mask without a bit: IPv4 and IPv6 stay apart by what is read.
        let all = probed(&[("::/0", 1000, 1000)]);
        assert!(serde_json::to_string(&all[0].key).unwrap().contains(r#""::""#));
        assert!(probed(&[("10.0.0.0/8", 0, u16::MAX)])[0].before.is_none());
    }

    #[test]
    fn too_many_sorts_are_one_set_of_intervals() {
        let ranges = |n: u16| (1..=n).map(|n| ("10.0.0.0/8", n * 100, n * 100 + 5)).collect::<Vec<_>>();
        let few = probed(&ranges(8));
        assert_eq!(few.len(), 8);
        assert!(few.iter().all(|probe| !probe.is_interval && probe.before.is_some()));
        let many = probed(&ranges(9));
        assert_eq!(many.len(), 1);
        assert!(many[0].is_interval && many[0].before.is_none());
        assert_eq!(many[0].elements.len(), 9);
    }
}
