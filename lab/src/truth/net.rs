//! Sockets and interfaces of every network namespace, from `/proc/PID/net/*` and `/sys/class/net` (proc(5)).
//!
//! The guest captures each network namespace once, under the first process in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

use super::{Truth, columns, hex};

/// One socket that the kernel lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Inode number of the network namespace.
    pub net_ns: u64,
    /// Inode number of the socket; 0 if no file has it (not accepted yet, or closed and lingering).
    pub inode: u64,
    /// What it is.
    pub kind: SocketKind,
}

/// A socket's family and what its family tells about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// TCP, UDP and raw, over IPv4 and IPv6.
    Inet {
        /// `tcp`, `tcp6`, `udp`, `udp6`, `udplite`, `raw`, `raw6`, `icmp`, `icmp6`; for a raw socket the local port is the protocol.
        protocol: &'static str,
        /// Own address.
        local: SocketAddr,
        /// The other side's address.
        remote: SocketAddr,
        /// `sk_state` (1 established, 10 listening, 7 closed).
        state: u8,
        /// Owner.
        uid: u32,
    },
    /// AF_UNIX.
    Unix {
        /// 1 stream, 2 datagram, 5 seqpacket.
        socket_type: u16,
        /// `SS_*` of include/uapi/linux/net.h: 1 unconnected, 3 connected.
        state: u8,
        /// Whether it listens (`__SO_ACCEPTCON`).
        listening: bool,
        /// Bound name, an abstract one with `@` for each NUL; empty if unbound.
        path: String,
    },
    /// AF_PACKET.
    Packet {
        /// 3 raw, 2 datagram.
        socket_type: u16,
        /// Ethernet protocol.
        protocol: u16,
        /// Interface index; 0 for all.
        interface: u32,
    },
    /// AF_NETLINK.
    Netlink {
        /// `NETLINK_*`.
        protocol: u16,
        /// Port id.
        port: u32,
        /// First 32 groups.
        groups: u32,
    },
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Inode number of the network namespace.
    pub net_ns: u64,
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// Hardware address, as `02:4c:41:42:00:01`.
    pub mac: String,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// `IFF_*`.
    pub flags: u32,
    /// Addresses and prefix lengths, sorted.
    pub addresses: Vec<(IpAddr, u8)>,
}

const INET: &[&str] = &["tcp", "tcp6", "udp", "udp6", "udplite", "raw", "raw6", "icmp", "icmp6"];

impl Truth {
    /// (first process, inode number) of every network namespace.
    pub fn net_namespaces(&self) -> Result<Vec<(u32, u64)>> {
        let inode = |pid| {
            let link = self.need(&format!("/proc/{pid}/ns/net"))?;
            let number = link.split_once('[').and_then(|(_, rest)| rest.trim_end_matches(']').parse().ok());
            Ok((pid, number.with_context(|| format!("/proc/{pid}/ns/net: {link}"))?))
        };
        self.numbers("/proc/", "/net/dev").into_iter().map(inode).collect()
    }

    /// Every socket of every network namespace.
    pub fn sockets(&self) -> Result<Vec<Socket>> {
        let mut sockets = Vec::new();
        for (pid, net_ns) in self.net_namespaces()? {
            let base = format!("/proc/{pid}/net");
            let mut add = |found: Vec<(u64, SocketKind)>| {
                sockets.extend(found.into_iter().map(|(inode, kind)| Socket { net_ns, inode, kind }));
            };
            for protocol in INET {
                add(self.lines(&format!("{base}/{protocol}"), 1, |line| inet(line, protocol))?);
            }
            add(self.lines(&format!("{base}/unix"), 1, unix)?);
            add(self.lines(&format!("{base}/packet"), 1, packet)?);
            add(self.lines(&format!("{base}/netlink"), 1, netlink)?);
        }
        Ok(sockets)
    }

    /// Every interface of every network namespace.
    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        let mut interfaces = Vec::new();
        for (pid, net_ns) in self.net_namespaces()? {
            let class = format!("/proc/{pid}/root/sys/class/net/");
            for name in self.names(&class, "/ifindex") {
                let field = |file: &str| {
                    self.text(&format!("{class}{name}/{file}")).map(|text| text.trim_end().to_owned())
                };
                let mut addresses: Vec<(IpAddr, u8)> = self
                    .lines(&format!("/proc/{pid}/net/ifaddrs"), 0, address)?
                    .into_iter()
                    .filter_map(|(of, address, prefix)| (of == name).then_some((address, prefix)))
                    .collect();
                addresses.sort();
                let read = || {
                    Some(Interface {
                        net_ns,
                        name: name.clone(),
                        index: field("ifindex")?.parse().ok()?,
                        mac: field("address")?,
                        mtu: field("mtu")?.parse().ok()?,
                        flags: u32::try_from(hex(&field("flags")?)?).ok()?,
                        addresses,
                    })
                };
                interfaces.push(read().with_context(|| format!("{class}{name} cannot be read"))?);
            }
        }
        Ok(interfaces)
    }
}

fn address(line: &str) -> Option<(String, IpAddr, u8)> {
    let ([name, address, prefix], _) = columns(line)?;
    Some((name.to_owned(), address.parse().ok()?, prefix.parse().ok()?))
}

