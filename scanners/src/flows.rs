//! Flows that no socket has: what a host sees at a VM's interface against the sockets in the VM's memory.
//!
//! *Does*: joins flows with sockets and the processes that hold them; a flow in which the guest sends, and that has no socket in any of some
//! looks meanwhile, is a finding. *Trusts*: the host's own list of flows, which no guest can change.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{Connection, LinuxGuest, Owner, Protocol, Socket, View};
use lynceus_introspect::observe::Options;
use std::time::Duration;

/// What is known of it.
pub const DETECTOR: Detector = Detector {
    name: "flow_without_socket",
    technique: "T1095",
    about: "connections at a VM's interface that no socket in its memory has: a hidden socket's, a raw socket's, or the kernel's own",
    limits: Limits {
        sees: "a TCP or UDP flow in which the VM has sent while its sockets were looked at three times, and none of them, in the kernel's tables or in any process, was the flow's",
        evaded_by: "a flow that sends nothing meanwhile; packets sent by hand from the port of another's socket; protocols other than TCP and UDP",
        false_positives: "a guest that translates addresses for its own containers (UDP only), DHCP clients, netconsole and other senders of the kernel's; a program that opens the same UDP port again and again",
    },
    next: "lynceus sockets for raw and packet sockets; lynceus check for hidden tasks, modules and packet hooks; lynceus isolate to stop it",
    run: alone,
};

/// Without a host that sees flows there is nothing to compare.
fn alone(_: &LinuxGuest, _: &Options) -> Partial<Finding> {
    Partial::default()
}

const LOOKS: u32 = 3;
/// Between two looks.
const BETWEEN: Duration = Duration::from_millis(400);
/// DHCP clients send by packet sockets: they have no address yet.
const DHCP: [u16; 2] = [67, 68];
/// Most findings for one guest; what is above is as bad.
const MAX_FINDINGS: usize = 64;

/// A flow as the host sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenFlow {
    /// The guest's end and the other.
    pub connection: Connection,
    /// Packets that the guest has sent in it.
    pub sent: u64,
}

/// A flow, and who has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedFlow {
    /// The flow.
    pub flow: SeenFlow,
    /// The processes that hold its socket.
    pub owners: Vec<Owner>,
}

/// What came of the join.
#[derive(Debug, Default)]
pub struct Joined {
    /// Every flow of the last look.
    pub flows: Vec<OwnedFlow>,
    /// Those that nobody has.
    pub findings: Partial<Finding>,
}

/// Joins what `seen` lists with the guest's sockets. Takes a second: `seen` is asked before and after the looks.
pub fn join(guest: &LinuxGuest, options: &Options, mut seen: impl FnMut() -> Vec<SeenFlow>) -> Joined {
    let mut suspects = seen();
    suspects.retain(|flow| !DHCP.contains(&flow.connection.local.port()));
    let mut looked = Partial::default();
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(BETWEEN);
        }
        looked = guest.observe(options, sockets).result;
        suspects.retain(|flow| !looked.items.iter().any(|socket| is_explained_by(&flow.connection, socket)));
    }
    let last = seen();
    let has_sent =
        |flow: &SeenFlow| last.iter().any(|now| now.connection == flow.connection && now.sent > flow.sent);
    suspects.retain(has_sent);
    let by_hand = by_hand(&looked.items);
    let mut findings = Partial::default();
    let sockets = findings.absorb(looked);
    findings.items =
        suspects.iter().take(MAX_FINDINGS).map(|flow| told(&flow.connection, &by_hand)).collect();
    let flows = last.into_iter().map(|flow| owned(flow, &sockets)).collect();
    Joined { flows, findings }
}

fn sockets(view: &View<'_>) -> Partial<Socket> {
    let mut found = Partial::default();
    let tasks = view.processes();
    let tasks = found.absorb(tasks);
    let sockets = view.sockets_of(tasks.into_iter().map(|(task, _)| (task.pid, task.comm, task.files)));
    found.items = found.absorb(sockets);
    found
}

fn owned(flow: SeenFlow, sockets: &[Socket]) -> OwnedFlow {
    let mut owners: Vec<Owner> = Vec::new();
    for owner in sockets.iter().filter(|socket| flow.connection.has(socket)).flat_map(|socket| &socket.owners)
    {
        if !owners.iter().any(|known| known.pid == owner.pid) {
            owners.push(owner.clone());
        }
    }
    OwnedFlow { flow, owners }
}

/// Its own, or that of a container behind an address of its own, whose other end is the same.
fn is_explained_by(connection: &Connection, socket: &Socket) -> bool {
    let is_kind = socket.protocol == connection.protocol;
    let is_other_end = socket.remote.ip() == Some(connection.remote.ip().to_canonical())
        && socket.remote.port() == Some(connection.remote.port());
    is_kind && (is_other_end || connection.has(socket))
}

/// Who could send packets of any kind.
fn by_hand(sockets: &[Socket]) -> String {
    let can = |socket: &&Socket| matches!(socket.protocol, Protocol::Raw | Protocol::Packet);
    let mut names: Vec<String> = sockets
        .iter()
        .filter(can)
        .flat_map(|socket| &socket.owners)
        .map(|owner| format!("{} ({})", owner.pid, owner.comm))
        .collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(8);
    if names.is_empty() {
        return "no process has a raw or packet socket".to_owned();
    }
    format!("raw or packet sockets: {}", names.join(", "))
}

fn told(connection: &Connection, by_hand: &str) -> Finding {
    let Connection { protocol, local, remote, .. } = connection;
    let summary = format!("no socket has the flow {} {local} to {remote}; {by_hand}", protocol.name());
    let subject = Subject::Socket {
        protocol: protocol.name().to_owned(),
        local: local.to_string(),
        remote: remote.to_string(),
        state: "".into(),
        inode: 0,
        address: 0,
    };
    let finding = DETECTOR.finding(Severity::High, summary, subject);
    finding.seen(&["flows at the interface"], &["socket tables", "descriptors of processes"])
}
