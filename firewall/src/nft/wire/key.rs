//! Keys of sets and maps: their types, and their elements as bytes.
//!
//! Sources: `struct nft_set_desc`, `NFTA_SET_*`, `NFTA_SET_ELEM_*` (`include/uapi/linux/netfilter/nf_tables.h`, Linux 6.1); the numbers of
//! types and of what nft keeps beside a set (`include/datatype.h`, `src/mnl.c`, nftables 1.0.6), which make `nft list` show what we write.

use super::attribute::Attributes;
use super::rule::verdict_data;
use crate::nft::model::{Element, Expr, Jump, Types};
use std::net::IpAddr;

/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;

/// One part of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Ip4,
    Ip6,
    Protocol,
    Service,
    Mark,
    Interface,
}

impl Part {
    fn named(name: &str) -> Option<Part> {
        Some(match name {
            "ipv4_addr" => Part::Ip4,
            "ipv6_addr" => Part::Ip6,
            "inet_proto" => Part::Protocol,
            "inet_service" => Part::Service,
            "mark" => Part::Mark,
            "ifname" => Part::Interface,
            _ => return None,
        })
    }

    /// nft's number of the type.
    fn number(self) -> u32 {
        match self {
            Part::Ip4 => 7,
            Part::Ip6 => 8,
            Part::Protocol => 12,
            Part::Service => 13,
            Part::Mark => 19,
            Part::Interface => 41,
        }
    }

    /// Its bytes.
    fn len(self) -> usize {
        match self {
            Part::Protocol => 1,
            Part::Service => 2,
            Part::Ip4 | Part::Mark => 4,
            Part::Ip6 | Part::Interface => 16,
        }
    }

    /// nft's word for the order of its bytes: 1 for the host's, 2 for the network's.
    fn order(self) -> u32 {
        if matches!(self, Part::Mark | Part::Interface) { 1 } else { 2 }
    }

    /// The bytes of a constant.
    pub(super) fn value(self, expr: &Expr) -> Option<Vec<u8>> {
        Some(match (self, expr) {
            (Part::Ip4 | Part::Ip6, Expr::Text(text)) => address(self, text.parse().ok()?)?,
            (Part::Service, Expr::Number(number)) => u16::try_from(*number).ok()?.to_be_bytes().to_vec(),
            (Part::Mark, Expr::Number(number)) => u32::try_from(*number).ok()?.to_ne_bytes().to_vec(),
            (Part::Protocol, Expr::Number(number)) => vec![u8::try_from(*number).ok()?],
            (Part::Protocol, Expr::Text(name)) => vec![protocol(name)?],
            (Part::Interface, Expr::Text(name)) => {
                let mut bytes = name.as_bytes().to_vec();
                // IFNAMSIZ, with its final zero. What ends in `*` is a beginning and no name.
                if bytes.len() >= self.len() || name.ends_with('*') {
                    return None;
                }
                bytes.resize(self.len(), 0);
                bytes
            }
            _ => return None,
        })
    }

    /// The first and the last value of what stands in an element.
    fn bounds(self, expr: &Expr) -> Option<(Vec<u8>, Vec<u8>)> {
        match expr {
            Expr::Range(ends) => Some((self.value(&ends[0])?, self.value(&ends[1])?)),
            Expr::Prefix { addr, len } => {
                let first = address(self, addr.parse().ok()?)?;
                let mut last = first.clone();
                let bits = usize::try_from(*len).ok()?;
                for (at, byte) in last.iter_mut().enumerate() {
                    let kept = bits.saturating_sub(at.saturating_mul(8)).min(8);
                    *byte |= u8::try_from(0xffu32 >> kept).ok()?;
                }
                Some((first, last))
            }
            single => self.value(single).map(|value| (value.clone(), value)),
        }
    }
}

fn address(part: Part, address: IpAddr) -> Option<Vec<u8>> {
    match (part, address) {
        (Part::Ip4, IpAddr::V4(address)) => Some(address.octets().to_vec()),
        (Part::Ip6, IpAddr::V6(address)) => Some(address.octets().to_vec()),
        _ => None,
    }
}

/// `IPPROTO_*`.
pub(super) fn protocol(name: &str) -> Option<u8> {
    Some(match name {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "ipv6-icmp" => 58,
        "sctp" => 132,
        _ => return None,
    })
}

/// What a set's keys are made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    parts: Vec<Part>,
    is_interval: bool,
}

impl Shape {
    /// As a set's definition says.
    pub(super) fn of(types: &Types, flags: &[String]) -> Option<Shape> {
        let names: Vec<&str> = match types {
            Types::One(name) => vec![name],
            Types::Several(names) => names.iter().map(String::as_str).collect(),
        };
        let parts = names.into_iter().map(Part::named).collect::<Option<Vec<_>>>()?;
        if !flags.iter().all(|flag| flag == "interval" || flag == "timeout") {
            return None;
        }
        Some(Shape { parts, is_interval: flags.iter().any(|flag| flag == "interval") })
    }

    /// Whether an element is a range in several dimensions.
    pub(super) fn is_concat_interval(&self) -> bool {
        self.is_interval && self.is_concat()
    }

    pub(super) fn is_interval(&self) -> bool {
        self.is_interval
    }

    pub(super) fn is_concat(&self) -> bool {
        self.parts.len() > 1
    }

    /// nft's number: six bits for each part.
    pub(super) fn number(&self) -> u32 {
        self.parts.iter().fold(0, |number, part| number << 6 | part.number())
    }

    /// nft's word for the order of its bytes; of several parts none.
    pub(super) fn order(&self) -> u32 {
        match self.parts.as_slice() {
            [one] => one.order(),
            _ => 0,
        }
    }

