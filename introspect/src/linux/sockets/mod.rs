//! Sockets, by two roads: the files of every process, and the kernel's own tables.
//!
//! The roads are kept apart ([`Socket::in_table`], [`Socket::owners`]) because a socket that only one of them knows is
//! worth a look: time-wait and kernel sockets have no owner, a bound but idle TCP socket is in no table, and a socket
//! that a rootkit unhashed is in neither `/proc/net` nor `ss` while its process still holds it.
//!
//! *Trusts*: nothing. Table sizes are clamped, chains are bounded and checked for cycles.
//! *Never*: reads a time-wait or request mini-socket as a full one: they are shorter.
//!
//! Layouts: `include/net/sock.h`, `inet_hashtables.h`, `inet_timewait_sock.h`, `udp.h`, `raw.h`, `af_unix.h`,
//! `net/packet/internal.h`, `net/netlink/af_netlink.h` (Linux 5.10 to 7.2).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod held;
mod holders;
mod layout;
mod sock;
mod tables;
mod types;

pub use holders::Connection;
pub use layout::SocketsLayout;
pub use types::{Endpoint, Owner, Protocol, Socket, SocketState};

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;
