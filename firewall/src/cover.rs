//! What some blocks cover together: finds one that shares packets with another block, without looking at them all.
//!
//! *Does*: keeps blocks of which no two share a packet, sorted by their numbers and then by their addresses, apart by how wide their
//! numbers are: among stretches of one width, only those that begin shortly before a block can reach into it. *Never*: asked about a packet;
//! it is the compiler's.

use crate::ir::Block;
use lynceus_policy::{Family, Lane};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;

/// A block's numbers on one line, on which lane follows lane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Stretch {
    first: u32,
    last: u32,
}

impl Stretch {
    fn of(block: &Block) -> Stretch {
        const OF_A_LANE: u32 = 1 << 16;
        match block.numbers {
            None => Stretch { first: 0, last: Lane::ALL.len() as u32 * OF_A_LANE - 1 },
            Some(range) => {
                let at = |number: u16| range.lane as u32 * OF_A_LANE + u32::from(number);
                Stretch { first: at(range.first), last: at(range.last) }
            }
        }
    }

    /// Stretches of one class are at least as wide as two to its power, and less than twice as wide.
    fn class(self) -> u32 {
        (self.last - self.first + 1).ilog2()
    }
}

/// Sorts blocks: what is kept apart, numbers, the first address.
type Key = (Family, u32, Stretch, IpAddr);

/// Blocks of which no two share a packet.
#[derive(Clone, Default, Debug)]
pub(crate) struct Cover {
    blocks: BTreeMap<Key, Block>,
    classes: BTreeSet<(Family, u32)>,
}

const LOWEST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const HIGHEST: IpAddr = IpAddr::V6(Ipv6Addr::new(!0, !0, !0, !0, !0, !0, !0, !0));

impl Cover {
    /// Takes another block in, which shares no packet with those that are there.
    pub(crate) fn add(&mut self, block: &Block) {
        let numbers = Stretch::of(block);
        let (family, class) = (block.family(), numbers.class());
        self.classes.insert((family, class));
        self.blocks.insert((family, class, numbers, block.peers.first()), *block);
    }

    /// One of its blocks that shares packets with this one; of those with the widest numbers, if there are several.
    pub(crate) fn meeting(&self, block: &Block) -> Option<&Block> {
        let family = block.family();
        let classes = self.classes.range((family, 0)..=(family, u32::MAX));
        classes.rev().find_map(|(_, class)| self.meeting_in(*class, block))
    }

    fn meeting_in(&self, class: u32, block: &Block) -> Option<&Block> {
        let (family, wanted) = (block.family(), Stretch::of(block));
        let reach = wanted.first.saturating_sub((2 << class) - 1);
        let mut from = Bound::Included((family, class, Stretch { first: reach, last: 0 }, LOWEST));
        let end = (family, class, Stretch { first: wanted.last, last: u32::MAX }, HIGHEST);
        while let Some(((.., numbers, _), _)) = self.blocks.range((from, Bound::Included(end))).next() {
            if numbers.last >= wanted.first {
                // Those with the same numbers share no address: only the last that does not begin behind this one can reach into it.
                let start = (family, class, *numbers, LOWEST);
                let last = self.blocks.range(start..=(family, class, *numbers, block.peers.last()));
                let found = last.last().map(|(_, found)| found);
                if let Some(found) = found.filter(|found| found.peers.last() >= block.peers.first()) {
                    return Some(found);
                }
            }
            from = Bound::Excluded((family, class, *numbers, HIGHEST));
        }
        None
    }
}
