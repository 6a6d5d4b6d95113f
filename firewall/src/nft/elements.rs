//! Keys: what is looked up of a packet, and how a block of addresses and numbers stands in a set.

use super::model::{Expr, Statement, Types};
use crate::ir::{Block, Kind};
use lynceus_policy::{Direction, Family, IpRange, Lane};

impl Kind {
    /// `v4`, `v6-tcp`, …: part of a set's name.
    pub(super) fn name(self) -> String {
        let family = match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        match self.lane {
            None => family.to_owned(),
            Some(lane) => format!("{family}-{}", format!("{lane:?}").to_lowercase()),
        }
    }

    /// The types of a key of an address, and perhaps of a number.
    pub(super) fn types(self, with_number: bool) -> Types {
        let address = match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let lane = self.lane.filter(|_| with_number);
        let number = lane.map(|lane| if lane == Lane::Other { "inet_proto" } else { "inet_service" });
        Types::of(&[address].into_iter().chain(number).collect::<Vec<_>>())
    }

    /// Whether the packet is of this lane. nft wants to know before it reads the connection's ports.
    pub(super) fn is_lane(self) -> Vec<Statement> {
        let name = |lane| match lane {
            Lane::Tcp => "tcp",
            Lane::Udp => "udp",
            Lane::Sctp => "sctp",
            Lane::Icmp4 => "icmp",
            Lane::Icmp6 | Lane::Other => "ipv6-icmp",
        };
        let protocol = Expr::meta("l4proto");
        match self.lane {
            None => Vec::new(),
            Some(Lane::Other) => {
                let icmp = if self.family == Family::V4 { Lane::Icmp4 } else { Lane::Icmp6 };
                let others = [Lane::Tcp, Lane::Udp, Lane::Sctp, icmp].map(name);
                others.map(|other| Statement::is_not(protocol.clone(), Expr::text(other))).to_vec()
            }
            Some(lane) => vec![Statement::is(protocol, Expr::text(name(lane)))],
        }
    }

    /// The other end's address. The connection is read, not the packet: a reply is judged as the connection that it belongs to. A VM sees
    /// its own side of an address translation: what it sends before, what it gets behind; replies come from behind.
    pub(super) fn address(self, direction: Direction) -> Expr {
        let family = if self.family == Family::V4 { "ip" } else { "ip6" };
        let side = if direction == Direction::In { "saddr" } else { "daddr" };
        Expr::ct(&format!("{family} {side}"), Some("original"))
    }

    /// What for.
    pub(super) fn number(self, direction: Direction) -> Option<Expr> {
        self.lane.map(|lane| match (lane, direction) {
            (Lane::Other, _) => Expr::meta("l4proto"),
            (lane, Direction::In) if lane.has_ports() => Expr::ct("proto-src", Some("reply")),
            _ => Expr::ct("proto-dst", Some("original")),
        })
    }
}

/// An address, and a number where there is one: of a packet, or as a set's element.
pub(super) fn with_number(address: Expr, number: Option<Expr>) -> Expr {
    match number {
        Some(number) => Expr::Concat(vec![address, number]),
        None => address,
    }
}

/// A block as a set's element.
pub(super) fn element(block: &Block) -> Expr {
    with_number(addresses(&block.peers), block.numbers.map(|range| numbers(range.first, range.last)))
}

/// A stretch of numbers as nft writes it.
pub(super) fn numbers(first: u16, last: u16) -> Expr {
    if first == last {
        return Expr::Number(first.into());
    }
    Expr::Range(Box::new([first, last].map(|number| Expr::Number(number.into()))))
}

/// A stretch of addresses as nft writes it.
pub(super) fn addresses(range: &IpRange) -> Expr {
    if range.first() == range.last() {
        return Expr::text(range.first().to_string());
    }
    match range.prefix() {
        Some(len) if len > 0 => Expr::Prefix { addr: range.first().to_string(), len },
        _ => Expr::Range(Box::new([range.first(), range.last()].map(|at| Expr::text(at.to_string())))),
    }
}