    /// Bytes of the key: each part takes whole registers of four bytes, where there are several.
    pub(super) fn len(&self) -> usize {
        match self.parts.as_slice() {
            [one] => one.len(),
            several => several.iter().map(|part| part.len().next_multiple_of(4)).sum(),
        }
    }

    /// The bytes of each part.
    pub(super) fn part_lens(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().map(|part| part.len())
    }

    fn bounds(&self, expr: &Expr) -> Option<(Vec<u8>, Vec<u8>)> {
        let (Expr::Concat(of_parts), true) = (expr, self.is_concat()) else {
            return self.parts.first()?.bounds(expr).filter(|_| !self.is_concat());
        };
        if of_parts.len() != self.parts.len() {
            return None;
        }
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for (part, expr) in self.parts.iter().zip(of_parts) {
            let (low, high) = part.bounds(expr)?;
            for (key, value) in [(&mut first, low), (&mut last, high)] {
                key.extend(value);
                key.resize(key.len().next_multiple_of(4), 0);
            }
        }
        Some((first, last))
    }

    /// Elements as the kernel takes them, each the content of one list item.
    pub(super) fn elements(&self, elements: &[Element]) -> Option<Vec<Attributes>> {
        let mut ranges = elements.iter().map(|element| self.range(element)).collect::<Option<Vec<_>>>()?;
        if !self.is_interval || self.is_concat() {
            return ranges.iter().map(|range| self.single(range)).collect();
        }
        ranges.sort_by(|one, other| one.first.cmp(&other.first));
        let mut made = Vec::new();
        // A tree of starts and ends: what is below the first start is said to be outside.
        if ranges.first().is_some_and(|range| range.first.iter().any(|byte| *byte != 0)) {
            made.push(end(&vec![0; self.len()])?);
        }
        for range in &ranges {
            made.push(range.start()?);
            if let Some(next) = after(&range.last) {
                made.push(end(&next)?);
            }
        }
        Some(made)
    }

    fn range<'a>(&self, element: &'a Element) -> Option<Range<'a>> {
        let (expr, leads_to) = match element {
            Element::Key(expr) => (expr, LeadsTo::Nothing),
            Element::Counter(expr, name) => (expr, LeadsTo::Counter(name)),
            Element::Verdict(expr, jump) => (expr, LeadsTo::Verdict(jump)),
        };
        let (expr, timeout) = match expr {
            Expr::Elem { val, timeout } => (&**val, Some(*timeout)),
            expr => (expr, None),
        };
        let (first, last) = self.bounds(expr)?;
        Some(Range { first, last, leads_to, timeout })
    }

    fn single(&self, range: &Range<'_>) -> Option<Attributes> {
        let start = range.start()?;
        if self.is_concat_interval() {
            // NFTA_SET_ELEM_KEY_END.
            return start.nest(10, &data(&range.last)?);
        }
        Some(start).filter(|_| range.first == range.last)
    }
}

enum LeadsTo<'a> {
    Nothing,
    Counter(&'a str),
    Verdict(&'a Jump),
}

struct Range<'a> {
    first: Vec<u8>,
    last: Vec<u8>,
    leads_to: LeadsTo<'a>,
    timeout: Option<u32>,
}

impl Range<'_> {
    fn start(&self) -> Option<Attributes> {
        let mut made = Attributes::default().nest(1, &data(&self.first)?)?;
        if let Some(seconds) = self.timeout {
            made = made.long(4, u64::from(seconds).saturating_mul(1000))?;
        }
        match self.leads_to {
            LeadsTo::Nothing => Some(made),
            LeadsTo::Counter(name) => made.text(9, name),
            LeadsTo::Verdict(jump) => made.nest(2, &verdict_data(jump)?),
        }
    }
}

/// `NFTA_DATA_VALUE`.
pub(super) fn data(value: &[u8]) -> Option<Attributes> {
    Attributes::default().bytes(1, value)
}

fn end(key: &[u8]) -> Option<Attributes> {
    Attributes::default().word(3, INTERVAL_END)?.nest(1, &data(key)?)
}

/// The next key; none behind the last.
fn after(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(types: &[&str]) -> Shape {
        Shape::of(&Types::of(types), &["interval".to_owned()]).unwrap()
    }

    #[test]
    fn prefixes_ranges_and_concatenations_have_their_bounds() {
        let prefix = |addr: &str, len| Expr::Prefix { addr: addr.to_owned(), len };
        let both = shape(&["ipv4_addr"]).bounds(&prefix("10.1.128.0", 17)).unwrap();
        assert_eq!(both, (vec![10, 1, 128, 0], vec![10, 1, 255, 255]));
        let numbers = Expr::Range(Box::new([Expr::Number(5), Expr::Number(300)]));
        let key = Expr::Concat(vec![Expr::text("10.0.0.1"), numbers]);
        let both = shape(&["ipv4_addr", "inet_service"]).bounds(&key).unwrap();
        assert_eq!(both, (vec![10, 0, 0, 1, 0, 5, 0, 0], vec![10, 0, 0, 1, 1, 44, 0, 0]));
        assert!(shape(&["ipv6_addr"]).bounds(&prefix("10.0.0.0", 8)).is_none());
        let v6 = shape(&["ipv6_addr"]).bounds(&prefix("fd00::", 9)).unwrap();
        assert_eq!((v6.0[1], v6.1[1], v6.1[2], v6.1[15]), (0, 0x7f, 0xff, 0xff));
    }

    #[test]
    fn nothing_comes_behind_the_last_address() {
        assert_eq!(after(&[10, 0, 0, 255]), Some(vec![10, 0, 1, 0]));
        assert_eq!(after(&[255; 4]), None);
    }
}
