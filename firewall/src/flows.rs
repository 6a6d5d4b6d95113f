//! The flow log: what the rules told the kernel to tell, packet by packet, as events.
//!
//! *Does*: asks for a group of NFLOG, and takes apart what comes: which rule, which VM, which connection.
//! *Trusts*: the kernel for the frame of each message; the packet in it is the guest's, and may be cut off, wrong or hostile.
//! *Never*: reads past what a length says, or takes a second fragment's bytes for ports.
//!
//! Layouts: `NFULNL_*`, `NFULA_*` (`include/uapi/linux/netfilter/nfnetlink_log.h`), Linux 6.1; RFC 791, RFC 8200, and the first bytes of RFC 9293, 768, 9260, 792 and 4443.

use crate::netlink::{
    COPIED_BYTES, ERROR, GENERAL_BYTES, REQUEST_AND_ACK, attribute_bytes, attributes, big_half, big_word,
    message, messages, word,
};
use crate::process::Process;
use lynceus_policy::{Lane, ServiceRange};
use serde::Serialize;
use std::net::IpAddr;

/// `NFNL_SUBSYS_ULOG << 8`: messages with packets, and with the configuration one further.
const PACKET: u16 = 0x400;
const CONFIG: u16 = 0x401;
/// IPv6 extension headers that are followed.
const MAX_EXTENSIONS: usize = 8;

/// Attributes of a message with a packet.
mod attribute {
    pub(super) const TIME: u16 = 3;
    pub(super) const IN: u16 = 4;
    pub(super) const OUT: u16 = 5;
    pub(super) const PHYSICAL_IN: u16 = 6;
    pub(super) const PHYSICAL_OUT: u16 = 7;
    pub(super) const PAYLOAD: u16 = 9;
    pub(super) const PREFIX: u16 = 10;
}

/// A packet that a rule told of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct FlowEvent {
    /// When, in milliseconds since 1970-01-01 UTC; zero where the kernel did not say.
    pub time_ms: u64,
    /// `allow`, `deny`, `reject`, `pass`, `would-deny` (audit), `spoofed`.
    pub verdict: String,
    /// The VM; empty for a spoofed frame, which only its port tells.
    pub vm: String,
    /// `in` or `out`, seen from the VM; empty for a spoofed frame.
    pub direction: String,
    /// The rule, or what a spoofed frame lied about.
    pub rule: String,
    /// Numbers of the interfaces that it came by and goes by.
    #[serde(skip)]
    pub interfaces: (Option<u32>, Option<u32>),
    /// Who sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// To whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// What for: `tcp/443`, `icmp4/8.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The same for programs.
    #[serde(skip)]
    pub lane: Option<(Lane, u16)>,
    /// The sender's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Where a rule about a process was asked: whether it is `known`, `unknown`, or not found in time (`timeout`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<&'static str>,
    /// The processes that hold the connection's socket.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<Process>,
    /// How long it took to find out and judge, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looked_us: Option<u64>,
    /// Length of the packet, as its header has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
}

/// What a datagram of the kernel's says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// A packet.
    Flow(Box<FlowEvent>),
    /// A request was granted (0), or refused with this error number.
    Answer(i32),
}

/// The requests, in order, that bind a socket to a group. Each is answered.
pub fn requests(group: u16) -> Vec<Vec<u8>> {
    let bind = attribute_bytes(1, &[1]);
    // NFULNL_COPY_PACKET.
    let mode = [&COPIED_BYTES.to_be_bytes()[..], &[2, 0]].concat();
    [bind, attribute_bytes(2, &mode)].map(|attribute| configuration(group, &attribute)).to_vec()
}

/// The request to be told of every packet at once, and not of a hundred or after a second (`NFULA_CFG_QTHRESH`).
pub fn at_once(group: u16) -> Vec<u8> {
    configuration(group, &attribute_bytes(5, &1u32.to_be_bytes()))
}

fn configuration(group: u16, attribute: &[u8]) -> Vec<u8> {
    message(CONFIG, REQUEST_AND_ACK, group, attribute)
}

/// Everything in a datagram. What is none of ours is left out.
pub fn parse(datagram: &[u8]) -> Vec<Told> {
    let told = |(kind, body)| match kind {
        ERROR => word(body, 0).map(|error| Told::Answer(error as i32)),
        PACKET => flow(body).map(|flow| Told::Flow(Box::new(flow))),
        _ => None,
    };
    messages(datagram).filter_map(told).collect()
}

