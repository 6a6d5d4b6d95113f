//! Packets that rules told of, summed to flows: one for each sender, receiver, service and rule.
//!
//! *Does*: adds up until a flow is idle or has gone on for long, then gives it away. *Trusts*: nothing: packets are guests', and may be of as many
//! flows as there are. *Never*: holds more than [`MAX_OPEN`]: the oldest goes early.
//!
//! Rules tell of a connection's first packet, and of each packet that they do not let pass: of a connection that was let pass a flow has
//! no more than that.

use crate::flows::FlowEvent;
use lynceus_policy::Lane;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// A flow without packets for so long is over: TCP sends again after 1, 2, 4 and 8 seconds.
pub const IDLE_MS: u64 = 10_000;
/// A flow that goes on is told of each minute.
pub const ACTIVE_MS: u64 = 60_000;
/// More flows are not summed at a time.
pub const MAX_OPEN: usize = 16_384;

/// Some packets of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sum {
    /// The first of them.
    pub event: FlowEvent,
    /// The VM's port.
    pub port: String,
    /// How many.
    pub packets: u64,
    /// Their lengths, as their headers have them.
    pub bytes: u64,
    /// When the last one came, as [`FlowEvent::time_ms`].
    pub last_ms: u64,
    /// Why it is given away: flowEndReason of RFC 5102.
    pub end: End,
}

/// Why a flow ends here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// No packet came for [`IDLE_MS`].
    Idle = 1,
    /// It has gone on for [`ACTIVE_MS`], and may go on.
    Active = 2,
    /// There were too many, or nobody sums them any more.
    Forced = 4,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    ends: (Option<IpAddr>, Option<IpAddr>),
    service: (Option<(Lane, u16)>, Option<u16>),
    judged: [String; 5],
}

struct Open {
    sum: Sum,
    number: u64,
    began: u64,
    heard: u64,
}

/// Flows that go on. Times are milliseconds of a clock that is never put back.
#[derive(Default)]
pub struct Sums {
    open: HashMap<Arc<Key>, Open>,
    /// By their numbers, which is by when they began: with as many as are held, each packet of another flow asks for the oldest.
    ages: BTreeMap<u64, Arc<Key>>,
    begun: u64,
}

impl Sums {
    /// Adds a packet, which was seen at a port. What had to go to make room is given away.
    pub fn add(&mut self, event: &FlowEvent, port: &str, now: u64) -> Option<Sum> {
        let FlowEvent { verdict, vm, direction, rule, .. } = event;
        let key = Key {
            ends: (event.source, event.destination),
            service: (event.lane, event.source_port),
            judged: [verdict, vm, direction, rule, port].map(|text| text.to_owned()),
        };
        let bytes = u64::from(event.bytes.unwrap_or(0));
        if let Some(open) = self.open.get_mut(&key) {
            open.heard = now;
            open.sum.packets = open.sum.packets.saturating_add(1);
            open.sum.bytes = open.sum.bytes.saturating_add(bytes);
            open.sum.last_ms = open.sum.last_ms.max(event.time_ms);
            return None;
        }
        let gone = if self.open.len() < MAX_OPEN { None } else { self.oldest() };
        let (event, port, last_ms) = (event.clone(), port.to_owned(), event.time_ms);
        let sum = Sum { event, port, packets: 1, bytes, last_ms, end: End::Forced };
        let (key, number) = (Arc::new(key), self.begun);
        self.begun = number.wrapping_add(1);
        self.ages.insert(number, key.clone());
        self.open.insert(key, Open { sum, number, began: now, heard: now });
        gone
    }

    fn oldest(&mut self) -> Option<Sum> {
        let (_, key) = self.ages.pop_first()?;
        self.open.remove(&key).map(|open| open.sum)
    }

    /// Those that are over, and those of which it is time to tell.
    pub fn due(&mut self, now: u64) -> Vec<Sum> {
        let end = |open: &Open| {
            let is_over = |since: u64, after| now.saturating_sub(since) >= after;
            if is_over(open.heard, IDLE_MS) {
                Some(End::Idle)
            } else {
                is_over(open.began, ACTIVE_MS).then_some(End::Active)
            }
        };
        self.take(end)
    }

    /// All of them, whenever they are.
    pub fn all(&mut self) -> Vec<Sum> {
        self.take(|_| Some(End::Forced))
    }

    fn take(&mut self, end: impl Fn(&Open) -> Option<End>) -> Vec<Sum> {
        let mut taken = Vec::new();
        let ages = &mut self.ages;
        self.open.retain(|_, open| match end(open) {
            Some(end) => {
                ages.remove(&open.number);
                taken.push(Sum { end, ..open.sum.clone() });
                false
            }
            None => true,
        });
        taken.sort_by_key(|sum| sum.event.time_ms);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(port: u16, time_ms: u64) -> FlowEvent {
        let source = "10.0.0.1".parse().ok();
        FlowEvent { time_ms, source, source_port: Some(port), bytes: Some(60), ..FlowEvent::default() }
    }

    #[test]
    fn packets_of_a_flow_are_summed_until_it_is_idle() {
        let mut sums = Sums::default();
        for (at, port) in [(0, 1), (1000, 1), (3000, 1), (3000, 2)] {
            assert_eq!(sums.add(&packet(port, 5000 + at), "tap1", at), None);
        }
        assert!(sums.due(3000 + IDLE_MS - 1).is_empty());
        // Another port is another flow, and so is another verdict.
        sums.add(&FlowEvent { verdict: "deny".to_owned(), ..packet(1, 9000) }, "tap1", 4000);
        let due = sums.due(3000 + IDLE_MS);
        let told: Vec<_> =
            due.iter().map(|sum| (sum.packets, sum.bytes, sum.event.time_ms, sum.last_ms)).collect();
        assert_eq!(told, [(3, 180, 5000, 8000), (1, 60, 8000, 8000)]);
        assert!(due.iter().all(|sum| sum.end == End::Idle));
        assert_eq!((sums.all().len(), sums.all().len()), (1, 0));
    }

    #[test]
    fn what_goes_on_is_told_of_each_minute_and_too_many_go_early() {
        let mut sums = Sums::default();
        let mut told = Vec::new();
        for at in (0..=180_000).step_by(1000) {
            sums.add(&packet(1, at), "tap1", at);
            told.extend(sums.due(at));
        }
        assert_eq!(told.iter().map(|sum| sum.packets).collect::<Vec<_>>(), [61, 61]);
        assert!(told.iter().all(|sum| sum.end == End::Active));
        let mut sums = Sums::default();
        let gone = (0..MAX_OPEN as u64 + 9).filter_map(|at| {
            let from =
                FlowEvent { destination: Some(std::net::Ipv4Addr::from(at as u32).into()), ..packet(1, at) };
            sums.add(&from, "tap1", at)
        });
        let gone: Vec<u64> = gone.map(|sum| sum.event.time_ms).collect();
        assert_eq!(gone, (0..9).collect::<Vec<_>>());
        assert_eq!(sums.all().len(), MAX_OPEN);
    }
}
