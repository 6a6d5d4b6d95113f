//! What to look at, as a person names it: a running VM or a dump of one.
//!
//! *Does*: turns a VM's name, its UUID, `pid:N`, `xen:NAME`, `xen:DOMID` or a file's path into memory to read.
//! *Trusts*: the host kernel. Names are anyone's to give, so one that fits two VMs opens neither.
//! *Never*: guesses what was meant.

use crate::backend::dump::{Dump, DumpError, DumpFile, RawLayout};
use crate::backend::qemu::{self, Qemu, QemuError, Vm};
use crate::backend::xen::{self, Domain, DomainKind, Xen, XenError};
use crate::processors::Recorded;
use crate::{ControlError, GuestMemory, Pause, Processors, SharedMemory};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Something to look at.
#[derive(Clone, Debug)]
pub enum Target {
    /// A running VM of QEMU's.
    Vm(Arc<Qemu>),
    /// A domain of Xen's.
    Xen(Arc<Xen>),
    /// A file that holds a VM's RAM as it was.
    Dump {
        /// The file.
        path: PathBuf,
        /// Its content.
        dump: Arc<Dump>,
    },
}

/// A target that was opened, and of which no byte was read yet: that takes no more rights.
#[derive(Debug)]
pub enum Unread {
    /// A running VM of QEMU's.
    Vm(Box<Qemu>),
    /// A domain of Xen's, of which a PV kernel's list of frames is not read yet.
    Xen(Box<Xen>),
    /// A dump, whose own structure is not to be trusted either.
    File {
        /// The file.
        path: PathBuf,
        /// The same, open.
        file: DumpFile,
    },
}

impl Unread {
    /// Opens what `name` names, as [`Target::open_with`] does.
    pub fn open(name: &str, options: OpenOptions) -> Result<Unread, TargetError> {
        let pid = name.strip_prefix("pid:").and_then(|text| text.parse().ok());
        let path = Path::new(name);
        match (pid, name.strip_prefix("xen:")) {
            (Some(pid), _) => open_vm(name, pid, None),
            (None, Some(domain)) => open_domain(name, domain, options),
            (None, None) if name.contains('/') || path.is_file() => {
                Ok(Unread::File { path: path.to_owned(), file: DumpFile::open(path)? })
            }
            (None, None) => match choose(name, all()?)? {
                Found::Qemu(vm) => open_vm(name, vm.pid, Some(vm.started_ticks)),
                Found::Xen(domain) => open_id(name, domain.id, options),
            },
        }
    }

    /// Reads what has to be read before there is memory to look at.
    pub fn read(self) -> Result<Target, TargetError> {
        match self {
            Unread::Vm(vm) => Ok(Target::Vm(Arc::from(vm))),
            Unread::Xen(mut domain) => {
                let name = domain.domain().name.clone();
                domain.learn().map_err(|why| TargetError::Xen { name, why })?;
                Ok(Target::Xen(Arc::from(domain)))
            }
            Unread::File { path, file } => Ok(Target::Dump { path, dump: Arc::new(file.parse()?) }),
        }
    }

    /// Gives up every way to the target but reading its memory: no pause, no question to the hypervisor, no copy that asks
    /// for the right to trace each time. For a worker that locks itself down.
    pub fn confine(&mut self) {
        // Nobody else holds them yet: that takes `Unread::read`.
        match self {
            Unread::Vm(vm) => vm.confine(),
            Unread::Xen(domain) => domain.confine(),
            Unread::File { .. } => {}
        }
    }

    /// Its hypervisor, to be asked by whoever must not read what a guest or a dump's maker wrote.
    pub fn control(self) -> Result<Arc<dyn Control>, ControlError> {
        match self {
            Unread::Vm(vm) if vm.can_pause() => Ok(Arc::new(*vm)),
            Unread::Vm(_) => {
                Err(ControlError::Unavailable("the VM was started without a QMP socket".to_owned()))
            }
            Unread::Xen(domain) => Ok(Arc::new(*domain)),
            Unread::File { .. } => Err(ControlError::Unavailable("a dump does not run".to_owned())),
        }
    }

    /// Whether the handle that will read it can read nothing else.
    pub fn is_restricted(&self) -> bool {
        match self {
            Unread::Xen(domain) => domain.is_restricted(),
            Unread::Vm(_) | Unread::File { .. } => true,
        }
    }

    /// The file that the VM's kernel was booted from, where whoever started the VM named one.
    pub fn kernel_file(&self) -> Option<PathBuf> {
        match self {
            Unread::Vm(vm) => {
                let named = vm.vm().kernel.as_ref()?;
                let from = if named.is_absolute() { "root" } else { "cwd" };
                let named = named.strip_prefix("/").unwrap_or(named);
                Some(PathBuf::from(format!("/proc/{}/{from}", vm.vm().pid)).join(named))
            }
            Unread::Xen(domain) => xen::kernel_file(domain.domain().id),
            Unread::File { .. } => None,
        }
    }
}