fn flow(body: &[u8]) -> Option<FlowEvent> {
    let mut event = FlowEvent::default();
    body.get(..GENERAL_BYTES)?;
    let mut prefix = String::new();
    // On a bridge: its ports, where the others are the bridge itself.
    let mut physical = (None, None);
    for attribute in attributes(body) {
        let (kind, value) = attribute?;
        match kind {
            attribute::TIME => {
                let long =
                    |at| Some(u64::from(big_word(value, at)?) << 32 | u64::from(big_word(value, at + 4)?));
                let (seconds, micros) = (long(0)?, long(8)?);
                event.time_ms = seconds.saturating_mul(1000).saturating_add(micros / 1000);
            }
            attribute::IN => event.interfaces.0 = big_word(value, 0),
            attribute::OUT => event.interfaces.1 = big_word(value, 0),
            attribute::PHYSICAL_IN => physical.0 = big_word(value, 0),
            attribute::PHYSICAL_OUT => physical.1 = big_word(value, 0),
            attribute::PREFIX => {
                prefix = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
            }
            attribute::PAYLOAD => packet(value, &mut event),
            _ => {}
        }
    }
    event.interfaces = (physical.0.or(event.interfaces.0), physical.1.or(event.interfaces.1));
    named(&prefix, &mut event)?;
    Some(event)
}

/// `lynceus VERDICT VM DIRECTION RULE`, or `lynceus spoofed WHAT`. None for what others log to the same group.
fn named(prefix: &str, event: &mut FlowEvent) -> Option<()> {
    let rest = prefix.strip_prefix("lynceus ")?;
    let (verdict, rest) = rest.split_once(' ')?;
    verdict.clone_into(&mut event.verdict);
    if verdict == "spoofed" {
        rest.clone_into(&mut event.rule);
        return Some(());
    }
    let mut words = rest.splitn(3, ' ');
    words.next()?.clone_into(&mut event.vm);
    words.next()?.clone_into(&mut event.direction);
    words.next()?.clone_into(&mut event.rule);
    Some(())
}

/// As much as the packet says of itself.
pub(crate) fn packet(packet: &[u8], event: &mut FlowEvent) {
    let _ = match packet.first().map(|first| first >> 4) {
        Some(4) => ip4(packet, event),
        Some(6) => ip6(packet, event),
        _ => None,
    };
}

fn ip4(packet: &[u8], event: &mut FlowEvent) -> Option<()> {
    let address = |at: usize| packet.get(at..)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes));
    (event.source, event.destination) = (Some(address(12)?), Some(address(16)?));
    event.bytes = big_half(packet, 2).map(u32::from);
    let header = usize::from(packet.first()? & 15) * 4;
    let is_first = big_half(packet, 6)? & 0x1fff == 0;
    let payload = packet.get(header..).filter(|_| is_first && header >= 20);
    service(*packet.get(9)?, payload.unwrap_or_default(), event);
    Some(())
}

fn ip6(packet: &[u8], event: &mut FlowEvent) -> Option<()> {
    let address = |at: usize| packet.get(at..)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes));
    (event.source, event.destination) = (Some(address(8)?), Some(address(24)?));
    event.bytes = big_half(packet, 4).map(|payload| u32::from(payload) + 40);
    let (mut next, mut rest, mut is_first) = (*packet.get(6)?, packet.get(40..)?, true);
    for _ in 0..MAX_EXTENSIONS {
        let len = match next {
            // Hop by hop, routing, destination options.
            0 | 43 | 60 => (usize::from(*rest.get(1)?) + 1) * 8,
            44 => {
                is_first &= big_half(rest, 2)? & 0xfff8 == 0;
                8
            }
            _ => break,
        };
        next = *rest.first()?;
        rest = rest.get(len..)?;
    }
    service(next, if is_first { rest } else { &[] }, event);
    Some(())
}

