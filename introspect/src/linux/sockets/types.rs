//! What a socket is to those who read a listing.

use crate::Gva;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// A socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {
    /// Address of the `struct sock` (or of the mini-socket in its place).
    pub at: Gva,
    /// Its protocol.
    pub protocol: Protocol,
    /// Address family: 2 `AF_INET`, 10 `AF_INET6`, 1 `AF_UNIX`, …
    pub family: u16,
    /// `SOCK_STREAM` 1, `SOCK_DGRAM` 2, `SOCK_RAW` 3, `SOCK_SEQPACKET` 5.
    pub kind: u16,
    /// Protocol number within the family (`IPPROTO_`, the netlink unit).
    pub number: u16,
    /// Its state.
    pub state: SocketState,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
    /// Owning user id.
    pub uid: u32,
    /// Inode number, as in `socket:[N]`; 0 where it belongs to no file.
    pub inode: u64,
    /// Its open file (`struct file`); null for one that the kernel made for itself, or that nobody has accepted yet.
    pub file: Gva,
    /// What another part of the kernel that uses it keeps with it; null where none does.
    pub user_data: Gva,
    /// Instructions of the BPF filter that is attached to it, as the kernel keeps them; none where none is.
    pub filter: Option<u32>,
    /// Inode number of its network namespace.
    pub namespace: u32,
    /// An IPv6 socket that takes no IPv4 traffic.
    pub ipv6_only: bool,
    /// Shares its port (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// Whether the kernel's own table of its protocol holds it.
    pub in_table: bool,
    /// Every descriptor of every process that leads to it.
    pub owners: Vec<Owner>,
}

/// A process that holds a socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Process id (thread group) in the initial namespace.
    pub pid: u32,
    /// Name of its main thread.
    pub comm: String,
    /// Descriptor number.
    pub fd: u32,
}

/// A protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite.
    UdpLite,
    /// ICMP echo socket.
    Icmp,
    /// Raw IP.
    Raw,
    /// Another protocol over IP (SCTP, MPTCP, …).
    OtherIp,
    /// Unix domain.
    Unix,
    /// Packet (link layer).
    Packet,
    /// Netlink.
    Netlink,
    /// Any other family.
    Other,
}

/// One end of a socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// None, or not known.
    None,
    /// Address and port. An `AF_INET6` socket keeps its IPv6 form (`::ffff:1.2.3.4`); for raw sockets the local port is
    /// the protocol number.
    Inet(SocketAddr),
    /// A Unix socket's name: a path, or `@` and an abstract name (NUL bytes shown as `@`, as `/proc/net/unix` does).
    Unix(String),
    /// A Unix socket's unnamed peer, by inode.
    Peer(u64),
    /// Link layer: Ethernet type and interface index (0: any).
    Link {
        /// Protocol in host order; 3 is every one.
        ether_type: u16,
        /// Interface index.
        interface: u32,
    },
    /// Netlink: port id and the first 32 multicast groups.
    Netlink {
        /// Port id; 0 is the kernel.
        port: u32,
        /// Bit mask of groups.
        groups: u32,
    },
}

/// State of a socket; datagram sockets know two of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SocketState(pub u8);

impl SocketState {
    /// A mini-socket that waits out the end of a connection.
    pub const TIME_WAIT: SocketState = SocketState(6);
    /// Waits for connections.
    pub const LISTEN: SocketState = SocketState(10);
    /// A mini-socket of a handshake that has not finished.
    pub const NEW_SYN_RECV: SocketState = SocketState(12);

    /// The state as `ss` prints it.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 14] = [
            "UNKNOWN",
            "ESTAB",
            "SYN-SENT",
            "SYN-RECV",
            "FIN-WAIT-1",
            "FIN-WAIT-2",
            "TIME-WAIT",
            "UNCONN",
            "CLOSE-WAIT",
            "LAST-ACK",
            "LISTEN",
            "CLOSING",
            "SYN-RECV",
            "UNCONN",
        ];
        NAMES.get(usize::from(self.0)).copied().unwrap_or("UNKNOWN")
    }
}

impl Protocol {
    pub(super) fn of(family: u16, kind: u16, number: u16) -> Protocol {
        const RAW: u16 = 3;
        match (family, kind, number) {
            (1, _, _) => Protocol::Unix,
            (2 | 10, RAW, _) => Protocol::Raw,
            (2 | 10, _, 6) => Protocol::Tcp,
            (2 | 10, _, 17) => Protocol::Udp,
            (2 | 10, _, 136) => Protocol::UdpLite,
            (2 | 10, _, 1 | 58) => Protocol::Icmp,
            (2 | 10, _, _) => Protocol::OtherIp,
            (16, _, _) => Protocol::Netlink,
            (17, _, _) => Protocol::Packet,
            _ => Protocol::Other,
        }
    }

    /// Lower-case name; IPv6 sockets add a `6` (see [`Socket::protocol_name`]).
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::UdpLite => "udplite",
            Protocol::Icmp => "icmp",
            Protocol::Raw => "raw",
            Protocol::OtherIp => "ip",
            Protocol::Unix => "unix",
            Protocol::Packet => "packet",
            Protocol::Netlink => "netlink",
            Protocol::Other => "other",
        }
    }
}

impl Socket {
    /// The protocol as `/proc/net` names its file: `tcp`, `tcp6`, `unix`.
    pub fn protocol_name(&self) -> String {
        let six = if self.family == 10 { "6" } else { "" };
        format!("{}{six}", self.protocol.name())
    }
}

impl Endpoint {
    /// The address, with IPv4 in its own form where IPv6 wraps it.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Endpoint::Inet(at) => Some(at.ip().to_canonical()),
            _ => None,
        }
    }
    /// The port.
    pub fn port(&self) -> Option<u16> {
        match self {
            Endpoint::Inet(at) => Some(at.port()),
            _ => None,
        }
    }
}
