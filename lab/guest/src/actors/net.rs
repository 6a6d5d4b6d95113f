//! Actors with sockets. Ports are fixed: 10001 and up (see the constants at each use).

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixDatagram, UnixListener, UnixStream};
use std::thread;

use super::{Held, or_report};
use crate::{bpf, sys};

/// Listening, connected, half-closed and blocked sockets of every common family.
pub(super) fn sockets() -> io::Result<Held> {
    let mut held: Vec<Held> = Vec::new();
    for (what, planted) in [
        ("TCP over IPv4", tcp("0.0.0.0:10001", "127.0.0.1:10001", "127.0.0.1:10011")),
        ("TCP over IPv6", tcp("[::]:10002", "[::1]:10002", "[::1]:10012")),
        ("IPv4 mapped", tcp("[::]:10013", "127.0.0.1:10013", "127.0.0.1:10014")),
        ("half-closed TCP", half_closed()),
        ("unaccepted TCP", unaccepted()),
        ("UDP over IPv4", udp("127.0.0.2:10003", "127.0.0.1:10005")),
        ("UDP over IPv6", udp("[::]:10004", "[::1]:10006")),
        ("Unix streams", unix_streams()),
        ("Unix datagrams", unix_datagrams()),
        ("Unix seqpacket", unix_seqpacket()),
        ("netlink", netlink()),
        ("packet", raw(libc::AF_PACKET, libc::SOCK_RAW, i32::from((libc::ETH_P_ALL as u16).to_be()))),
        (
            "packet datagram",
            raw(libc::AF_PACKET, libc::SOCK_DGRAM, i32::from((libc::ETH_P_IP as u16).to_be())),
        ),
        ("raw IPv4", raw(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
        ("raw IPv6", raw(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)),
        ("blocked accept", blocked_accept()),
    ] {
        held.extend(or_report(what, planted));
    }
    Ok(Box::new(held))
}

/// UDP port 10009 with an eBPF filter that uses a map, and that is pinned.
pub(super) fn filtered() -> io::Result<Held> {
    let socket = UdpSocket::bind("127.0.0.1:10009")?;
    let map = bpf::create_map()?;
    let program = bpf::load_filter(&map)?;
    bpf::attach(&socket, &program)?;
    bpf::pin(&program, c"/sys/fs/bpf/lab-filter")?;
    Ok(Box::new((socket, map, program)))
}

/// A listener, and a connection to it from a fixed port, accepted.
fn tcp(listen: &str, to: &str, from: &str) -> io::Result<Held> {
    let listener = TcpListener::bind(listen)?;
    let client = connect(to, from)?;
    let (server, _) = listener.accept()?;
    Ok(Box::new((listener, client, server)))
}

/// FIN_WAIT2 on port 10016, CLOSE_WAIT on 10015: both stay, since neither end is closed.
fn half_closed() -> io::Result<Held> {
    let listener = TcpListener::bind("127.0.0.1:10015")?;
    let client = connect("127.0.0.1:10015", "127.0.0.1:10016")?;
    let (server, _) = listener.accept()?;
    // SAFETY: numbers only.
    sys::check(unsafe { libc::shutdown(client.as_raw_fd(), libc::SHUT_WR) })?;
    Ok(Box::new((listener, client, server)))
}

/// Established, but nobody has accepted it: the server's end has no file yet.
fn unaccepted() -> io::Result<Held> {
    let listener = TcpListener::bind("127.0.0.1:10017")?;
    let client = connect("127.0.0.1:10017", "127.0.0.1:10018")?;
    Ok(Box::new((listener, client)))
}

fn connect(to: &str, from: &str) -> io::Result<OwnedFd> {
    let parse = |text: &str| text.parse::<SocketAddr>().map_err(io::Error::other);
    let (to, from) = (parse(to)?, parse(from)?);
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = sys::socket(family, libc::SOCK_STREAM, 0)?;
    let ((from, from_len), (to, to_len)) = (sys::sockaddr(from), sys::sockaddr(to));
    // SAFETY: addresses and lengths of two live locals.
    unsafe {
        sys::check(libc::bind(socket.as_raw_fd(), (&raw const from).cast(), from_len))?;
        sys::check(libc::connect(socket.as_raw_fd(), (&raw const to).cast(), to_len))?;
    }
    Ok(socket)
}

/// A bound socket, and one connected to it.
fn udp(bound: &str, from: &str) -> io::Result<Held> {
    let server = UdpSocket::bind(bound)?;
    let client = UdpSocket::bind(from)?;
    client.connect(bound.replace("[::]", "[::1]"))?;
    Ok(Box::new((server, client)))
}

/// A path, an abstract name with a connection to each, and a pair.
fn unix_streams() -> io::Result<Held> {
    let path = UnixListener::bind("/run/lab.sock")?;
    let to_path = UnixStream::connect("/run/lab.sock")?;
    let (from_path, _) = path.accept()?;
    let address = unix::SocketAddr::from_abstract_name("lab-abstract")?;
    let hidden = UnixListener::bind_addr(&address)?;
    let to_hidden = UnixStream::connect_addr(&address)?;
    let (from_hidden, _) = hidden.accept()?;
    Ok(Box::new((path, to_path, from_path, hidden, to_hidden, from_hidden, UnixStream::pair()?)))
}

fn unix_datagrams() -> io::Result<Held> {
    let bound = UnixDatagram::bind("/run/lab-dgram.sock")?;
    let sender = UnixDatagram::unbound()?;
    sender.connect("/run/lab-dgram.sock")?;
    Ok(Box::new((bound, sender, UnixDatagram::pair()?)))
}

fn unix_seqpacket() -> io::Result<Held> {
    let socket = sys::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0)?;
    // SAFETY: all-zero bytes are a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(b"/run/lab-seq.sock") {
        *to = *from as libc::c_char;
    }
    let len = std::mem::size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: address and length of one live local.
    unsafe {
        sys::check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len))?;
        sys::check(libc::listen(socket.as_raw_fd(), 5))?;
    }
    Ok(Box::new(socket))
}

/// A routing listener in two groups (link and IPv4 addresses) and an event listener.
fn netlink() -> io::Result<Held> {
    let routes = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let events = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT)?;
    for (socket, groups) in [(&routes, 0x11), (&events, 1)] {
        // SAFETY: all-zero bytes are a valid sockaddr_nl; the call reads that one live local.
        unsafe {
            let mut address: libc::sockaddr_nl = std::mem::zeroed();
            address.nl_family = libc::AF_NETLINK as u16;
            address.nl_groups = groups;
            let len = std::mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            sys::check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len))?;
        }
    }
    Ok(Box::new((routes, events)))
}

fn raw(family: i32, kind: i32, protocol: i32) -> io::Result<Held> {
    Ok(Box::new(sys::socket(family, kind, protocol)?))
}

/// A thread `acceptor` that waits on port 10007 for ever.
fn blocked_accept() -> io::Result<Held> {
    let listener = TcpListener::bind("127.0.0.1:10007")?;
    let thread = thread::Builder::new().name("acceptor".into()).spawn(move || {
        let _ = listener.accept();
        sys::sleep_for_ever()
    })?;
    Ok(Box::new(thread))
}
