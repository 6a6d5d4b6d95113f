//! Flows for collectors: IPFIX, as datagrams.
//!
//! *Does*: writes messages with templates and records; a collector that comes later gets the templates again. *Never*: sends anything itself, or
//! grows past a datagram that no network cuts.
//!
//! Sources: RFC 7011 (messages, sets, variable lengths); the numbers and types of the information elements are IANA's registry of RFC 7012.

use crate::sums::Sum;
use lynceus_policy::Lane;
use std::net::IpAddr;

/// Bytes of a message at most: Ethernet's, less an IPv6 and a UDP header and a tunnel's (RFC 7011, 10.3.3).
const MAX_BYTES: usize = 1400;
/// So many messages may go between two with templates: RFC 7011, 8.4, wants them again and again where datagrams may be lost.
const TEMPLATES_EVERY: u32 = 20;
/// The numbers of our templates, for IPv4 and IPv6.
const TEMPLATES: [u16; 2] = [256, 257];
/// The set of templates has this number.
const TEMPLATE_SET: u16 = 2;
/// The length of what says its own.
const VARIABLE: u16 = 0xffff;
/// Text of guests and admins is cut here: its length is then one byte.
const MAX_TEXT_BYTES: usize = 200;

/// Element and length of what every record has, before the addresses.
const FIRST: [(u16, u16); 10] = [
    (152, 8), // flowStartMilliseconds
    (153, 8), // flowEndMilliseconds
    (1, 8),   // octetDeltaCount
    (2, 8),   // packetDeltaCount
    (4, 1),   // protocolIdentifier
    (7, 2),   // sourceTransportPort
    (11, 2),  // destinationTransportPort
    (61, 1),  // flowDirection: 0 to the VM, 1 from it
    (233, 1), // firewallEvent: 1 created, 3 denied
    (136, 1), // flowEndReason: 1 idle, 2 it may go on, 4 forced
];
/// And behind them: interfaceName, virtualStationName, selectorName (the rule).
const LAST: [(u16, u16); 3] = [(82, VARIABLE), (350, VARIABLE), (335, VARIABLE)];
/// sourceIPv4Address and destinationIPv4Address, and those of IPv6.
const ADDRESSES: [[(u16, u16); 2]; 2] = [[(8, 4), (12, 4)], [(27, 16), (28, 16)]];

/// Writes the messages of one stream of flows.
#[derive(Debug, Default)]
pub struct Exporter {
    /// Records so far, as a message's header has it.
    records: u32,
    messages: u32,
}

impl Exporter {
    /// The messages for these flows, each a datagram. Flows without addresses (ARP) are left out: there is no record for them.
    pub fn messages(&mut self, flows: &[Sum], now_s: u32) -> Vec<Vec<u8>> {
        let records: Vec<(u16, Vec<u8>)> = flows.iter().filter_map(record).collect();
        let mut messages = Vec::new();
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let mut body = Vec::new();
            if self.messages.is_multiple_of(TEMPLATES_EVERY) {
                body.extend(templates());
            }
            let room = MAX_BYTES.saturating_sub(body.len());
            let mut used = 0usize;
            // A record in a set of its own costs four bytes, and keeps the order.
            let fits = |(_, record): &&(u16, Vec<u8>)| {
                used = used.saturating_add(record.len()).saturating_add(4);
                used <= room
            };
            let (these, others) = rest.split_at(rest.iter().take_while(fits).count().max(1).min(rest.len()));
            these.iter().for_each(|(template, record)| body.extend(set(*template, record)));
            messages.push(self.message(&body, now_s));
            self.records = self.records.wrapping_add(u32::try_from(these.len()).unwrap_or(u32::MAX));
            rest = others;
        }
        messages
    }

    fn message(&mut self, body: &[u8], now_s: u32) -> Vec<u8> {
        self.messages = self.messages.wrapping_add(1);
        let len = u16::try_from(body.len().saturating_add(16)).unwrap_or(u16::MAX);
        let mut message = 10u16.to_be_bytes().to_vec();
        message.extend(len.to_be_bytes());
        message.extend(now_s.to_be_bytes());
        message.extend(self.records.to_be_bytes());
        // The observation domain: this host is one.
        message.extend(1u32.to_be_bytes());
        message.extend(body);
        message
    }
}

fn set(number: u16, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len().saturating_add(4)).unwrap_or(u16::MAX);
    [&number.to_be_bytes()[..], &len.to_be_bytes(), content].concat()
}

fn templates() -> Vec<u8> {
    let mut content = Vec::new();
    for (number, addresses) in TEMPLATES.into_iter().zip(ADDRESSES) {
        let fields: Vec<(u16, u16)> = FIRST.into_iter().chain(addresses).chain(LAST).collect();
        content.extend(number.to_be_bytes());
        content.extend(u16::try_from(fields.len()).unwrap_or(0).to_be_bytes());
        for (element, len) in fields {
            content.extend(element.to_be_bytes());
            content.extend(len.to_be_bytes());
        }
    }
    set(TEMPLATE_SET, &content)
}

