//! Network namespaces and their interfaces, with addresses.
//!
//! *Trusts*: nothing. *Never*: takes the guest's own addresses for proof of anything: firewall rules key on the interface.
//!
//! Layouts: `include/net/net_namespace.h`, `include/linux/netdevice.h`, `include/linux/inetdevice.h`,
//! `include/net/if_inet6.h` (Linux 5.10 to 7.2).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::record::{Record, Span};
use super::{Resolved, View};
use crate::{AccessError, GapReason, Gva, Partial};
use lynceus_profiles::{Field, Profile};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest hardware address (`MAX_ADDR_LEN`).
const MAX_HARDWARE_BYTES: usize = 32;

/// A network namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetNamespace {
    /// Its inode number, as in `net:[4026531840]`.
    pub inode: u32,
    /// Address of its `struct net`.
    pub at: Gva,
}

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Inode number of its network namespace.
    pub namespace: u32,
    /// Interface index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What made it (`veth`, `bridge`, `tun`, …); `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Hardware address; empty where it has none.
    pub hardware: Vec<u8>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// `IFF_` flags as `ip link` shows them.
    pub flags: u32,
    /// Operational state of RFC 2863 as `ip link` numbers it (0 unknown, 2 down, 6 up).
    pub operational: u8,
    /// IPv4 and IPv6 addresses.
    pub addresses: Vec<InterfaceAddress>,
}

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix in bits.
    pub prefix_bits: u8,
}

/// Members of namespaces, devices and addresses.
#[derive(Clone, Debug)]
pub struct NetLayout {
    /// Link-time address of `net_namespace_list`.
    namespaces: u64,
    namespace_node: Field,
    namespace_inode: Field,
    devices: Field,
    device_node: Field,
    device: Span,
    name: Field,
    index: Field,
    mtu: Field,
    flags: Field,
    state: Field,
    operational: Field,
    hardware: Field,
    hardware_len: Field,
    link_ops: Field,
    link_kind: Field,
    ipv4: Field,
    ipv6: Option<Ipv6Layout>,
    ipv4_first: Field,
    ipv4_span: Span,
    ipv4_next: Field,
    ipv4_local: Field,
    ipv4_prefix: Field,
}

/// Members of IPv6 addresses, where the kernel has IPv6.
#[derive(Clone, Copy, Debug)]
struct Ipv6Layout {
    device: Field,
    first: Field,
    node: Field,
    address: Field,
    prefix: Field,
}

impl NetLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let device = |path| profile.field("net_device", path);
        let (name, index, mtu, flags) =
            (device("name")?, device("ifindex")?, device("mtu")?, device("flags")?);
        let (state, operational) = (device("state")?, device("operstate")?);
        let (hardware, hardware_len, ipv4) = (device("dev_addr")?, device("addr_len")?, device("ip_ptr")?);
        let address = |path| profile.field("in_ifaddr", path);
        let (ipv4_next, ipv4_local) = (address("ifa_next")?, address("ifa_local")?);
        let ipv4_prefix = address("ifa_prefixlen")?;
        Ok(NetLayout {
            namespaces: profile.symbol("net_namespace_list")?,
            namespace_node: profile.field("net", "list")?,
            namespace_inode: profile.field("net", "ns.inum")?,
            devices: profile.field("net", "dev_base_head")?,
            device_node: device("dev_list")?,
            device: Span::of(&[name, index, mtu, flags, state, operational, hardware, hardware_len, ipv4]),
            name,
            index,
            mtu,
            flags,
            state,
            operational,
            hardware,
            hardware_len,
            link_ops: device("rtnl_link_ops")?,
            link_kind: profile.field("rtnl_link_ops", "kind")?,
            ipv4,
            ipv6: Ipv6Layout::resolve(profile).ok(),
            ipv4_first: profile.field("in_device", "ifa_list")?,
            ipv4_span: Span::of(&[ipv4_next, ipv4_local, ipv4_prefix]),
            ipv4_next,
            ipv4_local,
            ipv4_prefix,
        })
    }
}

impl Ipv6Layout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        let address = |path| profile.field("inet6_ifaddr", path);
        Ok(Ipv6Layout {
            device: profile.field("net_device", "ip6_ptr")?,
            first: profile.field("inet6_dev", "addr_list")?,
            node: address("if_list")?,
            address: address("addr")?,
            prefix: address("prefix_len")?,
        })
    }
}

impl<'a> View<'a> {
    /// Every network namespace, those included that no process is in.
    pub fn net_namespaces(&self) -> Partial<NetNamespace> {
        let layout = match self.net_layout() {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("network namespaces", missing),
        };
        let mut found = Partial::default();
        let nodes = self.list("network namespaces", self.kernel().slid(layout.namespaces));
        for node in found.absorb(nodes) {
            let at = Gva(node.0.wrapping_sub(u64::from(layout.namespace_node.offset)));
            let inode = self.integer(at, layout.namespace_inode);
            let inode = found.ok("network namespace", at, inode);
            found.items.extend(inode.map(|inode| NetNamespace { inode: low32(inode), at }));
        }
        found
    }

    /// Every interface of every network namespace.
    pub fn interfaces(&self) -> Partial<Interface> {
        let layout = match self.net_layout() {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("network interfaces", missing),
        };
        let mut found = Partial::default();
        for namespace in found.absorb(self.net_namespaces()) {
            let devices = self.list("network interfaces", namespace.at.field(layout.devices.offset));
            for node in found.absorb(devices) {
                let at = Gva(node.0.wrapping_sub(u64::from(layout.device_node.offset)));
                let interface = self.interface(layout, namespace.inode, at, &mut found);
                let interface = found.ok("network interface", at, interface);
                found.items.extend(interface);
            }
        }
        found
    }

