//! Hidden sockets: the kernel's tables of sockets against the descriptors of all processes.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use crate::crossview::confirmed;
use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{Endpoint, LinuxGuest, Protocol, Socket, SocketState, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};
use std::collections::{HashMap, HashSet};

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "hidden_socket",
    technique: "T1205",
    about: "network sockets that no process has open, or that the kernel's own tables do not list",
    limits: Limits {
        sees: "an open TCP or UDP socket that no process's descriptors lead to; a listening, connected or bound one that a process has and the tables behind /proc/net lack",
        evaded_by: "a socket that kernel code made for itself, packet sockets, a rootkit that sets sk_user_data or keeps an io_uring open, a socket in a message that nobody receives, or one whose file counts no users",
        false_positives: "none known: sockets in messages, in io_uring and those that NFS, NBD or USB/IP took over are left out",
    },
    next: "lynceus sockets; the flow at the VM's interface; lynceus check for hidden tasks and modules: somebody must use it",
    run: hidden_sockets,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const ESTABLISHED: SocketState = SocketState(1);
/// Modules that take a socket from a process, which may end then.
const HEIRS: &[&str] = &["nbd", "usbip_core", "vhci_hcd", "usbip_host"];
/// What a descriptor of an io_uring is called. It may hold files that have no other descriptor.
const URING: &str = "anon_inode:[io_uring]";

const TABLES: &str = "socket tables";
const DESCRIPTORS: &str = "descriptors of processes";

/// Sockets that only the kernel's tables know, or only a process.
pub fn hidden_sockets(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    confirmed(guest, || look(guest, options), |a, b| a.subject == b.subject && a.seen_in == b.seen_in)
}

fn look(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    let mut found = Partial::default();
    let in_tables = |found: &mut Partial<Finding>| {
        let tables = guest.observe(options, |view| view.sockets_in_tables()).result;
        found.absorb(tables).into_iter().map(|socket| (socket.at, socket)).collect::<HashMap<_, _>>()
    };
    // Descriptors are read one process after the other. What is in the tables before and after that was there meanwhile.
    let before = in_tables(&mut found);
    let held = held(guest, options, &mut found);
    let after = in_tables(&mut found);
    let unowned = after.values().filter(|socket| {
        is_open(socket) && before.contains_key(&socket.at) && !held.contains_key(&socket.at)
    });
    let unowned = unexplained(guest, options, unowned.collect(), &after, &mut found);
    found.items.extend(unowned);
    let unlisted = held.values().filter(|(_, socket)| {
        is_listed_kind(socket) && !before.contains_key(&socket.at) && !after.contains_key(&socket.at)
    });
    found.items.extend(unlisted.map(|(task, socket)| {
        let whose = format!("process {} ({}) has a socket that is in no table", task.pid, task.comm);
        told(socket, &whose, DESCRIPTORS, TABLES)
    }));
    found
}

/// Every socket that a process has, with one of those that have it.
fn held(guest: &LinuxGuest, options: &Options, found: &mut Partial<Finding>) -> HashMap<Gva, (Task, Socket)> {
    let listed = guest.observe(options, |view| view.processes()).result;
    let mut held = HashMap::new();
    for (task, _) in found.absorb(listed) {
        let sockets = guest.observe(options, |view| match view.is_living_task(task.at, task.pid) {
            true => view.sockets_held(&task),
            false => Partial::default(),
        });
        for socket in found.absorb(sockets.result) {
            held.insert(socket.at, (task.clone(), socket));
        }
    }
    held
}

/// A socket with a file, of the families that reach beyond the machine, that no other part of the kernel took over.
fn is_open(socket: &Socket) -> bool {
    matches!(socket.family, AF_INET | AF_INET6) && !socket.file.is_null() && socket.user_data.is_null()
}

/// A socket of a kind and state that is in the tables behind `/proc/net`.
fn is_listed_kind(socket: &Socket) -> bool {
    match socket.protocol {
        Protocol::Tcp => [SocketState::LISTEN, ESTABLISHED].contains(&socket.state),
        Protocol::Udp => socket.local.port().is_some_and(|port| port != 0),
        _ => false,
    }
}

/// Those sockets without a descriptor that nothing explains.
fn unexplained(
    guest: &LinuxGuest,
    options: &Options,
    mut unowned: Vec<&Socket>,
    tables: &HashMap<Gva, Socket>,
    found: &mut Partial<Finding>,
) -> Vec<Finding> {
    if unowned.is_empty() {
        return Vec::new();
    }
    let all: Vec<Socket> = tables.values().cloned().collect();
    let flying = guest.observe(options, |view| view.files_in_flight(&all)).result;
    let flying: HashSet<Gva> = found.absorb(flying).into_iter().collect();
    // Whoever closed it last may wait for a processor before it leaves the tables.
    let released = |view: &View<'_>| {
        let mut closing = Partial::default();
        for socket in &unowned {
            let released = closing.ok("file", socket.file, view.is_released(socket.file));
            closing.items.extend(released.unwrap_or(false).then_some(socket.at));
        }
        closing
    };
    let released = guest.observe(options, released).result;
    let released: HashSet<Gva> = found.absorb(released).into_iter().collect();
    unowned.retain(|socket| !flying.contains(&socket.file) && !released.contains(&socket.at));
    if unowned.is_empty() || guest.observe(options, has_heirs).result.items.contains(&true) {
        return Vec::new();
    }
    unowned
        .into_iter()
        .map(|socket| told(socket, "no process has an open socket", TABLES, DESCRIPTORS))
        .collect()
}

/// Whether something runs that may hold sockets without a descriptor.
fn has_heirs(view: &View<'_>) -> Partial<bool> {
    let mut found = Partial::default();
    let modules = view.modules();
    let taken = found.absorb(modules).iter().any(|module| HEIRS.contains(&module.name.as_str()));
    let tasks = view.processes();
    let uring = found
        .absorb(tasks)
        .iter()
        .any(|(task, _)| view.files(task.files).items.iter().any(|file| file.path == URING));
    found.items.push(taken || uring);
    found
}

fn told(socket: &Socket, what: &str, seen_in: &'static str, missing_from: &'static str) -> Finding {
    let name = |end: &Endpoint| match end {
        Endpoint::Inet(address) => address.to_string(),
        _ => String::new(),
    };
    let (local, remote) = (name(&socket.local), name(&socket.remote));
    let summary = format!("{what}: {} {local} to {remote}, {}", socket.protocol_name(), socket.state.name());
    let subject = Subject::Socket {
        protocol: socket.protocol_name(),
        local,
        remote,
        state: socket.state.name().into(),
        inode: socket.inode,
        address: socket.at.0,
    };
    let finding = DETECTOR.finding(Severity::High, summary, subject);
    finding.seen(&[seen_in], &[missing_from])
}