/// A running VM's hypervisor, and what may be asked of it beside memory.
pub trait Control: Pause + Processors + Send + Sync {
    /// Stops the VM until [`Control::go_on`], whoever goes meanwhile: not for a look, but because of one.
    fn stop(&self) -> Result<(), ControlError>;
    /// Lets it go on after [`Control::stop`].
    fn go_on(&self) -> Result<(), ControlError>;
}

/// How carefully a target is opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OpenOptions {
    /// Read a Xen domain through a handle that could read others as well, where the kernel cannot restrict it.
    pub allow_unrestricted: bool,
}

/// Why a target could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Nothing has that name.
    #[error("no VM is called {name:?}, and no file; {}", listing("there are", .there))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The VMs that there are, a line each.
        there: Vec<String>,
    },
    /// Several VMs have that name.
    #[error("{name:?} is more than one VM, say pid:N or xen:DOMID; {}", listing("there are", .candidates))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The VMs that have it, a line each.
        candidates: Vec<String>,
    },
    /// The VM cannot be looked into.
    #[error("{name}: {why}")]
    Vm {
        /// What was asked for.
        name: String,
        /// Why not.
        why: QemuError,
    },
    /// The domain cannot be looked into.
    #[error("{name}: {why}")]
    Xen {
        /// What was asked for.
        name: String,
        /// Why not.
        why: XenError,
    },
    /// Xen cannot be asked which domains there are.
    #[error("the domains of Xen cannot be listed: {0}")]
    Domains(std::io::Error),
    /// The file cannot be read as a dump.
    #[error(transparent)]
    Dump(#[from] DumpError),
}

fn listing(intro: &str, vms: &[String]) -> String {
    if vms.is_empty() {
        return "no VM of QEMU's or Xen's runs on this host, or none that this user may see".to_owned();
    }
    vms.iter().fold(format!("{intro}:"), |mut text, vm| {
        let _ = write!(text, "\n  {vm}");
        text
    })
}

/// A VM that a name may mean.
#[derive(Clone, Debug)]
enum Found {
    Qemu(Vm),
    Xen(Domain),
}

impl Found {
    fn is(&self, name: &str) -> bool {
        match self {
            Found::Qemu(vm) => {
                vm.name == name || vm.uuid.as_deref().is_some_and(|uuid| uuid.eq_ignore_ascii_case(name))
            }
            Found::Xen(domain) => domain.name == name || domain.uuid.eq_ignore_ascii_case(name),
        }
    }

    fn summary(&self) -> String {
        match self {
            Found::Qemu(vm) => vm.summary(),
            Found::Xen(domain) => summary(domain),
        }
    }
}

fn summary(domain: &Domain) -> String {
    let kind = match domain.kind {
        DomainKind::Pv => "PV",
        DomainKind::Hvm => "PVH or HVM",
    };
    let mib = domain.memory_bytes >> 20;
    format!("{} (Xen domain {}, {kind}, {mib} MiB, {} vCPUs)", domain.name, domain.id, domain.vcpus)
}

impl Target {
    /// Opens what `name` names: `pid:N`, a file, or the name or UUID of a running VM. A file that exists wins over a VM of its
    /// name, and what has a `/` is a file.
    pub fn open(name: &str) -> Result<Target, TargetError> {
        Target::open_with(name, OpenOptions::default())
    }

    /// The same, with less caution where `options` say so.
    pub fn open_with(name: &str, options: OpenOptions) -> Result<Target, TargetError> {
        Unread::open(name, options)?.read()
    }

    /// Its memory.
    pub fn memory(&self) -> SharedMemory {
        match self {
            Target::Vm(vm) => vm.clone(),
            Target::Xen(domain) => domain.clone(),
            Target::Dump { dump, .. } => dump.clone(),
        }
    }

    /// The layouts that a raw image may have, likeliest first: try each with [`Target::with_raw_layout`] until a kernel is
    /// found. Empty for what says itself where its memory belongs.
    pub fn raw_layouts(&self) -> Vec<RawLayout> {
        match self {
            Target::Vm(_) | Target::Xen(_) => Vec::new(),
            Target::Dump { dump, .. } => dump.raw_layouts(),
        }
    }

    /// The same raw image with its bytes laid out otherwise. `None` of what says itself where its memory belongs.
    pub fn with_raw_layout(&self, layout: RawLayout) -> Option<Target> {
        match self {
            Target::Vm(_) | Target::Xen(_) => None,
            Target::Dump { path, dump } => {
                let dump = Arc::new(dump.with_raw_layout(layout)?);
                Some(Target::Dump { path: path.clone(), dump })
            }
        }
    }