fn inet(line: &str, protocol: &'static str) -> Option<(u64, SocketKind)> {
    let ([_, local, remote, state, _, _, _, uid, _, inode], _) = columns(line)?;
    let kind = SocketKind::Inet {
        protocol,
        local: endpoint(local)?,
        remote: endpoint(remote)?,
        state: u8::from_str_radix(state, 16).ok()?,
        uid: uid.parse().ok()?,
    };
    Some((inode.parse().ok()?, kind))
}

/// `0100007F:2711`: each 32-bit word of the address as the little-endian guest holds it, then the port.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word =
        |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_le_bytes);
    let ip: IpAddr = if address.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let octets = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
        Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

fn unix(line: &str) -> Option<(u64, SocketKind)> {
    let ([_, _, _, flags, socket_type, state, inode], path) = columns(line)?;
    let kind = SocketKind::Unix {
        socket_type: u16::from_str_radix(socket_type, 16).ok()?,
        state: u8::from_str_radix(state, 16).ok()?,
        listening: hex(flags)? & 0x1_0000 != 0,
        path: path.to_owned(),
    };
    Some((inode.parse().ok()?, kind))
}

fn packet(line: &str) -> Option<(u64, SocketKind)> {
    let ([_, _, socket_type, protocol, interface, _, _, _, inode], _) = columns(line)?;
    let kind = SocketKind::Packet {
        socket_type: socket_type.parse().ok()?,
        protocol: u16::from_str_radix(protocol, 16).ok()?,
        interface: interface.parse().ok()?,
    };
    Some((inode.parse().ok()?, kind))
}

fn netlink(line: &str) -> Option<(u64, SocketKind)> {
    let ([_, protocol, port, groups, _, _, _, _, _, inode], _) = columns(line)?;
    let kind = SocketKind::Netlink {
        protocol: protocol.parse().ok()?,
        port: port.parse().ok()?,
        groups: u32::from_str_radix(groups, 16).ok()?,
    };
    Some((inode.parse().ok()?, kind))
}

#[cfg(test)]
mod tests {
    use super::super::tests::truth;
    use super::*;

    #[test]
    fn sockets_of_every_family_are_read() {
        let truth = truth(&[
            ("/proc/1/ns/net", "net:[4026531840]"),
            ("/proc/1/net/dev", ""),
            (
                "/proc/1/net/tcp",
                "  sl\n   0: 0100007F:2711 0200007F:271B 01 00000000:00000000 00:00000000 00000000  1000        0 559 1 0 20\n",
            ),
            (
                "/proc/1/net/udp6",
                "  sl\n 9: 00000000000000000000000001000000:2714 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 560 2 0 0\n",
            ),
            (
                "/proc/1/net/unix",
                "Num\n000000007a67be2b: 00000002 00000000 00010000 0001 01   561 @lab-abstract\n0: 3 0 00000000 0002 03 562\n",
            ),
            ("/proc/1/net/packet", "sk\n00000000e5d2 3      3    0003   2     1 0      0      563\n"),
            (
                "/proc/1/net/netlink",
                "sk\n00000000c1 0   119        00000011 0        0        0     2        0        564\n",
            ),
        ]);
        let inet = |protocol, local: &str, remote: &str, state, uid| SocketKind::Inet {
            protocol,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            state,
            uid,
        };
        let unix = |socket_type, state, listening, path: &str| SocketKind::Unix {
            socket_type,
            state,
            listening,
            path: path.into(),
        };
        let expected = [
            (559, inet("tcp", "127.0.0.1:10001", "127.0.0.2:10011", 1, 1000)),
            (560, inet("udp6", "[::1]:10004", "[::]:0", 7, 0)),
            (561, unix(1, 1, true, "@lab-abstract")),
            (562, unix(2, 3, false, "")),
            (563, SocketKind::Packet { socket_type: 3, protocol: 3, interface: 2 }),
            (564, SocketKind::Netlink { protocol: 0, port: 119, groups: 0x11 }),
        ];
        let expected = expected.map(|(inode, kind)| Socket { net_ns: 4_026_531_840, inode, kind });
        assert_eq!(truth.sockets().unwrap(), expected);
    }

    #[test]
    fn an_interface_has_its_own_addresses_only() {
        let class = "/proc/1/root/sys/class/net/lab-dummy0";
        let files =
            [("address", "02:4c:41:42:00:01\n"), ("ifindex", "3\n"), ("mtu", "1500\n"), ("flags", "0x83\n")]
                .map(|(name, text)| (format!("{class}/{name}"), text));
        let mut all = vec![
            ("/proc/1/ns/net", "net:[7]"),
            ("/proc/1/net/dev", ""),
            ("/proc/1/net/ifaddrs", "lo 127.0.0.1 8\nlab-dummy0 2001:db8::7 64\nlab-dummy0 192.0.2.7 24\n"),
        ];
        all.extend(files.iter().map(|(path, text)| (path.as_str(), *text)));
        let found = truth(&all).interfaces().unwrap();
        let [interface] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((interface.net_ns, interface.index, interface.mtu, interface.flags), (7, 3, 1500, 0x83));
        assert_eq!(
            interface.addresses,
            [("192.0.2.7".parse().unwrap(), 24), ("2001:db8::7".parse().unwrap(), 64)]
        );
    }
}
