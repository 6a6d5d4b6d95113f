//! Packets that the kernel holds until somebody says what becomes of them (NFQUEUE).
//!
//! *Does*: asks for queues, takes apart what comes, writes verdicts. *Trusts*: the kernel for the frame of each message; the packet in it is
//! the guest's. *Never*: lets a packet pass by its own: it goes through the rules once more, with a mark that says who let it.
//!
//! Layouts: `NFQNL_*`, `NFQA_*` (`include/uapi/linux/netfilter/nfnetlink_queue.h`), Linux 6.1.

use crate::flows::{FlowEvent, packet};
use crate::netlink::{
    COPIED_BYTES, ERROR, REQUEST, REQUEST_AND_ACK, attribute_bytes, attributes, big_half, big_word, message,
    messages, word,
};
use crate::nft::ask::{FIRST_QUEUE, Held};
use lynceus_policy::{Direction, Verdict};

/// `NFNL_SUBSYS_QUEUE << 8`, and what is asked of it.
const PACKET: u16 = 0x300;
const VERDICT: u16 = 0x301;
const CONFIG: u16 = 0x302;
/// `NF_DROP`, `NF_REPEAT`.
const DROP: u32 = 0;
const REPEAT: u32 = 4;

/// Attributes of a message with a packet.
mod attribute {
    pub(super) const HEADER: u16 = 1;
    pub(super) const MARK: u16 = 3;
    pub(super) const IN: u16 = 5;
    pub(super) const OUT: u16 = 6;
    pub(super) const PHYSICAL_IN: u16 = 7;
    pub(super) const PHYSICAL_OUT: u16 = 8;
    pub(super) const PAYLOAD: u16 = 10;
}

/// A packet that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// In which queue.
    pub queue: u16,
    /// Its number there.
    pub id: u32,
    /// Its mark.
    pub mark: u32,
}

impl Waiting {
    /// Seen from which end it is asked about, and whether it goes the other way than its connection's first packet.
    pub fn way(&self) -> Option<(Direction, bool)> {
        let ways =
            [(Direction::Out, false), (Direction::Out, true), (Direction::In, false), (Direction::In, true)];
        ways.get(usize::from(self.queue.checked_sub(FIRST_QUEUE)?)).copied()
    }
}

/// What a datagram of the kernel's says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// A packet waits.
    Waits(Waiting, Box<FlowEvent>),
    /// A request was granted (0), or refused with this error number.
    Answer(i32),
}

/// The requests, in order, that bind a socket to the queues. Each is answered.
pub fn requests() -> Vec<Vec<u8>> {
    let queue = |number: u16| {
        let bind = attribute_bytes(1, &[1, 0, 0, 0]);
        // NFQNL_COPY_PACKET.
        let mode = attribute_bytes(2, &[&COPIED_BYTES.to_be_bytes()[..], &[2]].concat());
        [bind, mode].map(|attribute| message(CONFIG, REQUEST_AND_ACK, number, &attribute))
    };
    (FIRST_QUEUE..FIRST_QUEUE + 4).flat_map(queue).collect()
}

/// What becomes of a packet, as one end's rules of this generation have it. It is not answered.
pub fn verdict(waiting: &Waiting, generation: u32, verdict: Verdict) -> Vec<u8> {
    let own = match waiting.way() {
        Some((Direction::Out, _)) => Held::Out,
        _ => Held::In,
    };
    let held = match (verdict, Held::of(waiting.mark, generation)) {
        (Verdict::Deny, _) => None,
        (Verdict::Reject, _) => Some(Held::Reject),
        (Verdict::Allow, Some(other)) if other != own => Some(Held::Both),
        (Verdict::Allow, _) => Some(own),
    };
    let kernels = if held.is_some() { REPEAT } else { DROP };
    let mut body = attribute_bytes(2, &[kernels.to_be_bytes(), waiting.id.to_be_bytes()].concat());
    body.extend(held.into_iter().flat_map(|held| attribute_bytes(3, &held.mark(generation).to_be_bytes())));
    message(VERDICT, REQUEST, waiting.queue, &body)
}

