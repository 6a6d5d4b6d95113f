//! A connection that the kernel asks about: as the packet has it, as the guest has it, as the policy has it, and the answer.

use lynceus_firewall::flows::FlowEvent;
use lynceus_firewall::nft::ask::{self, Connection as Asked};
use lynceus_firewall::nft::{self, Nft, Path};
use lynceus_firewall::state::State;
use lynceus_firewall::{By, Decision, Flow, Who};
use lynceus_introspect::linux::{Connection, Protocol};
use lynceus_policy::{Direction, Lane, ServiceRange, Verdict};
use std::net::SocketAddr;

pub(super) struct Question {
    asked: Asked,
    path: Path,
}

impl Question {
    /// None for what is of no socket, or of no port of the VM.
    pub(super) fn of(flow: &FlowEvent, state: &State, vm: &str) -> Option<Question> {
        let direction = Direction::ALL.into_iter().find(|direction| direction.name() == flow.direction)?;
        let (lane, number) = flow.lane.filter(|(lane, _)| matches!(lane, Lane::Tcp | Lane::Udp))?;
        let sender = SocketAddr::new(flow.source?, flow.source_port?);
        let receiver = SocketAddr::new(flow.destination?, number);
        let port =
            |index: Option<u32>| state.ports.values().find(|port| port.vm == vm && Some(port.index) == index);
        let (came, goes) = (port(flow.interfaces.0), port(flow.interfaces.1));
        // A packet of a connection that was open before these rules may be a reply.
        let is_reply = came.is_some() == (direction == Direction::In);
        let (source, destination) = if is_reply { (receiver, sender) } else { (sender, receiver) };
        let path = came.or(goes)?.path?;
        Some(Question { asked: Asked { direction, lane, source, destination }, path })
    }

    pub(super) fn direction(&self) -> Direction {
        self.asked.direction
    }

    /// As the guest's sockets have it.
    pub(super) fn in_guest(&self) -> Connection {
        let Asked { direction, lane, source, destination } = self.asked;
        let protocol = if lane == Lane::Tcp { Protocol::Tcp } else { Protocol::Udp };
        let is_accepted = direction == Direction::In;
        let (local, remote) = if is_accepted { (destination, source) } else { (source, destination) };
        Connection { protocol, local, remote, is_accepted }
    }

    /// As the policy has it.
    pub(super) fn flow(&self) -> Flow {
        let Asked { lane, source, destination, .. } = self.asked;
        Flow { source: source.ip(), destination: destination.ip(), lane, number: destination.port() }
    }

    /// Gives the kernel the verdict, if its rules are still those that it was found by.
    pub(super) fn answer(&self, nft: &Nft, state: &State, verdict: Verdict) -> Result<(), nft::Error> {
        nft.commit(&ask::answer(self.path, state.generation, &self.asked, verdict))
    }

    /// What the event says of it.
    pub(super) fn tell(&self, event: &mut FlowEvent, decision: &Decision, who: Who) {
        let Asked { lane, source, destination, .. } = self.asked;
        let verdict = if decision.would_deny { "would-deny" } else { decision.verdict.name() };
        verdict.clone_into(&mut event.verdict);
        event.rule = match &decision.by {
            By::Rule(rule) => rule.id.clone(),
            By::Default(_) => "default".to_owned(),
        };
        (event.source, event.destination) = (Some(source.ip()), Some(destination.ip()));
        let number = destination.port();
        event.service = Some(ServiceRange { lane, first: number, last: number }.to_string());
        event.source_port = Some(source.port());
        event.who = Some(who.name());
        event.processes = who.processes().to_vec();
    }
}
