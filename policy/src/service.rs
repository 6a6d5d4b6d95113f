//! What a packet is for: protocol and port, or protocol and ICMP type.
//!
//! A *lane* is a protocol with numbers of its own: the port of TCP, UDP and SCTP, type and code of ICMP (`type << 8 | code`), the
//! protocol's number for all others. `icmp/echo-request` is both ICMP and ICMPv6: IPv4 and IPv6 are treated alike.

use crate::error::ParseError;
use crate::net::Family;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A protocol with numbers of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// TCP, by destination port.
    Tcp,
    /// UDP, by destination port.
    Udp,
    /// SCTP, by destination port.
    Sctp,
    /// ICMP, by `type << 8 | code`.
    Icmp4,
    /// ICMPv6, by `type << 8 | code`.
    Icmp6,
    /// Every other protocol, by its number.
    Other,
}

impl Lane {
    /// All of them.
    pub const ALL: [Lane; 6] = [Lane::Tcp, Lane::Udp, Lane::Sctp, Lane::Icmp4, Lane::Icmp6, Lane::Other];

    /// The lane of an IP protocol's number.
    pub fn of(family: Family, protocol: u8) -> Lane {
        match (protocol, family) {
            (6, _) => Lane::Tcp,
            (17, _) => Lane::Udp,
            (132, _) => Lane::Sctp,
            (1, Family::V4) => Lane::Icmp4,
            (58, Family::V6) => Lane::Icmp6,
            _ => Lane::Other,
        }
    }

    /// The protocol's number; none for [`Lane::Other`].
    pub fn protocol(self) -> Option<u8> {
        match self {
            Lane::Tcp => Some(6),
            Lane::Udp => Some(17),
            Lane::Sctp => Some(132),
            Lane::Icmp4 => Some(1),
            Lane::Icmp6 => Some(58),
            Lane::Other => None,
        }
    }

    /// The highest number.
    pub fn highest(self) -> u16 {
        if self == Lane::Other { 255 } else { u16::MAX }
    }

    /// Whether packets of this family can be in it.
    pub fn is_in(self, family: Family) -> bool {
        !matches!((self, family), (Lane::Icmp4, Family::V6) | (Lane::Icmp6, Family::V4))
    }

    /// Whether its numbers are ports.
    pub fn has_ports(self) -> bool {
        matches!(self, Lane::Tcp | Lane::Udp | Lane::Sctp)
    }

    fn name(self) -> &'static str {
        match self {
            Lane::Tcp => "tcp",
            Lane::Udp => "udp",
            Lane::Sctp => "sctp",
            Lane::Icmp4 => "icmp4",
            Lane::Icmp6 => "icmp6",
            Lane::Other => "proto",
        }
    }
}

/// Numbers of one lane, first and last included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceRange {
    /// The protocol.
    pub lane: Lane,
    /// The first number.
    pub first: u16,
    /// The last number.
    pub last: u16,
}

impl ServiceRange {
    /// All of a lane.
    pub fn all(lane: Lane) -> ServiceRange {
        ServiceRange { lane, first: 0, last: lane.highest() }
    }

    /// Whether it has the number.
    pub fn contains(&self, lane: Lane, number: u16) -> bool {
        self.lane == lane && self.first <= number && number <= self.last
    }
}

impl fmt::Display for ServiceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.lane.name();
        let (first, last) = (self.first, self.last);
        match self.lane {
            _ if *self == ServiceRange::all(self.lane) => write!(f, "{name}"),
            Lane::Icmp4 | Lane::Icmp6 if first & 0xff == 0 && last == first | 0xff => {
                write!(f, "{name}/{}", first >> 8)
            }
            Lane::Icmp4 | Lane::Icmp6 if first == last => write!(f, "{name}/{}.{}", first >> 8, first & 0xff),
            Lane::Icmp4 | Lane::Icmp6 => {
                write!(f, "{name}/{}.{}-{}.{}", first >> 8, first & 0xff, last >> 8, last & 0xff)
            }
            _ if first == last => write!(f, "{name}/{first}"),
            _ => write!(f, "{name}/{first}-{last}"),
        }
    }
}

impl From<ServiceRange> for String {
    fn from(range: ServiceRange) -> String {
        range.to_string()
    }
}

impl TryFrom<String> for ServiceRange {
    type Error = ParseError;
    fn try_from(text: String) -> Result<ServiceRange, ParseError> {
        match parse(&text)?.as_slice() {
            [one] => Ok(*one),
            _ => Err(ParseError::new("more than one protocol")),
        }
    }
}