    fn net_layout(&self) -> Result<&'a NetLayout, GapReason> {
        self.kernel().layouts.net.as_ref().map_err(|missing| missing.clone().into())
    }

    fn interface(
        &self,
        layout: &NetLayout,
        namespace: u32,
        at: Gva,
        gaps: &mut Partial<Interface>,
    ) -> Result<Interface, GapReason> {
        let device = self.record(at, layout.device)?;
        let mut addresses = gaps.absorb(self.ipv4_addresses(layout, device.pointer(layout.ipv4)?));
        if let Some(ipv6) = &layout.ipv6 {
            addresses.extend(gaps.absorb(self.ipv6_addresses(ipv6, at)));
        }
        Ok(Interface {
            namespace,
            index: device.u32(layout.index)?,
            name: device.text(layout.name)?,
            kind: self.link_kind(layout, at)?,
            hardware: self.hardware(layout, &device)?,
            mtu: device.u32(layout.mtu)?,
            flags: shown_flags(&device, layout)?,
            operational: (device.integer(layout.operational)? & 0xff) as u8,
            addresses,
        })
    }

    fn link_kind(&self, layout: &NetLayout, device: Gva) -> Result<Option<String>, AccessError> {
        let operations = Gva(self.integer(device, layout.link_ops)?);
        if operations.is_null() {
            return Ok(None);
        }
        self.string(Gva(self.integer(operations, layout.link_kind)?), 64).map(Some)
    }

    fn hardware(&self, layout: &NetLayout, device: &Record<'_, '_>) -> Result<Vec<u8>, AccessError> {
        let len = usize::try_from(device.integer(layout.hardware_len)?).unwrap_or(0).min(MAX_HARDWARE_BYTES);
        let mut address = vec![0; len];
        if len > 0 {
            self.space().read(device.pointer(layout.hardware)?, &mut address)?;
        }
        Ok(address)
    }

    fn ipv4_addresses(&self, layout: &NetLayout, device: Gva) -> Partial<InterfaceAddress> {
        let mut found = Partial::default();
        if device.is_null() {
            return found;
        }
        let first = self.integer(device, layout.ipv4_first).map(Gva);
        let Some(first) = found.ok("IPv4 addresses", device, first) else { return found };
        let nodes = self.chain("IPv4 addresses", first, layout.ipv4_next.offset);
        for at in found.absorb(nodes) {
            let address = self.ipv4_address(layout, at);
            let address = found.ok("IPv4 address", at, address);
            found.items.extend(address);
        }
        found
    }

    fn ipv4_address(&self, layout: &NetLayout, at: Gva) -> Result<InterfaceAddress, AccessError> {
        let entry = self.record(at, layout.ipv4_span)?;
        let ip = IpAddr::V4(Ipv4Addr::from(entry.bytes::<4>(layout.ipv4_local)?));
        Ok(InterfaceAddress { ip, prefix_bits: entry.integer(layout.ipv4_prefix)?.min(32) as u8 })
    }

    fn ipv6_addresses(&self, layout: &Ipv6Layout, device: Gva) -> Partial<InterfaceAddress> {
        let mut found = Partial::default();
        let inner = self.integer(device, layout.device);
        let Some(inner) = found.ok("IPv6 addresses", device, inner).filter(|inner| *inner != 0) else {
            return found;
        };
        let nodes = self.list("IPv6 addresses", Gva(inner).field(layout.first.offset));
        for node in found.absorb(nodes) {
            let at = Gva(node.0.wrapping_sub(u64::from(layout.node.offset)));
            let address = self.ipv6_address(layout, at);
            let address = found.ok("IPv6 address", at, address);
            found.items.extend(address);
        }
        found
    }

    fn ipv6_address(&self, layout: &Ipv6Layout, at: Gva) -> Result<InterfaceAddress, AccessError> {
        let ip = IpAddr::V6(Ipv6Addr::from(self.bytes::<16>(at.field(layout.address.offset))?));
        Ok(InterfaceAddress { ip, prefix_bits: self.integer(at, layout.prefix)?.min(128) as u8 })
    }
}

/// `dev_get_flags` of `net/core/dev.c`: some flags are kept, some follow from the device's state.
fn shown_flags(device: &Record<'_, '_>, layout: &NetLayout) -> Result<u32, AccessError> {
    const RUNNING: u32 = 1 << 6;
    const LOWER_UP: u32 = 1 << 16;
    const DORMANT: u32 = 1 << 17;
    let kept = device.u32(layout.flags)? & !(RUNNING | LOWER_UP | DORMANT);
    let state = device.integer(layout.state)?;
    let (started, carrier, dormant) = (state & 1 != 0, state & (1 << 2) == 0, state & (1 << 4) != 0);
    // Operational "up" (6) and "unknown" (0, for devices that do not track it).
    let up = matches!(device.integer(layout.operational)? & 0xff, 0 | 6);
    let mut derived = 0;
    for (set, flag) in [(up, RUNNING), (carrier, LOWER_UP), (dormant, DORMANT)] {
        derived |= if started && set { flag } else { 0 };
    }
    Ok(kept | derived)
}

fn low32(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;
