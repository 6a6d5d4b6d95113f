//! Linux guests: the attached kernel, and views of what it runs.

mod bpf;
mod cgroup;
mod chain;
mod code;
mod covered;
mod creds;
mod dcache;
mod files;
mod fs;
mod guest;
mod hooks;
mod hunt;
mod log;
mod maple;
mod maps;
mod mm;
mod module_sections;
mod module_symbols;
mod modules;
mod mounts;
mod namespaces;
mod net;
mod page_cache;
mod path;
mod percpu;
mod record;
mod sockets;
mod started;
mod syscalls;
mod tasks;
#[cfg(test)]
mod testing;
mod time;
mod tracing;
mod trees;
mod view;
mod walk;

pub use bpf::{BpfLayout, BpfLink, BpfMap, BpfPin, BpfProgram};
pub use cgroup::{CgroupLayout, container_of};
pub use code::{Code, Gate};
pub use creds::{Creds, CredsLayout};
pub use dcache::{DcacheLayout, Entry, FileInfo};
pub use files::{FileKind, FilesLayout, OpenFile};
pub use fs::FsLayout;
pub use guest::{Kernel, Layouts, LinuxGuest, OtherKernel, Resolved};
pub use hooks::{
    Callback, NetfilterLayout, NotifiersLayout, Probe, ProbesLayout, TerminalsLayout, Trampoline,
    TrampolinesLayout,
};
pub use hunt::{HuntLayout, Pulse};
pub use log::{LogLayout, LogRecord};
pub use maps::{Map, MapsLayout};
pub use mm::{Mm, MmLayout};
pub use module_sections::{ModuleSection, ModuleSectionsLayout};
pub use module_symbols::{ModuleSymbol, ModuleSymbolsLayout};
pub use modules::{Module, ModuleState, ModulesLayout};
pub use mounts::{Mount, MountsLayout};
pub use namespaces::{Namespaces, NamespacesLayout};
pub use net::{Interface, InterfaceAddress, NetLayout, NetNamespace};
pub use page_cache::{CachedFile, PageCacheLayout};
pub use path::{PathAt, PathLayout, Reach};
pub use sockets::{Connection, Endpoint, Owner, Protocol, Socket, SocketState, SocketsLayout};
pub use started::{StartedAs, StartedLayout};
pub use syscalls::Syscall;
pub use tasks::{COMM_BYTES, Pid, Task, TasksLayout};
pub use time::{Clocks, TimeLayout};
pub use tracing::{TracingLayout, UserDispatch};
pub use trees::TreesLayout;
pub use view::View;
