//! Linux guests: the attached kernel, and views of what it runs.

mod bpf;
mod cgroup;
mod chain;
mod creds;
mod files;
mod guest;
mod hunt;
mod log;
mod maple;
mod maps;
mod mm;
mod modules;
mod mounts;
mod namespaces;
mod net;
mod path;
mod percpu;
mod record;
mod sockets;
mod tasks;
#[cfg(test)]
mod testing;
mod time;
mod trees;
mod view;
mod walk;

pub use bpf::{BpfLayout, BpfLink, BpfMap, BpfProgram};
pub use cgroup::{CgroupLayout, container_of};
pub use creds::{Creds, CredsLayout};
pub use files::{FileKind, FilesLayout, OpenFile};
pub use guest::{Kernel, Layouts, LinuxGuest, Resolved};
pub use hunt::HuntLayout;
pub use log::{LogLayout, LogRecord};
pub use maps::{Map, MapsLayout};
pub use mm::{Mm, MmLayout};
pub use modules::{Module, ModuleState, ModulesLayout};
pub use mounts::{Mount, MountsLayout};
pub use namespaces::{Namespaces, NamespacesLayout};
pub use net::{Interface, InterfaceAddress, NetLayout, NetNamespace};
pub use path::{PathAt, PathLayout, Reach};
pub use sockets::{Endpoint, Owner, Protocol, Socket, SocketState, SocketsLayout};
pub use tasks::{COMM_BYTES, Pid, Task, TasksLayout};
pub use time::{Clocks, TimeLayout};
pub use trees::TreesLayout;
pub use view::View;
