//! Sets of IP addresses, as ranges that neither touch nor overlap.
//!
//! *Does*: reads addresses, networks and ranges; adds and takes away. *Never*: looks a name up.

use crate::error::ParseError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn bits(self) -> u32 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The highest address, as a number.
    fn highest(self) -> u128 {
        u128::MAX >> (128 - self.bits())
    }

    fn address(self, number: u128) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::from(number as u32).into(),
            Family::V6 => Ipv6Addr::from(number).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Addresses of one family, first and last included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpRange {
    family: Family,
    first: u128,
    last: u128,
}

impl IpRange {
    /// All addresses of a family.
    pub fn all(family: Family) -> IpRange {
        IpRange { family, first: 0, last: family.highest() }
    }

    /// One address.
    pub fn one(address: IpAddr) -> IpRange {
        IpRange { family: Family::of(address), first: number(address), last: number(address) }
    }

    /// The range's family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.family.address(self.first)
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.family.address(self.last)
    }

    /// Whether it has the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let wanted = number(address);
        Family::of(address) == self.family && self.first <= wanted && wanted <= self.last
    }

    /// The address after the last, where there is one.
    pub fn after(&self) -> Option<IpAddr> {
        (self.last < self.family.highest()).then(|| self.family.address(self.last + 1))
    }

    /// The length of the network's prefix, where the range is a network.
    pub fn prefix(&self) -> Option<u32> {
        let host = self.first ^ self.last;
        let is_network = host & host.wrapping_add(1) == 0 && self.first & host == 0;
        is_network.then(|| self.family.bits() - host.count_ones())
    }

    /// The networks that it is made of, the fewest that are: first addresses, and lengths of prefixes.
    pub fn networks(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        let (family, last) = (self.family, self.last);
        let mut next = Some(self.first);
        std::iter::from_fn(move || {
            let first = next?;
            // No larger than what is left, and than the address is aligned.
            let left = (last - first).checked_add(1).map_or(u128::BITS, u128::ilog2);
            let host = first.trailing_zeros().min(left).min(family.bits());
            let size = 1u128.checked_shl(host);
            next = size.and_then(|size| first.checked_add(size)).filter(|next| *next <= last);
            Some((family.address(first), family.bits() - host))
        })
    }
}

impl FromStr for IpRange {
    type Err = ParseError;

    /// `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1-10.0.0.9`, and the same for IPv6.
    fn from_str(text: &str) -> Result<IpRange, ParseError> {
        let address = |text: &str| {
            let parsed: Result<IpAddr, _> = text.trim().parse();
            parsed.map_err(|_| ParseError::new(format!("`{}` is no IP address", text.trim())))
        };
        if let Some((network, length)) = text.split_once('/') {
            return network_of(address(network)?, length);
        }
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (address(first)?, address(last)?),
            None => (address(text)?, address(text)?),
        };
        if Family::of(first) != Family::of(last) {
            return Err(ParseError::new("a range cannot be of IPv4 and IPv6"));
        }
        if number(first) > number(last) {
            return Err(ParseError::new("the range ends before it begins"));
        }
        Ok(IpRange { family: Family::of(first), first: number(first), last: number(last) })
    }
}

fn network_of(address: IpAddr, length: &str) -> Result<IpRange, ParseError> {
    let family = Family::of(address);
    let length: u32 = length
        .trim()
        .parse()
        .ok()
        .filter(|length| *length <= family.bits())
        .ok_or_else(|| ParseError::new(format!("the prefix's length must be 0 to {}", family.bits())))?;
    let host = family.highest().checked_shr(length + 128 - family.bits()).unwrap_or(0);
    let host =
        if family == Family::V4 { (u128::from(u32::MAX)).checked_shr(length).unwrap_or(0) } else { host };
    if number(address) & host != 0 {
        let network = family.address(number(address) & !host);
        return Err(ParseError::new(format!(
            "it has bits after the prefix; the network is {network}/{length}"
        )));
    }
    Ok(IpRange { family, first: number(address), last: number(address) | host })
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            _ if self.first == self.last => write!(f, "{}", self.first()),
            Some(length) => write!(f, "{}/{length}", self.first()),
            None => write!(f, "{}-{}", self.first(), self.last()),
        }
    }
}

impl TryFrom<String> for IpRange {
    type Error = ParseError;
    fn try_from(text: String) -> Result<IpRange, ParseError> {
        text.parse()
    }
}

impl From<IpRange> for String {
    fn from(range: IpRange) -> String {
        range.to_string()
    }
}

/// Any addresses: sorted ranges, IPv4 first, that neither touch nor overlap.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<IpRange>", into = "Vec<IpRange>")]
pub struct AddressSet {
    ranges: Vec<IpRange>,
}

impl AddressSet {
    /// Every address of both families.
    pub fn everything() -> AddressSet {
        AddressSet { ranges: Family::ALL.map(IpRange::all).to_vec() }
    }

    /// The ranges.
    pub fn ranges(&self) -> &[IpRange] {
        &self.ranges
    }