fn record(flow: &Sum) -> Option<(u16, Vec<u8>)> {
    let Sum { event, port, .. } = flow;
    let (template, addresses) = match (event.source?, event.destination?) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (TEMPLATES[0], [from.octets(), to.octets()].concat()),
        (IpAddr::V6(from), IpAddr::V6(to)) => (TEMPLATES[1], [from.octets(), to.octets()].concat()),
        _ => return None,
    };
    let (protocol, to_port) = match event.lane {
        Some((Lane::Tcp, port)) => (6, port),
        Some((Lane::Udp, port)) => (17, port),
        Some((Lane::Sctp, port)) => (132, port),
        // Type and code, as collectors expect them there.
        Some((Lane::Icmp4, kind)) => (1, kind),
        Some((Lane::Icmp6, kind)) => (58, kind),
        Some((Lane::Other, protocol)) => (u8::try_from(protocol).unwrap_or(255), 0),
        None => (255, 0),
    };
    let is_denied = !matches!(event.verdict.as_str(), "allow" | "pass" | "would-deny");
    let mut bytes = Vec::new();
    for number in [event.time_ms, flow.last_ms, flow.bytes, flow.packets] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.push(protocol);
    bytes.extend(event.source_port.unwrap_or(0).to_be_bytes());
    bytes.extend(to_port.to_be_bytes());
    bytes.push(u8::from(event.direction != "in"));
    bytes.push(if is_denied { 3 } else { 1 });
    bytes.push(flow.end as u8);
    bytes.extend(addresses);
    [port, &event.vm, &event.rule].into_iter().for_each(|text| bytes.extend(variable(text)));
    Some((template, bytes))
}

/// RFC 7011, 7: a length of one byte, and the text, which is cut between two characters.
fn variable(text: &str) -> Vec<u8> {
    let end = (0..=text.len().min(MAX_TEXT_BYTES)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let cut = text.get(..end).unwrap_or_default();
    let len = u8::try_from(cut.len()).unwrap_or(0);
    [&[len], cut.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::FlowEvent;
    use crate::sums::End;

    fn flow(source: &str, destination: &str, rule: &str) -> FlowEvent {
        FlowEvent {
            time_ms: 1_780_272_000_123,
            verdict: "deny".to_owned(),
            vm: "web".to_owned(),
            direction: "in".to_owned(),
            rule: rule.to_owned(),
            source: source.parse().ok(),
            destination: destination.parse().ok(),
            lane: Some((Lane::Tcp, 443)),
            source_port: Some(40000),
            bytes: Some(60),
            ..FlowEvent::default()
        }
    }

    /// The numbers of a message's sets, held to their lengths.
    fn sets(message: &[u8]) -> Vec<u16> {
        let half = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        assert_eq!((half(0), usize::from(half(2))), (10, message.len()));
        let (mut at, mut numbers) = (16, Vec::new());
        while at < message.len() {
            numbers.push(half(at));
            at += usize::from(half(at + 2));
        }
        assert_eq!(at, message.len());
        numbers
    }

    #[test]
    fn templates_come_first_and_again_and_no_message_is_too_long() {
        let mut exporter = Exporter::default();
        let long = "r".repeat(1000);
        let v4 = flow("10.0.0.1", "10.0.0.2", &long);
        let v6 = flow("fd00::1", "fd00::2", "ü".repeat(300).as_str());
        let arp = FlowEvent { source: None, ..v4.clone() };
        let sum = |event: &FlowEvent| {
            let (event, port) = (event.clone(), "vif1.0".to_owned());
            Sum { event, port, packets: 3, bytes: 180, last_ms: 9, end: End::Idle }
        };
        let flows: Vec<Sum> = (0..200).flat_map(|_| [&v4, &v6, &arp].map(sum)).collect();
        let messages = exporter.messages(&flows, 7);
        let all: Vec<Vec<u16>> = messages.iter().map(|message| sets(message)).collect();
        assert!(messages.iter().all(|message| message.len() <= MAX_BYTES + 16));
        let with_templates: Vec<usize> =
            all.iter().enumerate().filter(|(_, sets)| sets[0] == TEMPLATE_SET).map(|(at, _)| at).collect();
        assert!(
            with_templates.iter().enumerate().all(|(turn, at)| *at == turn * 20) && with_templates.len() > 1
        );
        let records = all.iter().flatten().filter(|number| TEMPLATES.contains(number)).count();
        assert_eq!((records, exporter.records), (400, 400));
        // A header says how many records came before it.
        assert_eq!(messages[0][8..12], [0; 4]);
        assert_eq!(usize::from(messages[1][11]), all[0].len() - 1);
    }
}
