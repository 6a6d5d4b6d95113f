//! Who is behind a connection: one look at a guest's memory, in the process of a [`Looker`](crate::daemon::Looker).

use lynceus_firewall::{Process, Who};
use lynceus_introspect::linux::{Connection, LinuxGuest, Socket, SocketState, Task, View, container_of};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gva, Partial};
use std::time::{Duration, Instant};

/// A look that takes longer is no answer: the connection may be another's by then.
const PATIENCE: Duration = Duration::from_millis(250);
/// The guest is never paused for a connection, and a guest with tables of this size is not searched for each.
const OPTIONS: Options = Options { tries: 4, max_pause: Duration::ZERO, max_log_bytes: 32 << 20 };

/// The processes that hold the connection's socket. What the guest moved meanwhile, or what could not be read, is no knowledge.
pub(crate) fn who(guest: &LinuxGuest, connection: &Connection) -> Who {
    let started = Instant::now();
    let found = guest.observe(&OPTIONS, |view| look(view, connection)).result;
    if started.elapsed() > PATIENCE {
        return Who::TimedOut;
    }
    if found.is_complete() && !found.items.is_empty() { Who::Known(found.items) } else { Who::Unknown }
}

fn look(view: &View<'_>, connection: &Connection) -> Partial<Process> {
    let mut found: Partial<Process> = Partial::default();
    let sockets = found.absorb(view.sockets_of_connection(connection));
    for file in files(&sockets, connection.is_accepted) {
        let holders = view.holders(&[file]);
        let holders = found.absorb(holders);
        if holders.is_empty() {
            // Nobody's: it may be this one's packet.
            found.gap("holder of a socket", file, GapReason::Inconsistent("no process has its file"));
        }
        for task in holders {
            if !found.items.iter().any(|process| process.pid == task.tgid) {
                found.keep("process", task.at, process(view, &task));
            }
        }
    }
    found
}

/// The files of the sockets that count: of what is accepted the one that has it already, else all that listen for it.
fn files(sockets: &[Socket], is_accepted: bool) -> Vec<Gva> {
    let open = |socket: &&Socket| !socket.file.is_null();
    let has_it = |socket: &&Socket| socket.state != SocketState::LISTEN;
    if is_accepted {
        let taken: Vec<Gva> = sockets.iter().filter(open).filter(has_it).map(|socket| socket.file).collect();
        if !taken.is_empty() {
            return taken;
        }
        return sockets.iter().filter(open).map(|socket| socket.file).collect();
    }
    // One of the kernel's own, or that its process has closed, has no file.
    if sockets.iter().all(|socket| open(&socket)) {
        sockets.iter().map(|socket| socket.file).collect()
    } else {
        Vec::new()
    }
}

fn process(view: &View<'_>, task: &Task) -> Result<Process, GapReason> {
    let exe = if task.mm.is_null() { None } else { view.exe(&view.mm(task.mm)?)? };
    let container = container_of(&view.cgroup(task)?).map(str::to_owned);
    let uid = view.creds(task)?.uids[1];
    Ok(Process { pid: task.tgid, comm: task.comm.clone(), exe, uid, container })
}