    /// The ranges of one family.
    pub fn of(&self, family: Family) -> impl Iterator<Item = &IpRange> {
        self.ranges.iter().filter(move |range| range.family == family)
    }

    /// Whether it has no address.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether it has every address of both families.
    pub fn is_everything(&self) -> bool {
        *self == AddressSet::everything()
    }

    /// Whether it has the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let wanted = (Family::of(address), number(address));
        let after = self.ranges.partition_point(|range| (range.family, range.first) <= wanted);
        after.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|range| range.contains(address))
    }

    /// This set and the other.
    pub fn union(&self, other: &AddressSet) -> AddressSet {
        self.ranges.iter().chain(&other.ranges).copied().collect()
    }

    /// This set without the other's addresses.
    pub fn minus(&self, other: &AddressSet) -> AddressSet {
        let mut left = Vec::new();
        for range in &self.ranges {
            let mut rest = Some(*range);
            for taken in other.of(range.family) {
                let Some(now) = rest else { break };
                if taken.last < now.first || taken.first > now.last {
                    continue;
                }
                if taken.first > now.first {
                    left.push(IpRange { last: taken.first - 1, ..now });
                }
                rest = (taken.last < now.last).then(|| IpRange { first: taken.last + 1, ..now });
            }
            left.extend(rest);
        }
        left.into_iter().collect()
    }
}

impl FromIterator<IpRange> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpRange>>(ranges: I) -> AddressSet {
        let mut sorted: Vec<IpRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<IpRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if last.family == range.family && range.first <= last.last.saturating_add(1) => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        AddressSet { ranges: merged }
    }
}

impl From<Vec<IpRange>> for AddressSet {
    fn from(ranges: Vec<IpRange>) -> AddressSet {
        ranges.into_iter().collect()
    }
}

impl From<AddressSet> for Vec<IpRange> {
    fn from(set: AddressSet) -> Vec<IpRange> {
        set.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str) -> AddressSet {
        text.split_whitespace().map(|range| range.parse::<IpRange>().unwrap()).collect()
    }

    #[test]
    fn reads_and_writes_addresses_networks_and_ranges() {
        for text in ["10.0.0.1", "10.0.0.0/8", "10.0.0.1-10.0.0.9", "fd00::/8", "::1", "0.0.0.0/0", "::/0"] {
            assert_eq!(text.parse::<IpRange>().unwrap().to_string(), text);
        }
        for wrong in
            ["10.0.0.1/8", "10.0.0.0/33", "10.0.0.9-10.0.0.1", "10.0.0.1-fd00::1", "x", "", "1.2.3.4/"]
        {
            assert!(wrong.parse::<IpRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_that_touch_are_one_and_what_is_taken_away_is_gone() {
        assert_eq!(set("10.0.0.0/25 10.0.0.128/25 10.0.0.3"), set("10.0.0.0/24"));
        assert_eq!(set("10.0.0.0/8").minus(&set("10.1.0.0/16")), set("10.0.0.0/16 10.2.0.0-10.255.255.255"));
        assert_eq!(AddressSet::everything().minus(&set("0.0.0.0/0")), set("::/0"));
        assert!(AddressSet::everything().is_everything() && !set("::/0").is_everything());
    }

    #[test]
    fn a_range_is_made_of_networks() {
        let networks = |text: &str| {
            let range: IpRange = text.parse().unwrap();
            range.networks().map(|(first, len)| format!("{first}/{len}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(networks("10.0.0.0/8"), "10.0.0.0/8");
        assert_eq!(networks("10.0.0.5"), "10.0.0.5/32");
        assert_eq!(networks("10.0.0.5-10.0.0.10"), "10.0.0.5/32 10.0.0.6/31 10.0.0.8/31 10.0.0.10/32");
        assert_eq!(networks("0.0.0.0-255.255.255.255"), "0.0.0.0/0");
        assert_eq!(networks("255.255.255.254-255.255.255.255"), "255.255.255.254/31");
        assert_eq!(networks("::/0"), "::/0");
        assert_eq!(networks("fd00::ffff-fd00::1:1"), "fd00::ffff/128 fd00::1:0/127");
        assert_eq!(networks("0.0.0.1-255.255.255.254").split(' ').count(), 62);
    }

    fn small() -> impl Strategy<Value = AddressSet> {
        let range = (0u8..40, 0u8..8).prop_map(|(first, more)| {
            format!("10.0.0.{first}-10.0.0.{}", first + more).parse::<IpRange>().unwrap()
        });
        proptest::collection::vec(range, 0..6).prop_map(|ranges| ranges.into_iter().collect())
    }

    proptest! {
        #[test]
        fn sets_behave_as_sets(one in small(), other in small()) {
            for last in 0..60u8 {
                let address = IpAddr::from([10, 0, 0, last]);
                let (a, b) = (one.contains(address), other.contains(address));
                prop_assert_eq!(a, one.ranges().iter().any(|range| range.contains(address)));
                prop_assert_eq!(one.union(&other).contains(address), a || b);
                prop_assert_eq!(one.minus(&other).contains(address), a && !b);
            }
        }
    }
}
