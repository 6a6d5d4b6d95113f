//! What to look at, as a person names it: a running VM.
//!
//! *Does*: turns a VM's name, its UUID or `pid:N` into memory to read.
//! *Trusts*: the host kernel. Names are anyone's to give, so one that fits two VMs opens neither.
//! *Never*: guesses what was meant.

use crate::backend::qemu::{self, Qemu, QemuError, Vm};
use crate::{Pause, SharedMemory};
use std::fmt::Write;
use std::sync::Arc;

/// Something to look at.
#[derive(Clone, Debug)]
pub enum Target {
    /// A running VM.
    Vm(Arc<Qemu>),
}

/// Why a target could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Nothing has that name.
    #[error("no VM is called {name:?}; {}", listing("there are", .there))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The VMs that there are.
        there: Vec<Vm>,
    },
    /// Several VMs have that name.
    #[error("{name:?} is more than one VM, say pid:N; {}", listing("there are", .candidates))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The VMs that have it.
        candidates: Vec<Vm>,
    },
    /// The VM cannot be looked into.
    #[error("{name}: {why}")]
    Vm {
        /// What was asked for.
        name: String,
        /// Why not.
        why: QemuError,
    },
}

fn listing(intro: &str, vms: &[Vm]) -> String {
    if vms.is_empty() {
        return "no VM of QEMU runs on this host, or none that this user may see".to_owned();
    }
    vms.iter().fold(format!("{intro}:"), |mut text, vm| {
        let _ = write!(text, "\n  {}", vm.summary());
        text
    })
}

impl Target {
    /// Opens what `name` names: `pid:N`, or the name or UUID of a running VM.
    pub fn open(name: &str) -> Result<Target, TargetError> {
        let pid = name.strip_prefix("pid:").and_then(|text| text.parse().ok());
        match pid {
            Some(pid) => open_vm(name, pid, None),
            None => choose(name, qemu::list()).and_then(|vm| open_vm(name, vm.pid, Some(vm.started_ticks))),
        }
    }

    /// Its memory.
    pub fn memory(&self) -> SharedMemory {
        match self {
            Target::Vm(vm) => vm.clone(),
        }
    }

    /// How to pause it, where it can be. Whether a control socket is free shows at the pause only.
    pub fn pausable(&self) -> Option<Arc<dyn Pause + Send + Sync>> {
        match self {
            Target::Vm(vm) if vm.vm().qmp_sockets.is_empty() => None,
            Target::Vm(vm) => Some(vm.clone()),
        }
    }

    /// One line for a person.
    pub fn describe(&self) -> String {
        match self {
            Target::Vm(vm) => {
                let how = if vm.is_mapped() {
                    "shared RAM, mapped"
                } else {
                    "private RAM, copied from the process"
                };
                let layout = match vm.layout() {
                    qemu::LayoutFrom::Qemu => "layout from QEMU".to_owned(),
                    qemu::LayoutFrom::CommandLine(why) => format!("layout from its command line ({why})"),
                };
                format!("{}; {how}; {layout}", vm.vm().summary())
            }
        }
    }
}

/// `started_ticks` tells a VM that was listed from one that got its process number since.
fn open_vm(name: &str, pid: u32, started_ticks: Option<u64>) -> Result<Target, TargetError> {
    let error = |why| TargetError::Vm { name: name.to_owned(), why };
    let vm = Qemu::open(pid).map_err(error)?;
    if started_ticks.is_some_and(|ticks| ticks != vm.vm().started_ticks) {
        return Err(error(QemuError::Gone { pid }));
    }
    Ok(Target::Vm(Arc::new(vm)))
}

fn choose(name: &str, vms: Vec<Vm>) -> Result<Vm, TargetError> {
    let named =
        |vm: &&Vm| vm.name == name || vm.uuid.as_deref().is_some_and(|uuid| uuid.eq_ignore_ascii_case(name));
    let candidates: Vec<Vm> = vms.iter().filter(named).cloned().collect();
    match <[Vm; 1]>::try_from(candidates) {
        Ok([vm]) => Ok(vm),
        Err(none) if none.is_empty() => Err(TargetError::Unknown { name: name.to_owned(), there: vms }),
        Err(candidates) => Err(TargetError::Ambiguous { name: name.to_owned(), candidates }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(pid: u32, name: &str, uuid: Option<&str>) -> Vm {
        Vm {
            pid,
            started_ticks: 1,
            uid: 0,
            name: name.to_owned(),
            uuid: uuid.map(str::to_owned),
            ram_bytes: 64 << 20,
            vcpus: 1,
            machine: None,
            accelerator: None,
            qmp_sockets: Vec::new(),
            state: qemu::VmState::Running,
        }
    }

    #[test]
    fn a_name_fits_one_vm_or_none() {
        let vms = || vec![vm(1, "web", Some("aa-bb")), vm(2, "db", None), vm(3, "db", None)];
        assert_eq!(choose("web", vms()).unwrap().pid, 1);
        assert_eq!(choose("AA-BB", vms()).unwrap().pid, 1);
        let error = choose("db", vms()).unwrap_err().to_string();
        assert!(
            error.contains("process 2") && error.contains("process 3") && !error.contains("process 1"),
            "{error}"
        );
        let error = choose("mail", vms()).unwrap_err().to_string();
        assert!(error.contains("web (QEMU process 1, 64 MiB, 1 vCPUs)"), "{error}");
        assert!(choose("x", Vec::new()).unwrap_err().to_string().contains("no VM of QEMU runs"));
    }

    #[test]
    fn a_process_that_is_no_vm_is_refused() {
        let error = Target::open(&format!("pid:{}", std::process::id())).unwrap_err();
        assert!(matches!(error, TargetError::Vm { why: QemuError::NotQemu { .. }, .. }), "{error}");
        assert!(matches!(Target::open("pid:4294967295"), Err(TargetError::Vm { .. })));
    }
}