    /// What was odd about it, in words for people.
    pub fn warnings(&self) -> &[String] {
        match self {
            Target::Vm(_) | Target::Xen(_) => &[],
            Target::Dump { dump, .. } => dump.warnings(),
        }
    }

    /// How to pause it, where it can be. Whether a control socket is free shows at the pause only.
    pub fn pausable(&self) -> Option<Arc<dyn Pause + Send + Sync>> {
        match self {
            Target::Vm(vm) if !vm.can_pause() => None,
            Target::Vm(vm) => Some(vm.clone()),
            Target::Xen(domain) if domain.can_pause() => Some(domain.clone()),
            Target::Xen(_) | Target::Dump { .. } => None,
        }
    }

    /// Who tells the registers of its processors, where anyone does. Whether a control socket is free shows when it is asked.
    pub fn processors(&self) -> Option<Arc<dyn Processors + Send + Sync>> {
        match self {
            Target::Vm(vm) if !vm.can_pause() => None,
            Target::Vm(vm) => Some(vm.clone()),
            Target::Xen(domain) if domain.can_pause() => Some(domain.clone()),
            Target::Xen(_) => None,
            Target::Dump { dump, .. } => {
                let recorded = dump.processors();
                (!recorded.is_empty()).then(|| Arc::new(Recorded(recorded.to_vec())) as _)
            }
        }
    }

    /// The VM's UUID, as its command line or its toolstack tells.
    pub fn uuid(&self) -> Option<&str> {
        match self {
            Target::Vm(vm) => vm.vm().uuid.as_deref(),
            Target::Xen(domain) => Some(&domain.domain().uuid),
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
            Target::Xen(domain) => format!("{}; mapped through Xen", summary(domain.domain())),
            Target::Dump { path, dump } => {
                let mib =
                    dump.ram().iter().fold(0u64, |sum, range| sum.saturating_add(range.len_bytes)) >> 20;
                format!("{} ({} dump, {mib} MiB)", path.display(), dump.format())
            }
        }
    }
}

/// `started_ticks` tells a VM that was listed from one that got its process number since.
fn open_vm(name: &str, pid: u32, started_ticks: Option<u64>) -> Result<Unread, TargetError> {
    let error = |why| TargetError::Vm { name: name.to_owned(), why };
    let vm = Qemu::open(pid).map_err(error)?;
    if started_ticks.is_some_and(|ticks| ticks != vm.vm().started_ticks) {
        return Err(error(QemuError::Gone { pid }));
    }
    Ok(Unread::Vm(Box::new(vm)))
}

/// Every VM of this host.
fn all() -> Result<Vec<Found>, TargetError> {
    let mut all: Vec<Found> = qemu::list().into_iter().map(Found::Qemu).collect();
    if xen::is_here() {
        all.extend(domains()?.into_iter().map(Found::Xen));
    }
    Ok(all)
}

fn domains() -> Result<Vec<Domain>, TargetError> {
    xen::list().map_err(TargetError::Domains)
}

fn open_domain(name: &str, domain: &str, options: OpenOptions) -> Result<Unread, TargetError> {
    match domain.parse() {
        Ok(id) => open_id(name, id, options),
        Err(_) => match choose(domain, domains()?.into_iter().map(Found::Xen).collect())? {
            Found::Xen(domain) => open_id(name, domain.id, options),
            Found::Qemu(vm) => open_vm(name, vm.pid, Some(vm.started_ticks)),
        },
    }
}

fn open_id(name: &str, id: u16, options: OpenOptions) -> Result<Unread, TargetError> {
    let opened = Xen::open_unread(id, options.allow_unrestricted);
    let opened = opened.map_err(|why| TargetError::Xen { name: name.to_owned(), why });
    Ok(Unread::Xen(Box::new(opened?)))
}

fn choose(name: &str, vms: Vec<Found>) -> Result<Found, TargetError> {
    let summaries = |vms: &[Found]| vms.iter().map(Found::summary).collect();
    let candidates: Vec<Found> = vms.iter().filter(|vm| vm.is(name)).cloned().collect();
    match <[Found; 1]>::try_from(candidates) {
        Ok([vm]) => Ok(vm),
        Err(none) if none.is_empty() => {
            Err(TargetError::Unknown { name: name.to_owned(), there: summaries(&vms) })
        }
        Err(candidates) => {
            Err(TargetError::Ambiguous { name: name.to_owned(), candidates: summaries(&candidates) })
        }
    }
}

#[cfg(test)]
mod tests;
