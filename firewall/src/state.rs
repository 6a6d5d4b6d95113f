//! What is enforced on this host, on disk: written before it is believed, read back after a crash.
//!
//! *Does*: keeps the last good rules, and those to go back to while a change is not confirmed. *Trusts*: its folder, which only root may
//! write. *Never*: leaves half a file: a new one is written whole, then takes the old one's name.

use crate::evaluate::{Moment, Names};
use crate::host::{Host, Port};
use crate::nft::Path as PortPath;
use lynceus_policy::{FORMAT, Timestamp, VmPolicy};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// The file of what is enforced.
const ENFORCED: &str = "enforced.json";
/// A state file may have so many bytes.
const MAX_BYTES: u64 = 1 << 30;

/// One VM's policies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vm {
    /// What holds in good times.
    pub policy: Arc<VmPolicy>,
    /// What holds while it is isolated.
    pub isolation: Arc<VmPolicy>,
}

/// A port, and whose it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Binding {
    /// The VM.
    pub vm: String,
    /// Which of its cards, from 0.
    pub interface: usize,
    /// Where its packets can be judged; none where nothing can, and then it is closed.
    #[serde(default)]
    pub path: Option<PortPath>,
    /// The device's number: another device of the same name has another.
    pub index: u32,
}

/// All that is enforced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// The number of this format.
    pub format: u32,
    /// The number of this set of rules.
    pub generation: u32,
    /// When it was compiled.
    pub at: Timestamp,
    /// The VMs.
    pub vms: BTreeMap<String, Vm>,
    /// The ports.
    pub ports: BTreeMap<String, Binding>,
    /// What DNS names stood for.
    #[serde(default)]
    pub names: Names,
    /// The highest serial number of a bundle that was applied.
    #[serde(default)]
    pub serial: u64,
    /// The VMs that are isolated.
    #[serde(default)]
    pub isolated: BTreeSet<String>,
    /// Whether the kernel can hold packets whose process is asked for.
    #[serde(default)]
    pub holds: bool,
    /// What the kernel's listing of each of our tables came to, by family; another one means that somebody else changed it.
    #[serde(default)]
    pub fingerprints: BTreeMap<String, String>,
}

impl Default for State {
    fn default() -> State {
        State {
            format: FORMAT,
            generation: 0,
            at: Timestamp(0),
            vms: BTreeMap::new(),
            ports: BTreeMap::new(),
            names: Names::new(),
            serial: 0,
            isolated: BTreeSet::new(),
            holds: false,
            fingerprints: BTreeMap::new(),
        }
    }
}

impl State {
    /// The moment for which it was compiled.
    pub fn moment(&self) -> Moment {
        Moment { names: self.names.clone(), ..Moment::at(self.at) }
    }

    /// Whether it means the same: all but the moment and the number.
    pub fn is_like(&self, other: &State) -> bool {
        let State { vms, ports, names, serial, isolated, holds, .. } = self;
        (vms, ports, names, *serial, isolated, *holds)
            == (&other.vms, &other.ports, &other.names, other.serial, &other.isolated, other.holds)
    }

    /// What holds for a VM now.
    pub fn policy(&self, vm: &str) -> Option<&Arc<VmPolicy>> {
        let of_vm = self.vms.get(vm)?;
        Some(if self.isolated.contains(vm) { &of_vm.isolation } else { &of_vm.policy })
    }

    /// What holds for every VM now.
    pub fn policies(&self) -> BTreeMap<String, VmPolicy> {
        let of = |name: &String| Some((name.clone(), self.policy(name)?.as_ref().clone()));
        self.vms.keys().filter_map(of).collect()
    }

    /// The ports whose packets are judged on one path.
    pub fn host(&self, path: PortPath) -> Host {
        self.host_of(|binding| binding.path == Some(path))
    }

    /// The ports that a predicate chooses.
    pub fn host_of(&self, is_meant: impl Fn(&Binding) -> bool) -> Host {
        let port = |(name, binding): (&String, &Binding)| {
            let policy = self.policy(&binding.vm)?.clone();
            let interface = policy.vm.interfaces.get(binding.interface)?.clone();
            Some((name.clone(), Port { policy, interface }))
        };
        let ports = self.ports.iter().filter(|(_, binding)| is_meant(binding)).filter_map(port).collect();
        Host { ports, holds: self.holds }
    }
}

/// A change that waits for its confirmation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pending {
    /// From then on the old rules are put back.
    pub deadline: Timestamp,
    /// The old rules.
    pub previous: State,
}

/// Why the state cannot be read or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what we write.
    #[error("{}: not a state of the firewall: {why}; move it away and apply the policy again", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A newer or older version wrote it.
    #[error("{}: written in format {found}, this version knows {FORMAT}; apply the policy again", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// The folder of the state, held by one process at a time.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the folder, makes it if missing, and waits until no other process holds it.
    pub fn open(folder: &Path) -> Result<Store, StateError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { path, source }
        };
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let path = folder.join("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(io(&path))?;
        lock.lock().map_err(io(&path))?;
        Ok(Store { folder: folder.to_owned(), _lock: lock })
    }

    /// What is enforced; nothing on a new host.
    pub fn enforced(&self) -> Result<Option<State>, StateError> {
        peek(&self.folder)
    }

    /// Keeps what is enforced from now on.
    pub fn keep(&self, state: &State) -> Result<(), StateError> {
        write(&self.folder.join(ENFORCED), state)
    }

    /// The change that waits for its confirmation.
    pub fn pending(&self) -> Result<Option<Pending>, StateError> {
        read(&self.folder.join("pending.json"))
    }

    /// A change waits for its confirmation, or no longer.
    pub fn set_pending(&self, pending: Option<&Pending>) -> Result<(), StateError> {
        let path = self.folder.join("pending.json");
        match pending {
            Some(pending) => write(&path, pending),
            None => match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    Err(StateError::Io { path, source })
                }
                _ => Ok(()),
            },
        }
    }
}

/// Tells one state on disk from another: each is a new file.
pub type Stamp = (u64, i64, i64);

/// The stamp of the state in a folder; none where nothing is enforced.
pub fn stamp(folder: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(folder.join(ENFORCED)).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// What is enforced, without waiting for those who change it: a state is put there whole.
pub fn peek(folder: &Path) -> Result<Option<State>, StateError> {
    let path = folder.join(ENFORCED);
    match read(&path)? {
        Some(State { format, .. }) if format != FORMAT => Err(StateError::Format { path, found: format }),
        state => Ok(state),
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(io)?;
    let damaged =
        |error: serde_json::Error| StateError::Damaged { path: path.to_owned(), why: error.to_string() };
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let text = serde_json::to_vec(value)
        .map_err(|error| StateError::Damaged { path: path.to_owned(), why: error.to_string() })?;
    replace(path, &text).map_err(io)
}

/// Writes a file whole, and only then gives it its name.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    std::fs::rename(&new, path)?;
    // The name is on disk when its folder is.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
