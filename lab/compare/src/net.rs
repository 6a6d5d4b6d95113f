//! Sockets with their owners, and interfaces.

use crate::report::Report;
use anyhow::Result;
use lynceus_introspect::linux::{Endpoint, Interface, Socket, SocketState, View};
use lynceus_lab::truth::{self, SocketKind, Truth};

/// `IFF_` flags that the kernel works out when asked by `ip`, and that sysfs does not show.
const WORKED_OUT: u32 = 0x40 | 0x1_0000 | 0x2_0000;

pub(crate) fn compare(view: &View<'_>, truth: &Truth, report: &mut Report) -> Result<()> {
    let tasks = report.whole("tasks", view.tasks());
    let processes = tasks.into_iter().map(|task| (task.pid, task.comm, task.files));
    let sockets = report.whole("sockets", view.sockets_of(processes));
    let listed = sockets.iter().filter(|socket| socket.in_table).map(our_line).collect();
    report.compare("socket", truth.sockets()?.iter().map(their_line).collect(), listed);
    owners(&sockets, truth, report)?;
    let interfaces = report.whole("interfaces", view.interfaces());
    let ours = interfaces.iter().map(our_interface).collect();
    report.compare("interface", truth.interfaces()?.iter().map(their_interface).collect(), ours);
    Ok(())
}

/// Which descriptor of which process leads to which socket; also of sockets that no table of the kernel lists.
fn owners(sockets: &[Socket], truth: &Truth, report: &mut Report) -> Result<()> {
    let mut theirs = Vec::new();
    for pid in truth.pids().into_iter().filter(|pid| *pid != 1) {
        let fds = truth.fds(pid)?;
        let held = fds.iter().filter(|fd| fd.target.starts_with("socket:["));
        theirs.extend(held.map(|fd| format!("{pid} {} {}", fd.fd, fd.inode)));
    }
    let owned =
        sockets.iter().flat_map(|socket| socket.owners.iter().map(move |owner| (socket.inode, owner)));
    let ours = owned
        .filter(|(_, owner)| owner.pid != 1)
        .map(|(inode, owner)| format!("{} {} {inode}", owner.pid, owner.fd))
        .collect();
    report.compare("owner", theirs, ours);
    Ok(())
}

fn their_line(socket: &truth::Socket) -> String {
    let (ns, inode) = (socket.net_ns, socket.inode);
    match &socket.kind {
        SocketKind::Inet { protocol, local, remote, state, uid } => {
            format!("{ns} {inode} {protocol} {local} {remote} {state} uid {uid}")
        }
        SocketKind::Unix { socket_type, state, listening, path } => {
            let state = match (listening, state) {
                (true, _) => SocketState::LISTEN.0,
                (false, 3) => 1,
                (false, _) => 7,
            };
            format!("{ns} {inode} unix type {socket_type} state {state} {path:?}")
        }
        SocketKind::Packet { socket_type, protocol, interface } => {
            format!("{ns} {inode} packet type {socket_type} {protocol:04x}%{interface}")
        }
        SocketKind::Netlink { protocol, port, groups } => {
            format!("{ns} {inode} netlink {protocol} {port} {groups:x}")
        }
    }
}

fn our_line(socket: &Socket) -> String {
    let (ns, inode) = (socket.namespace, socket.inode);
    // /proc shows a handshake's mini-socket under the state it stands for.
    let state = if socket.state == SocketState::NEW_SYN_RECV { 3 } else { socket.state.0 };
    match (&socket.local, &socket.remote) {
        (Endpoint::Link { ether_type, interface }, _) => {
            format!("{ns} {inode} packet type {} {ether_type:04x}%{interface}", socket.kind)
        }
        (Endpoint::Netlink { port, groups }, _) => {
            format!("{ns} {inode} netlink {} {port} {groups:x}", socket.number)
        }
        (Endpoint::Inet(local), remote) => {
            let remote = match remote {
                Endpoint::Inet(remote) => remote.to_string(),
                other => format!("{other:?}"),
            };
            format!("{ns} {inode} {} {local} {remote} {state} uid {}", socket.protocol_name(), socket.uid)
        }
        (local, _) => {
            let path = if let Endpoint::Unix(path) = local { path } else { "" };
            let kind = socket.kind;
            format!("{ns} {inode} {} type {kind} state {state} {path:?}", socket.protocol_name())
        }
    }
}

fn their_interface(interface: &truth::Interface) -> String {
    let truth::Interface { net_ns, name, index, mac, mtu, flags, addresses } = interface;
    format!("{net_ns} {name} {index} {mac} {mtu} {:x} {addresses:?}", flags & !WORKED_OUT)
}

fn our_interface(interface: &Interface) -> String {
    let Interface { namespace, name, index, hardware, mtu, flags, addresses, .. } = interface;
    let mac = hardware.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let mut addresses: Vec<_> = addresses.iter().map(|at| (at.ip, at.prefix_bits)).collect();
    addresses.sort();
    format!("{namespace} {name} {index} {mac} {mtu} {:x} {addresses:?}", flags & !WORKED_OUT)
}
