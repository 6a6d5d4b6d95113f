//! One `struct sock`, or one of the shorter ones that stand in its place.

use super::layout::{NetlinkLayout, PacketLayout, SockLayout, SocketsLayout, UnixLayout};
use super::types::{Endpoint, Protocol, Socket, SocketState};
use crate::linux::View;
use crate::linux::record::Record;
use crate::{AccessError, GapReason, Gva};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AF_NETLINK: u16 = 16;
const AF_PACKET: u16 = 17;
/// `struct sockaddr_un` without its family.
const MAX_UNIX_NAME_BYTES: u32 = 108;
/// More namespaces than this are read anew each time.
const MAX_CACHED_NAMESPACES: usize = 4096;

/// Reads sockets of one look.
pub(super) struct Socks<'v, 'a> {
    pub view: &'v View<'a>,
    pub layout: &'v SocketsLayout,
    namespaces: RefCell<HashMap<Gva, u32>>,
}

impl<'v, 'a> Socks<'v, 'a> {
    pub(super) fn new(view: &'v View<'a>, layout: &'v SocketsLayout) -> Self {
        Socks { view, layout, namespaces: RefCell::default() }
    }

    /// The socket at `at`, whatever form it has.
    pub(super) fn socket(&self, at: Gva) -> Result<Socket, GapReason> {
        let layout = &self.layout.sock;
        let common = self.view.record(at, layout.common)?;
        let state = SocketState((common.integer(layout.state)? & 0xff) as u8);
        let family = common.u16(layout.family)?;
        let is_ip = matches!(family, AF_INET | AF_INET6);
        let mut socket = Socket {
            at,
            protocol: Protocol::Tcp,
            family,
            kind: 1,
            number: 6,
            state,
            local: Endpoint::None,
            remote: Endpoint::None,
            uid: 0,
            inode: 0,
            file: Gva(0),
            user_data: Gva(0),
            filter: None,
            namespace: self.namespace(common.pointer(layout.net)?)?,
            ipv6_only: common.integer(layout.ipv6_only)? != 0,
            reuse_port: common.integer(layout.reuse_port)? != 0,
            in_table: false,
            owners: Vec::new(),
        };
        if is_ip {
            (socket.local, socket.remote) = inet_ends(layout, &common, family)?;
        }
        match state {
            SocketState::TIME_WAIT if is_ip => {
                socket.state = SocketState((self.view.integer(at, layout.tw_substate)? & 0xff) as u8);
            }
            SocketState::NEW_SYN_RECV if is_ip => {
                socket.uid = self.uid(common.pointer(layout.listener)?)?;
            }
            _ => self.complete(&mut socket)?,
        }
        Ok(socket)
    }

    /// State and both ends of an IP socket, in one read: enough to tell whether it is worth another.
    pub(super) fn ends(&self, at: Gva) -> Result<(SocketState, Endpoint, Endpoint), AccessError> {
        let layout = &self.layout.sock;
        let common = self.view.record(at, layout.common)?;
        let state = SocketState((common.integer(layout.state)? & 0xff) as u8);
        let (local, remote) = inet_ends(layout, &common, common.u16(layout.family)?)?;
        Ok((state, local, remote))
    }

    /// What only a full socket has.
    fn complete(&self, socket: &mut Socket) -> Result<(), GapReason> {
        let layout = &self.layout.sock;
        let full = self.view.record(socket.at, layout.full)?;
        (socket.kind, socket.number) = (full.u16(layout.kind)?, full.u16(layout.number)?);
        socket.protocol = Protocol::of(socket.family, socket.kind, socket.number);
        socket.uid = full.u32(layout.uid)?;
        let opened = full.pointer(layout.socket)?;
        socket.inode = self.inode(opened)?;
        socket.user_data = full.pointer(layout.user_data)?;
        socket.filter = self.filter(socket.at)?;
        if !opened.is_null() {
            socket.file = Gva(self.view.integer(opened, layout.file)?);
        }
        if socket.protocol == Protocol::Raw
            && let Endpoint::Inet(remote) = &mut socket.remote
        {
            remote.set_port(0);
        }
        match socket.family {
            AF_UNIX => self.unix_ends(self.layout.unix.as_ref().map_err(Clone::clone)?, socket),
            AF_PACKET => self.packet_ends(self.layout.packet.as_ref().map_err(Clone::clone)?, socket),
            AF_NETLINK => self.netlink_ends(self.layout.netlink.as_ref().map_err(Clone::clone)?, socket),
            _ => Ok(()),
        }
    }

    fn filter(&self, sock: Gva) -> Result<Option<u32>, AccessError> {
        let layout = &self.layout.sock;
        let filter = Gva(self.view.integer(sock, layout.filter)?);
        if filter.is_null() {
            return Ok(None);
        }
        let program = Gva(self.view.integer(filter, layout.filter_program)?);
        Ok(Some((self.view.integer(program, layout.filter_len)? & 0xffff_ffff) as u32))
    }