/// ICMP types by name: the number in ICMP and in ICMPv6, where there is one.
const ICMP_TYPES: &[(&str, Option<u8>, Option<u8>)] = &[
    ("echo-reply", Some(0), Some(129)),
    ("destination-unreachable", Some(3), Some(1)),
    ("packet-too-big", None, Some(2)),
    ("redirect", Some(5), Some(137)),
    ("echo-request", Some(8), Some(128)),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("timestamp-request", Some(13), None),
    ("router-advertisement", Some(9), Some(134)),
    ("router-solicitation", Some(10), Some(133)),
    ("neighbour-solicitation", None, Some(135)),
    ("neighbour-advertisement", None, Some(136)),
];

/// `any`, `tcp`, `tcp/443`, `udp/1000-2000`, `icmp`, `icmp/echo-request`, `icmp4/3.4`, `icmp6/2`, `proto/47`, `gre`, `esp`, `ah`.
pub fn parse(text: &str) -> Result<Vec<ServiceRange>, ParseError> {
    let (name, what) = match text.split_once('/') {
        Some((name, what)) => (name.trim(), Some(what.trim())),
        None => (text.trim(), None),
    };
    let lanes: &[Lane] = match name {
        "any" => &Lane::ALL,
        "tcp" => &[Lane::Tcp],
        "udp" => &[Lane::Udp],
        "sctp" => &[Lane::Sctp],
        "icmp" => &[Lane::Icmp4, Lane::Icmp6],
        "icmp4" => &[Lane::Icmp4],
        "icmp6" => &[Lane::Icmp6],
        "proto" => &[Lane::Other],
        "igmp" => return by_number(2, what),
        "gre" => return by_number(47, what),
        "esp" => return by_number(50, what),
        "ah" => return by_number(51, what),
        _ => {
            let known =
                ["any", "tcp", "udp", "sctp", "icmp", "icmp4", "icmp6", "proto", "gre", "esp", "ah", "igmp"];
            let hint = crate::suggest::hint(name, known);
            return Err(ParseError::new(format!(
                "unknown protocol `{name}`{hint}; it is one of {}",
                known.join(", ")
            )));
        }
    };
    match what {
        None => Ok(lanes.iter().map(|lane| ServiceRange::all(*lane)).collect()),
        Some(_) if name == "any" => Err(ParseError::new("`any` has no ports; say `tcp/…` or `udp/…`")),
        Some(what) if name.starts_with("icmp") => icmp(lanes, what),
        Some(what) if name == "proto" => protocol(what),
        Some(what) => Ok(vec![numbers(lanes[0], what, "port")?]),
    }
}

fn by_number(number: u16, what: Option<&str>) -> Result<Vec<ServiceRange>, ParseError> {
    match what {
        None => Ok(vec![ServiceRange { lane: Lane::Other, first: number, last: number }]),
        Some(_) => Err(ParseError::new("this protocol has no ports")),
    }
}

/// A protocol by its number, in the lane where its packets are found.
fn protocol(what: &str) -> Result<Vec<ServiceRange>, ParseError> {
    let range = numbers(Lane::Other, what, "protocol")?;
    match (1..=u16::from(u8::MAX))
        .find(|n| [1, 6, 17, 58, 132].contains(n) && (range.first..=range.last).contains(n))
    {
        Some(_) if range.first == 0 && range.last == 255 => Ok(vec![range]),
        Some(named) => {
            Err(ParseError::new(format!("protocol {named} has a name: tcp, udp, sctp, icmp4 or icmp6")))
        }
        None => Ok(vec![range]),
    }
}

fn numbers(lane: Lane, what: &str, noun: &str) -> Result<ServiceRange, ParseError> {
    let one = |text: &str| {
        let number = text.trim().parse::<u16>().ok().filter(|number| *number <= lane.highest());
        number.ok_or_else(|| ParseError::new(format!("`{text}` is no {noun} from 0 to {}", lane.highest())))
    };
    let (first, last) = match what.split_once('-') {
        Some((first, last)) => (one(first)?, one(last)?),
        None => (one(what)?, one(what)?),
    };
    if first > last {
        return Err(ParseError::new("the range ends before it begins"));
    }
    Ok(ServiceRange { lane, first, last })
}

