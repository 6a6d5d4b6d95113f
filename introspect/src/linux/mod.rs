//! Linux guests: the attached kernel, and views of what it runs.

mod bpf;
mod chain;
mod files;
mod guest;
mod log;
mod mounts;
mod net;
mod path;
mod record;
mod sockets;
#[cfg(test)]
mod testing;
mod time;
mod trees;
mod view;
mod walk;

pub use bpf::{BpfLayout, BpfLink, BpfMap, BpfProgram};
pub use files::{FileKind, FilesLayout, OpenFile};
pub use guest::{Kernel, Layouts, LinuxGuest, Resolved};
pub use log::{LogLayout, LogRecord};
pub use mounts::{Mount, MountsLayout};
pub use net::{Interface, InterfaceAddress, NetLayout, NetNamespace};
pub use path::{PathAt, PathLayout, Reach};
pub use sockets::{Endpoint, Owner, Protocol, Socket, SocketState, SocketsLayout};
pub use time::{Clocks, TimeLayout};
pub use trees::TreesLayout;
pub use view::View;
