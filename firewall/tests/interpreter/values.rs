//! What expressions are worth, and when two meet.

use super::Packet;
use lynceus_firewall::nft::model::*;
use std::net::IpAddr;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Value {
    Number(u128),
    Address(IpAddr),
    Name(String),
    Several(Vec<Value>),
}

/// What an expression is for a packet; nothing where the packet has no such thing, and then the rule does not match.
pub(super) fn value(expr: &Expr, packet: &Packet<'_>, mark: u32) -> Option<Value> {
    let name = |name: &str| Some(Value::Name(name.to_owned()));
    let family = |address: IpAddr, wanted: &str| (wanted == "ip") == address.is_ipv4();
    match expr {
        Expr::Meta { key } => match key.as_str() {
            "iifname" => name(packet.iifname),
            "oifname" => name(packet.oifname),
            "l4proto" => Some(Value::Number(packet.protocol.into())),
            "protocol" => name(if packet.source.is_ipv4() { "ip" } else { "ip6" }),
            "mark" => Some(Value::Number(0)),
            "time" => Some(Value::Number(packet.at.0 as u128)),
            other => panic!("unknown meta {other}"),
        },
        Expr::Ct { key, dir } => match (key.as_str(), dir.as_deref()) {
            ("mark", None) => Some(Value::Number(mark.into())),
            ("state", None) => name(packet.state),
            ("direction", None) => name(if packet.is_reply { "reply" } else { "original" }),
            (key, Some("original")) if key.ends_with("addr") => {
                let (of, side) = key.split_once(' ')?;
                let address = if side == "saddr" { packet.original.0 } else { packet.original.1 };
                family(address, of).then_some(Value::Address(address))
            }
            (key @ ("ip saddr" | "ip6 saddr"), Some("reply")) => {
                let of = key.split(' ').next()?;
                family(packet.original.1, of).then_some(Value::Address(packet.original.1))
            }
            ("proto-src", Some("original")) => Some(Value::Number(40_000)),
            ("proto-dst", Some("original")) | ("proto-src", Some("reply")) => {
                let has_ports = matches!(packet.protocol, 6 | 17 | 132);
                assert!(has_ports || key == "proto-dst", "an ICMP reply has no type of the request");
                Some(Value::Number(packet.number.into()))
            }
            other => panic!("unknown ct {other:?}"),
        },
        Expr::Payload(Payload::Field { protocol, field }) => match (protocol.as_str(), field.as_str()) {
            (of @ ("ip" | "ip6"), "saddr") => {
                family(packet.source, of).then_some(Value::Address(packet.source))
            }
            ("ip6", "hoplimit") => (!packet.source.is_ipv4()).then_some(Value::Number(64)),
            ("tcp", "flags") => (packet.protocol == 6).then(|| Value::Name("ack".to_owned())),
            ("udp", _) => (packet.protocol == 17).then_some(Value::Number(40_000)),
            ("icmpv6", "type") => {
                (packet.protocol == 58).then_some(Value::Number((packet.number >> 8).into()))
            }
            other => panic!("unknown payload {other:?}"),
        },
        Expr::Concat(parts) => {
            parts.iter().map(|part| value(part, packet, mark)).collect::<Option<_>>().map(Value::Several)
        }
        Expr::And(both) => {
            let (whole, Some(Value::Address(mask))) = (value(&both[0], packet, mark)?, constant(&both[1]))
            else {
                panic!("no mask of an address: {both:?}")
            };
            Some(Value::Address(match (whole, mask) {
                (Value::Address(IpAddr::V4(whole)), IpAddr::V4(mask)) => (whole & mask).into(),
                (Value::Address(IpAddr::V6(whole)), IpAddr::V6(mask)) => (whole & mask).into(),
                other => panic!("a mask of another family: {other:?}"),
            }))
        }
        other => panic!("not of a packet: {other:?}"),
    }
}

