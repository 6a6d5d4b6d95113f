//! What is enforced on this host, on disk: written before it is believed, read back after a crash.
//!
//! *Does*: keeps the last good rules, and those to go back to while a change is not confirmed. *Trusts*: its folder, which only root may
//! write. *Never*: leaves half a file: a new one is written whole, then takes the old one's name.

mod store;

pub use store::{FileStamp, Stamp, Store, names, peek, replace, stamp};

use crate::evaluate::{Moment, Names};
use crate::host::{Host, Port};
use crate::nft::Path as PortPath;
use lynceus_policy::{FORMAT, Timestamp, VmPolicy};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

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
    /// The addresses that the hypervisor gives the card. They count where the policy gives it none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
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
    /// Whether this host has a bridge and tracks connections on it. The table for bridges is there then before any port is: one that comes
    /// is closed until somebody knows whose it is.
    #[serde(default)]
    pub bridges: bool,
    /// What the kernel's listing of each of our tables came to, by family; another one means that somebody else changed it.
    #[serde(default)]
    pub fingerprints: BTreeMap<String, String>,
    /// When it was written whole: changes since then, which are kept beside it, name it.
    #[serde(default)]
    pub base: u128,
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
            bridges: false,
            fingerprints: BTreeMap::new(),
            base: 0,
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
        let State { vms, ports, names, serial, isolated, holds, bridges, .. } = self;
        (vms, ports, names, *serial, isolated)
            == (&other.vms, &other.ports, &other.names, other.serial, &other.isolated)
            && (*holds, *bridges) == (other.holds, other.bridges)
    }

    /// Whether any rule is about a process.
    pub fn asks(&self) -> bool {
        self.vms.values().any(|vm| vm.policy.asks())
    }

    /// What holds for a VM now.
    pub fn policy(&self, vm: &str) -> Option<&Arc<VmPolicy>> {
        let of_vm = self.vms.get(vm)?;
        Some(if self.isolated.contains(vm) { &of_vm.isolation } else { &of_vm.policy })
    }

    /// What holds for the VMs in good times.
    pub fn wanted(&self) -> impl Iterator<Item = &VmPolicy> {
        self.vms.values().map(|vm| vm.policy.as_ref())
    }

    /// When the hours of a rule next begin or end, after the moment for which it was compiled.
    pub fn changes_at(&self) -> Option<Timestamp> {
        self.vms.keys().filter_map(|vm| self.policy(vm)?.changes_after(self.at)).min()
    }

    /// What holds for every VM now.
    pub fn policies(&self) -> BTreeMap<String, VmPolicy> {
        let of = |name: &String| Some((name.clone(), self.policy(name)?.as_ref().clone()));
        self.vms.keys().filter_map(of).collect()
    }

    /// Whether packets are judged on this path.
    pub fn uses(&self, path: PortPath) -> bool {
        path == PortPath::Bridged && self.bridges
            || self.ports.values().any(|binding| binding.path == Some(path))
    }

    /// The ports whose packets are judged on one path.
    pub fn host(&self, path: PortPath) -> Host {
        self.host_of(|binding| binding.path == Some(path))
    }

    /// The ports that a predicate chooses.
    pub fn host_of(&self, is_meant: impl Fn(&Binding) -> bool) -> Host {
        let port = |(name, binding): (&String, &Binding)| {
            let policy = self.policy(&binding.vm)?.clone();
            let mut interface = policy.vm.interfaces.get(binding.interface)?.clone();
            if interface.addresses.is_empty() {
                interface.addresses.clone_from(&binding.addresses);
            }
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

#[cfg(test)]
mod tests {
    use super::State;
    use crate::enforce::change;

    #[test]
    fn a_bridge_without_ports_is_guarded_too() {
        let (bridged, routed) = (State { bridges: true, ..State::default() }, State::default());
        let is_about_bridges = |old: Option<&State>, new: &State| {
            let rules = change(old, new).whole();
            serde_json::to_string(&rules).unwrap().contains("\"bridge\"")
        };
        assert!(is_about_bridges(None, &bridged));
        assert!(!is_about_bridges(None, &routed));
        assert!(!is_about_bridges(Some(&routed), &routed));
        // The table goes with the last bridge, not with the last port.
        assert!(is_about_bridges(Some(&bridged), &routed));
    }
}
