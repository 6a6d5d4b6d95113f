//! Who is behind one connection: its sockets, and the processes that hold them.
//!
//! *Does*: compares the ends of every socket of one table, and looks for a file in descriptor tables by its address alone: no file but
//! the wanted ones is read. *Trusts*: nothing; the descriptors that are looked at in one look are bounded.
//! *Never*: takes a socket that only listens for one that connects: anybody can send from its port with a raw socket.

use super::types::{Endpoint, Protocol, Socket, SocketState};
use crate::linux::{Task, View};
use crate::{GapReason, Gva, Partial};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Descriptors of all processes together that are looked at: more than a busy server has open.
const MAX_DESCRIPTORS: u64 = 1 << 22;

/// A connection as the guest has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The guest's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Whether it came from the other end.
    pub is_accepted: bool,
}

impl Connection {
    /// Whether a socket is its: connected so, or, of UDP and of what is accepted, open to it.
    pub fn has(&self, socket: &Socket) -> bool {
        socket.protocol == self.protocol && self.is_of(socket.state, &socket.local, &socket.remote)
    }

    /// Whether a socket in this state, with these ends, is its.
    pub(super) fn is_of(&self, state: SocketState, local: &Endpoint, remote: &Endpoint) -> bool {
        let (Some(port), Some(ip)) = (local.port(), local.ip()) else { return false };
        let here = port == self.local.port() && (ip == self.local.ip() || is_any(ip));
        if !here || state == SocketState::TIME_WAIT {
            return false;
        }
        let is_connected =
            remote.ip() == Some(self.remote.ip().to_canonical()) && remote.port() == Some(self.remote.port());
        let is_open = remote.port() == Some(0) || remote.ip().is_some_and(is_any);
        match self.protocol {
            Protocol::Tcp if state == SocketState::LISTEN => self.is_accepted,
            Protocol::Tcp => is_connected && ip == self.local.ip(),
            _ => is_connected || is_open,
        }
    }
}

/// `0.0.0.0`, `::`, and the one in the clothes of the other.
fn is_any(ip: IpAddr) -> bool {
    ip.to_canonical().is_unspecified()
}

impl View<'_> {
    /// The processes that have any of these files (`struct file`) open. Threads with descriptors of their own are looked at
    /// where no process has it.
    pub fn holders(&self, files: &[Gva]) -> Partial<Task> {
        let mut found = Partial::default();
        let tasks = self.tasks();
        let tasks = found.absorb(tasks);
        let mut left = MAX_DESCRIPTORS;
        let mut seen = BTreeSet::new();
        let mut look = |found: &mut Partial<Task>, process: &Task, table: Gva| {
            let holds = self.holds(table, files, &mut left);
            if found.ok("descriptor table", table, holds).unwrap_or(false) {
                found.items.push(process.clone());
            }
        };
        let processes = || tasks.iter().filter(|task| !task.kthread && !task.files.is_null());
        for process in processes() {
            seen.insert(process.files);
            look(&mut found, process, process.files);
        }
        if !found.items.is_empty() {
            return found;
        }
        for process in processes() {
            let threads = self.threads(process);
            for thread in found.absorb(threads) {
                if !thread.files.is_null() && seen.insert(thread.files) {
                    look(&mut found, process, thread.files);
                }
            }
        }
        found
    }

    /// Whether any of these files is in a descriptor table.
    fn holds(&self, table: Gva, files: &[Gva], left: &mut u64) -> Result<bool, GapReason> {
        const AT_A_TIME: u64 = 512;
        let (array, count) = self.descriptor_array(table)?;
        *left = left.checked_sub(count).ok_or(GapReason::Limit(MAX_DESCRIPTORS))?;
        let mut bytes = [0u8; 8 * AT_A_TIME as usize];
        let mut first = 0u64;
        while first < count {
            let take = usize::try_from(count.saturating_sub(first).min(AT_A_TIME)).unwrap_or(0);
            let Some(part) = bytes.get_mut(..take.saturating_mul(8)) else { break };
            self.space().read(Gva(array.0.wrapping_add(first.wrapping_mul(8))), part)?;
            let (pointers, _) = part.as_chunks::<8>();
            if pointers.iter().any(|bytes| files.contains(&Gva(u64::from_le_bytes(*bytes)))) {
                return Ok(true);
            }
            first = first.saturating_add(AT_A_TIME);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inet(text: &str) -> Endpoint {
        Endpoint::Inet(text.parse().expect("an address"))
    }

    fn is_of(protocol: Protocol, is_accepted: bool, state: u8, local: &str, remote: &str) -> bool {
        let end = |text: &str| text.parse().expect("an address");
        let wanted =
            Connection { protocol, local: end("10.0.0.1:40000"), remote: end("192.0.2.1:443"), is_accepted };
        wanted.is_of(SocketState(state), &inet(local), &inet(remote))
    }

    #[test]
    fn tcp_that_is_opened_is_connected_just_so() {
        let tcp = |state, local, remote| is_of(Protocol::Tcp, false, state, local, remote);
        assert!(tcp(2, "10.0.0.1:40000", "192.0.2.1:443"));
        assert!(tcp(1, "[::ffff:10.0.0.1]:40000", "[::ffff:192.0.2.1]:443"));
        assert!(!tcp(2, "10.0.0.1:40001", "192.0.2.1:443"));
        assert!(!tcp(2, "10.0.0.1:40000", "192.0.2.1:444"));
        assert!(!tcp(2, "10.0.0.2:40000", "192.0.2.1:443"));
        assert!(!tcp(SocketState::TIME_WAIT.0, "10.0.0.1:40000", "192.0.2.1:443"));
        assert!(!tcp(SocketState::LISTEN.0, "0.0.0.0:40000", "0.0.0.0:0"));
    }

    #[test]
    fn what_is_accepted_is_the_listeners_as_well() {
        let tcp = |state, local, remote| is_of(Protocol::Tcp, true, state, local, remote);
        assert!(tcp(SocketState::LISTEN.0, "[::]:40000", "[::]:0"));
        assert!(tcp(SocketState::LISTEN.0, "10.0.0.1:40000", "0.0.0.0:0"));
        assert!(!tcp(SocketState::LISTEN.0, "10.0.0.2:40000", "0.0.0.0:0"));
        assert!(tcp(1, "10.0.0.1:40000", "192.0.2.1:443"));
    }

    #[test]
    fn udp_may_not_have_said_to_whom() {
        let udp = |local, remote| is_of(Protocol::Udp, false, 7, local, remote);
        assert!(udp("0.0.0.0:40000", "0.0.0.0:0") && udp("[::]:40000", "[::]:0"));
        assert!(udp("10.0.0.1:40000", "192.0.2.1:443"));
        assert!(!udp("10.0.0.1:40000", "192.0.2.1:53"));
        assert!(!udp("0.0.0.0:53", "0.0.0.0:0"));
    }
}