/// Everything in a datagram. What is none of ours is left out.
pub fn parse(datagram: &[u8]) -> Vec<Told> {
    let told = |(kind, body)| match kind {
        ERROR => word(body, 0).map(|error| Told::Answer(error as i32)),
        PACKET => waits(body),
        _ => None,
    };
    messages(datagram).filter_map(told).collect()
}

fn waits(body: &[u8]) -> Option<Told> {
    let queue = big_half(body, 2)?;
    let (mut id, mut mark, mut event) = (None, 0, FlowEvent::default());
    let mut physical = (None, None);
    for attribute in attributes(body) {
        let (kind, value) = attribute?;
        match kind {
            attribute::HEADER => id = big_word(value, 0),
            attribute::MARK => mark = big_word(value, 0)?,
            attribute::IN => event.interfaces.0 = big_word(value, 0),
            attribute::OUT => event.interfaces.1 = big_word(value, 0),
            attribute::PHYSICAL_IN => physical.0 = big_word(value, 0),
            attribute::PHYSICAL_OUT => physical.1 = big_word(value, 0),
            attribute::PAYLOAD => packet(value, &mut event),
            _ => {}
        }
    }
    event.interfaces = (physical.0.or(event.interfaces.0), physical.1.or(event.interfaces.1));
    Some(Told::Waits(Waiting { queue, id: id?, mark }, Box::new(event)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let body: Vec<u8> =
            attributes.iter().flat_map(|(kind, value)| attribute_bytes(*kind, value)).collect();
        message(PACKET, 0, FIRST_QUEUE + 2, &body)
    }

    #[test]
    fn a_packet_that_waits() {
        let tcp = [
            0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 1, 2, 10, 0, 2, 2, 0x12, 0x34, 0, 80, 0, 0, 0, 0,
        ];
        let datagram = held(&[
            (attribute::HEADER, &[0, 0, 0, 9, 8, 0, 2]),
            (attribute::MARK, &[0, 0, 0, 5]),
            (attribute::IN, &[0, 0, 0, 7]),
            (attribute::PHYSICAL_IN, &[0, 0, 0, 3]),
            (attribute::PAYLOAD, &tcp),
        ]);
        let told = parse(&datagram);
        let [Told::Waits(waiting, event)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(*waiting, Waiting { queue: FIRST_QUEUE + 2, id: 9, mark: 5 });
        assert_eq!(waiting.way(), Some((Direction::In, false)));
        assert_eq!((event.interfaces, event.service.as_deref()), ((Some(3), None), Some("tcp/80")));
        for len in 0..datagram.len() {
            assert!(parse(&datagram[..len]).is_empty(), "{len}");
        }
    }

    #[test]
    fn who_lets_it_pass_is_marked_and_both_are_told_from_one() {
        let mark = |waiting: &Waiting, answer| {
            let bytes = verdict(waiting, 7, answer);
            // Header, general part, the verdict's attribute; then the mark's.
            (big_word(&bytes, 24), big_word(&bytes, 36))
        };
        let out = Waiting { queue: FIRST_QUEUE, id: 1, mark: 0 };
        assert_eq!(mark(&out, Verdict::Allow), (Some(REPEAT), Some(Held::Out.mark(7))));
        assert_eq!(mark(&out, Verdict::Deny), (Some(DROP), None));
        assert_eq!(mark(&out, Verdict::Reject), (Some(REPEAT), Some(Held::Reject.mark(7))));
        let into = Waiting { queue: FIRST_QUEUE + 2, id: 1, mark: Held::Out.mark(7) };
        assert_eq!(mark(&into, Verdict::Allow), (Some(REPEAT), Some(Held::Both.mark(7))));
        let older = Waiting { mark: Held::Out.mark(6), ..into };
        assert_eq!(mark(&older, Verdict::Allow), (Some(REPEAT), Some(Held::In.mark(7))));
        assert_eq!(Waiting { queue: FIRST_QUEUE + 4, ..out }.way(), None);
    }
}
