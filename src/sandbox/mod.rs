//! The worker's lock-down: what a process gives up for good before it reads the first byte of a guest.
//!
//! *Does*: [`close_inherited`] first of all; then the worker opens what it needs; then [`lock_down`] takes everything else away,
//! layer by layer, so that whoever takes over a worker through a bug in a parser can read that one guest, write to the pipes that the
//! worker was given, and use up the memory and the threads that it may have:
//!
//! | layer | what is left |
//! |---|---|
//! | descriptors | read-only files, pipes, sockets; anything else is refused |
//! | namespaces | a network with no interface, System V IPC with no objects |
//! | user | a user and group of its own that own no file and no process |
//! | capabilities | none, in no set, and none to be had by executing: `no_new_privs` |
//! | Landlock | no file, no folder, no port, no abstract socket, no signal |
//! | limits | so much memory, so many threads; no file grows, no core is dumped |
//! | filter | the system calls of `worker.json`, each with its reason |
//!
//! Any other system call is not made: the kernel sends SIGSYS, whose handler writes the call's number to standard error and then
//! dies of a second one. There is no way past it: a process that blocks the signal, or is in the handler already, is killed by the
//! kernel on the spot, and to replace the handler takes a call that is not on the list. A filter that kills at once (`kill_process`) would
//! end in the same place, but nobody could tell which call it was: the parent sees the signal only, and the kernel's audit record is
//! lost on a host without audit. [`End::of`] is the parent's part.
//!
//! *Trusts*: the host kernel, and what the worker has opened. *Never*: goes on where a layer should hold and does not; a kernel that
//! has no such layer is another matter: the [`Report`] names what is missing.

mod attempts;
mod descriptors;
mod end;
mod filter;
mod raw;
mod rights;

pub(crate) use attempts::Target as AttemptTarget;
pub(crate) use attempts::{ATTEMPTS, Attempt, Went, abstract_name, error_name, prepare as prepare_attempt};
pub(crate) use descriptors::close_inherited;
pub(crate) use end::End;
pub(crate) use raw::{give_memory_back, small_heap};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// What a worker may use up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Memory of its own, beside the guest's that it maps.
    pub(crate) memory_bytes: u64,
    /// Threads, its first one included.
    pub(crate) threads: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { memory_bytes: 2 << 30, threads: 16 }
    }
}

/// One of the layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Layer {
    Descriptors,
    Namespaces,
    User,
    Capabilities,
    Landlock,
    Limits,
    Filter,
}

impl Layer {
    const ALL: [Layer; 7] = [
        Layer::Descriptors,
        Layer::Namespaces,
        Layer::User,
        Layer::Capabilities,
        Layer::Landlock,
        Layer::Limits,
        Layer::Filter,
    ];

    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Layer::Descriptors => "descriptors",
            Layer::Namespaces => "namespaces",
            Layer::User => "user",
            Layer::Capabilities => "capabilities",
            Layer::Landlock => "Landlock",
            Layer::Limits => "limits",
            Layer::Filter => "filter",
        }
    }
}

/// What became of a layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LayerReport {
    /// Which.
    pub(crate) layer: Layer,
    /// Whether all of it holds.
    pub(crate) holds: bool,
    /// What it leaves, or what this host lacks for it.
    pub(crate) how: String,
}

/// What a lock-down came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// In the order in which they were put on.
    pub(crate) layers: Vec<LayerReport>,
}

impl Report {
    /// The layers that this host cannot have, and why not.
    pub(crate) fn missing(&self) -> Vec<String> {
        let missing = self.layers.iter().filter(|layer| !layer.holds);
        missing.map(|layer| format!("{}: {}", layer.layer.name(), layer.how)).collect()
    }
}

/// What a layer says when it was put on.
enum Put {
    /// It holds; this is what it leaves.
    Holds(String),
    /// This host or this user cannot have it, or not all of it.
    Missing(String),
}

/// Gives up all that a worker does not need, for good. In a process of one thread, which has opened all that it will read.
///
/// What the host cannot give is in the report: whether that will do is for the caller to say. A layer that can be had and fails is an
/// error, after which the process should end.
pub(crate) fn lock_down(limits: &Limits) -> Result<Report> {
    lock_down_but(limits, None)
}

/// The same without one layer, to see what the others stop.
pub(crate) fn lock_down_but(limits: &Limits, left_out: Option<Layer>) -> Result<Report> {
    let threads = std::fs::read_dir("/proc/self/task").context("/proc/self/task")?.count();
    ensure!(threads == 1, "a process of {threads} threads cannot be locked down: a layer binds one thread");
    quiet_panics();
    start_a_thread()?;
    raw::small_heap(limits.threads);
    let mut layers = Vec::new();
    for layer in Layer::ALL.into_iter().filter(|layer| Some(*layer) != left_out) {
        let put = match layer {
            Layer::Descriptors => descriptors::check(),
            Layer::Namespaces => rights::namespaces(),
            Layer::User => rights::user(),
            Layer::Capabilities => rights::capabilities(),
            Layer::Landlock => rights::landlock(),
            Layer::Limits => rights::limits(limits),
            Layer::Filter => filter::put_on(),
        };
        let (holds, how) = match put.with_context(|| format!("the worker's {}", layer.name()))? {
            Put::Holds(how) => (true, how),
            Put::Missing(why) => (false, why),
        };
        layers.push(LayerReport { layer, holds, how });
    }
    Ok(Report { layers })
}

/// With the first thread of a process the C library sets up signal handlers of its own, which the filter would stop.
fn start_a_thread() -> Result<()> {
    let thread = std::thread::Builder::new().spawn(|| ()).context("no thread can be started")?;
    ensure!(thread.join().is_ok(), "a thread that does nothing panicked");
    Ok(())
}

/// A backtrace would open files, and the filter would end the worker before anybody learns why it panicked.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| eprintln!("lynceus: {panic}")));
}
