//! `lynceus sockets`: sockets with the processes that own them.

use crate::output::{Column, Row};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{Endpoint, Socket, View};
use serde::Serialize;

/// One socket as one owner has it; without an owner `pid` and `comm` are null.
#[derive(Serialize)]
pub(super) struct SocketRow {
    proto: String,
    local: String,
    lport: Option<u16>,
    remote: String,
    rport: Option<u16>,
    state: &'static str,
    pid: Option<u32>,
    comm: Option<String>,
    fd: Option<u32>,
    uid: u32,
    inode: u64,
    netns: u32,
    filter: Option<u32>,
}

/// The sockets of every process and of the kernel's tables.
pub(super) fn rows(view: &View<'_>) -> Partial<SocketRow> {
    let mut rows = Partial::default();
    let tasks = view.processes();
    let tasks = rows.absorb(tasks);
    let sockets = view.sockets_of(tasks.into_iter().map(|(task, _)| (task.pid, task.comm, task.files)));
    let sockets = rows.absorb(sockets);
    rows.items.extend(sockets.iter().flat_map(SocketRow::rows));
    rows
}

impl SocketRow {
    /// A row for each process that holds the socket, or one without a process.
    pub(super) fn rows(socket: &Socket) -> Vec<SocketRow> {
        let mut rows: Vec<SocketRow> = Vec::new();
        for owner in &socket.owners {
            // A process that holds it twice (dup) is one owner.
            if !rows.iter().any(|row| row.pid == Some(owner.pid)) {
                let (pid, comm, fd) = (Some(owner.pid), Some(owner.comm.clone()), Some(owner.fd));
                rows.push(SocketRow { pid, comm, fd, ..SocketRow::unowned(socket) });
            }
        }
        if rows.is_empty() { vec![SocketRow::unowned(socket)] } else { rows }
    }

    fn unowned(socket: &Socket) -> SocketRow {
        SocketRow {
            proto: socket.protocol_name(),
            local: name(&socket.local),
            lport: socket.local.port(),
            remote: name(&socket.remote),
            rport: socket.remote.port(),
            state: socket.state.name(),
            pid: None,
            comm: None,
            fd: None,
            uid: socket.uid,
            inode: socket.inode,
            netns: socket.namespace,
            filter: socket.filter,
        }
    }
}

/// An end without its port.
fn name(end: &Endpoint) -> String {
    match end {
        Endpoint::None => String::new(),
        Endpoint::Inet(address) => address.ip().to_string(),
        Endpoint::Unix(name) => name.clone(),
        Endpoint::Peer(inode) => format!("[{inode}]"),
        Endpoint::Link { ether_type, interface } => format!("{ether_type:#06x}%{interface}"),
        Endpoint::Netlink { port, groups } => format!("{port}/{groups:#x}"),
    }
}

fn end_cell(name: &str, port: Option<u16>) -> String {
    match port {
        Some(port) if name.contains(':') => format!("[{name}]:{port}"),
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}

impl Row for SocketRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("PROTO"),
        Column::left("LOCAL"),
        Column::left("REMOTE"),
        Column::left("STATE"),
        Column::right("UID"),
        Column::right("NETNS"),
        Column::right("PID"),
        Column::left("COMM"),
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.proto.clone(),
            end_cell(&self.local, self.lport),
            end_cell(&self.remote, self.rport),
            self.state.to_owned(),
            self.uid.to_string(),
            self.netns.to_string(),
            self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            self.comm.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}