/// What nft makes of a constant.
pub(super) fn constant(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Number(number) => Some(Value::Number((*number).into())),
        Expr::Text(text) => {
            let known = [("tcp", 6), ("udp", 17), ("sctp", 132), ("icmp", 1), ("ipv6-icmp", 58)];
            let types = [
                ("nd-router-solicit", 133),
                ("nd-router-advert", 134),
                ("nd-neighbor-solicit", 135),
                ("nd-neighbor-advert", 136),
                ("nd-redirect", 137),
                ("mld-listener-query", 130),
                ("mld-listener-report", 131),
                ("mld-listener-done", 132),
                ("mld2-listener-report", 143),
            ];
            let number =
                known.iter().chain(&types).find(|(name, _)| name == text).map(|(_, n)| Value::Number(*n));
            let time = || {
                let toml = format!("t = {}Z", text.replace(' ', "T"));
                let parsed = toml.parse::<toml::Table>().ok()?;
                let at = parsed.get("t")?.as_datetime()?.date.is_some();
                at.then(|| Value::Number(seconds(text)))
            };
            let address = || text.parse().ok().map(Value::Address);
            number.or_else(address).or_else(time).or_else(|| Some(Value::Name(text.clone())))
        }
        _ => None,
    }
}

/// `2027-01-31 23:59:59` in UTC, counted the slow way.
fn seconds(text: &str) -> u128 {
    let parts: Vec<u128> = text.split(['-', ' ', ':']).map(|part| part.parse().unwrap()).collect();
    let [year, month, day, hour, minute, second] = parts[..] else { panic!("{text}") };
    let is_leap =
        |year: u128| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let years: u128 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months: u128 = lengths.iter().take(month as usize - 1).sum();
    (((years + months + day - 1) * 24 + hour) * 60 + minute) * 60 + second
}

pub(super) fn is_in(value: &Value, of: &Expr) -> bool {
    match (value, of) {
        (Value::Several(values), Expr::Concat(parts)) => {
            values.len() == parts.len() && values.iter().zip(parts).all(|(value, part)| is_in(value, part))
        }
        (Value::Address(address), Expr::Prefix { addr, len }) => {
            let range: lynceus_policy::IpRange = format!("{addr}/{len}").parse().unwrap();
            range.contains(*address)
        }
        (value, Expr::Range(ends)) => match (value, constant(&ends[0]), constant(&ends[1])) {
            (Value::Number(n), Some(Value::Number(first)), Some(Value::Number(last))) => {
                (first..=last).contains(n)
            }
            (Value::Address(a), Some(Value::Address(first)), Some(Value::Address(last))) => {
                a.is_ipv4() == first.is_ipv4() && first <= *a && *a <= last
            }
            _ => false,
        },
        (value, Expr::Elem { val, .. }) => is_in(value, val),
        (value, Expr::Set(any)) => any.iter().any(|one| is_in(value, one)),
        (Value::Name(name), Expr::Text(text)) => match text.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == text,
        },
        (value, constant_expr) => constant(constant_expr).as_ref() == Some(value),
    }
}

/// Whether two elements share a key: the kernel refuses such sets.
pub(super) fn overlaps(one: &Expr, other: &Expr) -> bool {
    if let (Expr::Concat(one), Expr::Concat(other)) = (one, other) {
        return one.iter().zip(other).all(|(one, other)| overlaps(one, other));
    }
    let ends = |expr: &Expr| -> Option<(Value, Value)> {
        Some(match expr {
            Expr::Range(ends) => (constant(&ends[0])?, constant(&ends[1])?),
            Expr::Prefix { addr, len } => {
                let range: lynceus_policy::IpRange = format!("{addr}/{len}").parse().ok()?;
                (Value::Address(range.first()), Value::Address(range.last()))
            }
            one => (constant(one)?, constant(one)?),
        })
    };
    match (ends(one), ends(other)) {
        (Some((Value::Number(a), Value::Number(b))), Some((Value::Number(c), Value::Number(d)))) => {
            a <= d && c <= b
        }
        (Some((Value::Address(a), Value::Address(b))), Some((Value::Address(c), Value::Address(d)))) => {
            a <= d && c <= b
        }
        (Some((Value::Name(a), _)), Some((Value::Name(b), _))) => a == b,
        _ => false,
    }
}