    fn uid(&self, sock: Gva) -> Result<u32, AccessError> {
        if sock.is_null() {
            return Ok(0);
        }
        Ok((self.view.integer(sock, self.layout.sock.uid)? & 0xffff_ffff) as u32)
    }

    /// `SOCK_INODE`: a `struct socket` lives inside `struct socket_alloc`, its inode after it.
    fn inode(&self, socket: Gva) -> Result<u64, AccessError> {
        if socket.is_null() {
            return Ok(0);
        }
        self.view.integer(socket.field(self.layout.sock.inode), self.layout.sock.inode_number)
    }

    fn inode_of_sock(&self, sock: Gva) -> Result<u64, AccessError> {
        self.inode(Gva(self.view.integer(sock, self.layout.sock.socket)?))
    }

    fn namespace(&self, net: Gva) -> Result<u32, AccessError> {
        if let Some(known) = self.namespaces.borrow().get(&net) {
            return Ok(*known);
        }
        if net.is_null() {
            return Ok(0);
        }
        let inode = (self.view.integer(net, self.layout.net.inode)? & 0xffff_ffff) as u32;
        let mut known = self.namespaces.borrow_mut();
        if known.len() < MAX_CACHED_NAMESPACES {
            known.insert(net, inode);
        }
        Ok(inode)
    }

    fn unix_ends(&self, layout: &UnixLayout, socket: &mut Socket) -> Result<(), GapReason> {
        socket.local = self.unix_name(layout, socket.at)?;
        let peer = Gva(self.view.integer(socket.at, layout.peer)?);
        if !peer.is_null() {
            socket.remote = match self.unix_name(layout, peer)? {
                Endpoint::None => Endpoint::Peer(self.inode_of_sock(peer)?),
                name => name,
            };
        }
        Ok(())
    }

    /// The name a Unix socket is bound to, as `/proc/net/unix` writes it.
    fn unix_name(&self, layout: &UnixLayout, sock: Gva) -> Result<Endpoint, AccessError> {
        let address = Gva(self.view.integer(sock, layout.address)?);
        if address.is_null() {
            return Ok(Endpoint::None);
        }
        const FAMILY_BYTES: u32 = 2;
        let len = self.view.u32(address.field(layout.address_len.offset))?;
        let len = len.saturating_sub(FAMILY_BYTES).min(MAX_UNIX_NAME_BYTES);
        let mut name = vec![0; usize::try_from(len).unwrap_or(0)];
        let at = address.field(layout.address_name.offset).field(FAMILY_BYTES);
        self.view.space().read(at, &mut name)?;
        if name.first() == Some(&0) {
            name.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'@');
        } else {
            name.truncate(memchr::memchr(0, &name).unwrap_or(name.len()));
        }
        Ok(Endpoint::Unix(String::from_utf8_lossy(&name).into_owned()))
    }

    fn packet_ends(&self, layout: &PacketLayout, socket: &mut Socket) -> Result<(), GapReason> {
        let ether_type = self.view.bytes::<2>(socket.at.field(layout.ether_type.offset))?;
        let interface = (self.view.integer(socket.at, layout.interface)? & 0xffff_ffff) as u32;
        socket.local = Endpoint::Link { ether_type: u16::from_be_bytes(ether_type), interface };
        Ok(())
    }

    fn netlink_ends(&self, layout: &NetlinkLayout, socket: &mut Socket) -> Result<(), GapReason> {
        let port = (self.view.integer(socket.at, layout.port)? & 0xffff_ffff) as u32;
        let groups = Gva(self.view.integer(socket.at, layout.groups)?);
        let groups = if groups.is_null() { 0 } else { self.view.u32(groups)? };
        socket.local = Endpoint::Netlink { port, groups };
        Ok(())
    }
}

fn inet_ends(
    layout: &SockLayout,
    common: &Record<'_, '_>,
    family: u16,
) -> Result<(Endpoint, Endpoint), AccessError> {
    let local_port = common.u16(layout.local_port)?;
    let remote_port = u16::from_be_bytes(common.bytes(layout.remote_port)?);
    let (local, remote) = match layout.addresses6 {
        Some((local, remote)) if family == AF_INET6 => (
            IpAddr::V6(Ipv6Addr::from(common.bytes::<16>(local)?)),
            IpAddr::V6(Ipv6Addr::from(common.bytes::<16>(remote)?)),
        ),
        _ => (
            IpAddr::V4(Ipv4Addr::from(common.bytes::<4>(layout.local4)?)),
            IpAddr::V4(Ipv4Addr::from(common.bytes::<4>(layout.remote4)?)),
        ),
    };
    let end = |ip, port| Endpoint::Inet(SocketAddr::new(ip, port));
    Ok((end(local, local_port), end(remote, remote_port)))
}
