//! What to look at, as a person names it: a running VM or a dump of one.
//!
//! *Does*: turns a VM's name, its UUID, `pid:N` or a file's path into memory to read.
//! *Trusts*: the host kernel. Names are anyone's to give, so one that fits two VMs opens neither.
//! *Never*: guesses what was meant.

use crate::backend::dump::{Dump, DumpError, RawLayout};
use crate::backend::qemu::{self, Qemu, QemuError, Vm};
use crate::{GuestMemory, Pause, SharedMemory};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Something to look at.
#[derive(Clone, Debug)]
pub enum Target {
    /// A running VM.
    Vm(Arc<Qemu>),
    /// A file that holds a VM's RAM as it was.
    Dump {
        /// The file.
        path: PathBuf,
        /// Its content.
        dump: Arc<Dump>,
    },
}

/// Why a target could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Nothing has that name.
    #[error("no VM is called {name:?}, and no file; {}", listing("there are", .there))]
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
    /// The file cannot be read as a dump.
    #[error(transparent)]
    Dump(#[from] DumpError),
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
    /// Opens what `name` names: `pid:N`, a file, or the name or UUID of a running VM. A file that exists wins over a VM of its
    /// name, and what has a `/` is a file.
    pub fn open(name: &str) -> Result<Target, TargetError> {
        let pid = name.strip_prefix("pid:").and_then(|text| text.parse().ok());
        let path = Path::new(name);
        match pid {
            Some(pid) => open_vm(name, pid, None),
            None if name.contains('/') || path.is_file() => {
                Ok(Target::Dump { path: path.to_owned(), dump: Arc::new(Dump::open(path)?) })
            }
            None => choose(name, qemu::list()).and_then(|vm| open_vm(name, vm.pid, Some(vm.started_ticks))),
        }
    }

    /// Its memory.
    pub fn memory(&self) -> SharedMemory {
        match self {
            Target::Vm(vm) => vm.clone(),
            Target::Dump { dump, .. } => dump.clone(),
        }
    }

    /// The layouts that a raw image may have, likeliest first: try each with [`Target::with_raw_layout`] until a kernel is
    /// found. Empty for what says itself where its memory belongs.
    pub fn raw_layouts(&self) -> Vec<RawLayout> {
        match self {
            Target::Vm(_) => Vec::new(),
            Target::Dump { dump, .. } => dump.raw_layouts(),
        }
    }

    /// The same raw image, opened anew with its bytes laid out otherwise. Other targets stay as they are.
    pub fn with_raw_layout(&self, layout: RawLayout) -> Result<Target, TargetError> {
        match self {
            Target::Vm(_) => Ok(self.clone()),
            Target::Dump { path, .. } => {
                let dump = Arc::new(Dump::open(path)?.with_raw_layout(layout));
                Ok(Target::Dump { path: path.clone(), dump })
            }
        }
    }

    /// What was odd about it, in words for people.
    pub fn warnings(&self) -> &[String] {
        match self {
            Target::Vm(_) => &[],
            Target::Dump { dump, .. } => dump.warnings(),
        }
    }

    /// How to pause it, where it can be. Whether a control socket is free shows at the pause only.
    pub fn pausable(&self) -> Option<Arc<dyn Pause + Send + Sync>> {
        match self {
            Target::Vm(vm) if vm.vm().qmp_sockets.is_empty() => None,
            Target::Vm(vm) => Some(vm.clone()),
            Target::Dump { .. } => None,
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
            Target::Dump { path, dump } => {
                let mib =
                    dump.ram().iter().fold(0u64, |sum, range| sum.saturating_add(range.len_bytes)) >> 20;
                format!("{} ({} dump, {mib} MiB)", path.display(), dump.format())
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
    fn a_path_is_a_dump() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guest.raw");
        std::fs::write(&path, vec![3; 5 << 20]).unwrap();
        let target = Target::open(path.to_str().unwrap()).unwrap();
        let mut byte = [0];
        target.memory().read(crate::Gpa(4 << 20), &mut byte).unwrap();
        assert_eq!(byte, [3]);
        assert!(
            target.pausable().is_none() && target.describe().ends_with("(raw dump, 5 MiB)"),
            "{}",
            target.describe()
        );
        let layout = target.raw_layouts()[0];
        assert_eq!(target.with_raw_layout(layout).unwrap().memory().ram(), target.memory().ram());
        assert!(matches!(Target::open("/nowhere/at/all"), Err(TargetError::Dump(_))));
    }

    #[test]
    fn a_process_that_is_no_vm_is_refused() {
        let error = Target::open(&format!("pid:{}", std::process::id())).unwrap_err();
        assert!(matches!(error, TargetError::Vm { why: QemuError::NotQemu { .. }, .. }), "{error}");
        assert!(matches!(Target::open("pid:4294967295"), Err(TargetError::Vm { .. })));
    }
}