fn icmp(lanes: &[Lane], what: &str) -> Result<Vec<ServiceRange>, ParseError> {
    let whole = |lane, kind: u8| {
        let first = u16::from(kind) << 8;
        ServiceRange { lane, first, last: first | 0xff }
    };
    if let Some((_, v4, v6)) = ICMP_TYPES.iter().find(|(name, ..)| *name == what) {
        let of = |lane: &Lane| if *lane == Lane::Icmp4 { *v4 } else { *v6 };
        let ranges: Vec<_> =
            lanes.iter().filter_map(|lane| of(lane).map(|kind| whole(*lane, kind))).collect();
        let none = || ParseError::new(format!("`{what}` is not a type of this version of ICMP"));
        return if ranges.is_empty() { Err(none()) } else { Ok(ranges) };
    }
    if lanes.len() > 1 {
        let known = ICMP_TYPES.iter().map(|(name, ..)| *name);
        let hint = crate::suggest::hint(what, known);
        return Err(ParseError::new(format!(
            "`{what}` is no ICMP type by name{hint}; numbers differ between icmp4/… and icmp6/…"
        )));
    }
    let octets = |text: &str, end: u16| -> Result<u16, ParseError> {
        let octet = |text: &str| {
            text.trim()
                .parse::<u8>()
                .map_err(|_| ParseError::new(format!("`{text}` is no number from 0 to 255")))
        };
        match text.split_once('.') {
            Some((kind, code)) => Ok(u16::from(octet(kind)?) << 8 | u16::from(octet(code)?)),
            None => Ok(u16::from(octet(text)?) << 8 | end),
        }
    };
    let (first, last) = what.split_once('-').unwrap_or((what, what));
    let (first, last) = (octets(first, 0)?, octets(last, 0xff)?);
    if first > last {
        return Err(ParseError::new("the range ends before it begins"));
    }
    Ok(vec![ServiceRange { lane: lanes[0], first, last }])
}

/// Any services: sorted ranges that neither touch nor overlap.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<ServiceRange>", into = "Vec<ServiceRange>")]
pub struct ServiceSet {
    ranges: Vec<ServiceRange>,
}

impl ServiceSet {
    /// Every protocol and every port.
    pub fn everything() -> ServiceSet {
        ServiceSet { ranges: Lane::ALL.map(ServiceRange::all).to_vec() }
    }

    /// The ranges.
    pub fn ranges(&self) -> &[ServiceRange] {
        &self.ranges
    }

    /// The ranges of one lane.
    pub fn of(&self, lane: Lane) -> impl Iterator<Item = &ServiceRange> {
        self.ranges.iter().filter(move |range| range.lane == lane)
    }

    /// Whether it has nothing.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether it has everything.
    pub fn is_everything(&self) -> bool {
        *self == ServiceSet::everything()
    }

    /// Whether it has the number of that lane.
    pub fn contains(&self, lane: Lane, number: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(lane, number))
    }
}

impl FromIterator<ServiceRange> for ServiceSet {
    fn from_iter<I: IntoIterator<Item = ServiceRange>>(ranges: I) -> ServiceSet {
        let mut sorted: Vec<ServiceRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<ServiceRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if last.lane == range.lane && range.first <= last.last.saturating_add(1) => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        ServiceSet { ranges: merged }
    }
}

impl From<Vec<ServiceRange>> for ServiceSet {
    fn from(ranges: Vec<ServiceRange>) -> ServiceSet {
        ranges.into_iter().collect()
    }
}

impl From<ServiceSet> for Vec<ServiceRange> {
    fn from(set: ServiceSet) -> Vec<ServiceRange> {
        set.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for text in
            ["tcp", "tcp/443", "udp/1000-2000", "icmp4/3.4", "icmp6/2", "proto/47", "icmp4/3.1-5.2", "proto"]
        {
            let [range] = parse(text).unwrap()[..] else { panic!("{text}") };
            assert_eq!(range.to_string(), text);
            assert_eq!(ServiceRange::try_from(text.to_owned()).unwrap(), range);
        }
        assert_eq!(parse("gre").unwrap(), parse("proto/47").unwrap());
    }

    #[test]
    fn icmp_by_name_is_both_versions() {
        let set: ServiceSet = parse("icmp/echo-request").unwrap().into_iter().collect();
        assert!(set.contains(Lane::Icmp4, 8 << 8) && set.contains(Lane::Icmp6, 128 << 8));
        assert!(!set.contains(Lane::Icmp4, 9 << 8) && !set.contains(Lane::Icmp6, 8 << 8));
        assert!(parse("any").unwrap().into_iter().collect::<ServiceSet>().is_everything());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (wrong, said) in [
            ("tpc/80", "did you mean `tcp`"),
            ("tcp/70000", "0 to 65535"),
            ("tcp/9-1", "ends before"),
            ("any/80", "no ports"),
            ("icmp/8", "numbers differ"),
            ("icmp/echo-requst", "did you mean `echo-request`"),
            ("proto/6", "has a name"),
            ("gre/1", "no ports"),
            ("icmp4/packet-too-big", "not a type"),
            ("", "unknown protocol"),
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }
}