fn service(protocol: u8, payload: &[u8], event: &mut FlowEvent) {
    let ports = (big_half(payload, 0), big_half(payload, 2));
    let (lane, number) = match protocol {
        6 | 17 | 132 => {
            event.source_port = ports.0;
            let lane = match protocol {
                6 => Lane::Tcp,
                17 => Lane::Udp,
                _ => Lane::Sctp,
            };
            (lane, ports.1)
        }
        1 => (Lane::Icmp4, ports.0),
        58 => (Lane::Icmp6, ports.0),
        other => (Lane::Other, Some(u16::from(other))),
    };
    event.lane = number.map(|number| (lane, number));
    event.service = number.map(|number| ServiceRange { lane, first: number, last: number }.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::HEADER_BYTES;

    /// A message of the kernel's with these attributes.
    fn told(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let body: Vec<u8> =
            attributes.iter().flat_map(|(kind, value)| attribute_bytes(*kind, value)).collect();
        let len = (HEADER_BYTES + GENERAL_BYTES + body.len()) as u32;
        [&len.to_le_bytes()[..], &PACKET.to_le_bytes(), &[0; 10], &[2, 0, 0, 76], &body].concat()
    }

    /// A TCP packet of IPv4 from 10.0.1.2:4660 to 10.0.2.2:80, `offset` being where it stands in a larger one.
    fn tcp(offset: u16) -> Vec<u8> {
        let [high, low] = offset.to_be_bytes();
        let header = [0x45, 0, 0, 60, 0, 0, high, low, 64, 6, 0, 0, 10, 0, 1, 2, 10, 0, 2, 2];
        [&header[..], &[0x12, 0x34, 0, 80, 0, 0, 0, 0]].concat()
    }

    fn only(datagram: &[u8]) -> FlowEvent {
        match parse(datagram).as_slice() {
            [Told::Flow(event)] => (**event).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_denied_connection() {
        let time = [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0x0b, 0xb8];
        let event = only(&told(&[
            (attribute::TIME, &time),
            (attribute::IN, &[0, 0, 0, 7]),
            (attribute::PREFIX, b"lynceus deny web-1 in site/web http\0"),
            (attribute::PAYLOAD, &tcp(0)),
        ]));
        assert_eq!(
            (event.verdict.as_str(), event.vm.as_str(), event.direction.as_str()),
            ("deny", "web-1", "in")
        );
        assert_eq!(
            (event.rule.as_str(), event.time_ms, event.interfaces),
            ("site/web http", 2003, (Some(7), None))
        );
        assert_eq!(event.source, Some("10.0.1.2".parse().unwrap()));
        assert_eq!(
            (event.service.as_deref(), event.source_port, event.bytes),
            (Some("tcp/80"), Some(0x1234), Some(60))
        );
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let event =
            only(&told(&[(attribute::PREFIX, b"lynceus deny a in r\0"), (attribute::PAYLOAD, &tcp(1))]));
        assert_eq!((event.service, event.source_port), (None, None));
        assert!(event.source.is_some());
    }

    #[test]
    fn extension_headers_are_passed() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 0, 64];
        packet.extend([0x20; 16]);
        packet.extend([0x21; 16]);
        // Hop by hop, then a first fragment, then UDP.
        packet.extend([44, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([17, 0, 0, 1, 0, 0, 0, 0]);
        packet.extend([0, 53, 0, 99, 0, 8, 0, 0]);
        let event =
            only(&told(&[(attribute::PREFIX, b"lynceus allow a out r\0"), (attribute::PAYLOAD, &packet)]));
        assert_eq!(
            (event.service.as_deref(), event.source_port, event.bytes),
            (Some("udp/99"), Some(53), Some(64))
        );
    }

    #[test]
    fn what_is_cut_off_or_not_ours_says_less_and_breaks_nothing() {
        let whole = told(&[(attribute::PREFIX, b"lynceus spoofed arp\0"), (attribute::PAYLOAD, &tcp(0))]);
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_empty(), "{len}");
        }
        assert_eq!(only(&whole).rule, "arp");
        assert!(parse(&told(&[(attribute::PREFIX, b"others: deny\0")])).is_empty());
        let refused =
            [&20u32.to_le_bytes()[..], &2u16.to_le_bytes(), &[0; 10], &(-16i32).to_le_bytes()].concat();
        assert_eq!(parse(&refused), [Told::Answer(-16)]);
        for packet in [&[][..], &[0x45], &[0x60; 39], &[0xff; 64]] {
            let event =
                only(&told(&[(attribute::PREFIX, b"lynceus deny a in r\0"), (attribute::PAYLOAD, packet)]));
            assert_eq!(event.service, None);
        }
    }
}
