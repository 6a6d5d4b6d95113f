//! What happens to a packet on its way through this host: which VMs' rules it must pass, and whether it must pass them again.
//!
//! This is the reference for the table that [`crate::nft`] writes, as [`crate::evaluate`] is for the rules of one VM.

use crate::evaluate::{Moment, judge};
use crate::packet::Flow;
use lynceus_policy::{Direction, Interface, IpRange, Verdict, VmPolicy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Interfaces that are VMs' by their names: Xen's, QEMU's, libvirt's. One of them without a policy is closed.
pub const PORT_PREFIXES: [&str; 3] = ["vif", "tap", "vnet"];

/// An interface of this host behind which a VM's network card is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    /// The VM's policy.
    pub policy: Arc<VmPolicy>,
    /// Which of the VM's cards it is.
    pub interface: Interface,
}

/// This host's ports.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Host {
    /// By name.
    pub ports: BTreeMap<String, Port>,
    /// Whether its kernel can hold a packet until somebody answers for it (NFQUEUE).
    #[serde(default)]
    pub holds: bool,
}

/// What the kernel knows of the connection that a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is the first one.
    New,
    /// There were others, and `judged` says whether the rules of now have let them pass.
    Established {
        /// By the rules of now.
        judged: bool,
    },
    /// It belongs to no connection and cannot begin one.
    Invalid,
}

/// A packet on its way through this host.
#[derive(Clone, Copy, Debug)]
pub struct Transit<'a> {
    /// The interface that it came in by; none when this host sends it.
    pub from: Option<&'a str>,
    /// The interface that it leaves by; none when it is for this host.
    pub to: Option<&'a str>,
    /// Its connection, by the first packet.
    pub flow: Flow,
    /// Whether it goes the other way than the first packet.
    pub is_reply: bool,
    /// What the kernel knows.
    pub state: State,
}

impl Transit<'_> {
    /// The packet's own source address.
    pub fn source(&self) -> IpAddr {
        if self.is_reply { self.flow.destination } else { self.flow.source }
    }
}

/// What happens to it.
pub fn forward(host: &Host, packet: &Transit<'_>, moment: &Moment) -> Verdict {
    let port = |name: Option<&str>| name.and_then(|name| host.ports.get(name));
    let (from, to) = (port(packet.from), port(packet.to));
    let is_unknown_port = |name: &str| {
        !host.ports.contains_key(name) && PORT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    if packet.from.is_some_and(is_unknown_port) || packet.to.is_some_and(is_unknown_port) {
        return Verdict::Deny;
    }
    if from.is_none() && to.is_none() {
        return Verdict::Allow;
    }
    if from.is_some_and(|port| !may_send_from(&port.interface, packet.source())) {
        return Verdict::Deny;
    }
    match packet.state {
        State::Established { judged: true } => return Verdict::Allow,
        State::Invalid => return Verdict::Deny,
        State::New | State::Established { judged: false } => {}
    }
    let (client, server) = if packet.is_reply { (to, from) } else { (from, to) };
    let out = client.map(|port| judge(&port.policy, Direction::Out, &packet.flow, moment).verdict);
    let into = server.map(|port| judge(&port.policy, Direction::In, &packet.flow, moment).verdict);
    let refused = out.into_iter().chain(into).find(|verdict| *verdict != Verdict::Allow);
    refused.unwrap_or(Verdict::Allow)
}

/// Whether a card may send from an address.
pub fn may_send_from(interface: &Interface, source: IpAddr) -> bool {
    !interface.anti_spoofing || own_ranges(interface).iter().any(|range| range.contains(source))
}

/// All that a card may send from: its addresses, the link-local one of its MAC, and the networks that it routes for.
pub fn own_ranges(interface: &Interface) -> Vec<IpRange> {
    let own = interface.addresses.iter().copied().chain([link_local(interface)]).map(IpRange::one);
    own.chain(interface.routes.iter().copied()).collect()
}

/// The link-local address that follows from the MAC: RFC 4291, appendix A.
pub fn link_local(interface: &Interface) -> IpAddr {
    let [a, b, c, d, e, f] = interface.mac.0;
    let id = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[0xfe, 0x80]);
    bytes[8..].copy_from_slice(&id);
    IpAddr::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_the_macs() {
        let interface = Interface {
            port: None,
            mac: "52:54:00:12:34:56".parse().unwrap(),
            addresses: Vec::new(),
            anti_spoofing: true,
            routes: Vec::new(),
            dhcp_server: false,
        };
        assert_eq!(link_local(&interface).to_string(), "fe80::5054:ff:fe12:3456");
    }
}
