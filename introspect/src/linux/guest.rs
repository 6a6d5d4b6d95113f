//! The attached guest: what [`crate::find`] established once, and the entrance to every look.

use super::View;
use super::bpf::BpfLayout;
use super::cgroup::CgroupLayout;
use super::creds::CredsLayout;
use super::dcache::DcacheLayout;
use super::files::FilesLayout;
use super::fs::FsLayout;
use super::hooks::{NetfilterLayout, NotifiersLayout, ProbesLayout, TerminalsLayout, TrampolinesLayout};
use super::hunt::HuntLayout;
use super::log::LogLayout;
use super::maps::MapsLayout;
use super::mm::MmLayout;
use super::module_sections::ModuleSectionsLayout;
use super::module_symbols::ModuleSymbolsLayout;
use super::modules::ModulesLayout;
use super::mounts::MountsLayout;
use super::namespaces::NamespacesLayout;
use super::net::NetLayout;
use super::page_cache::PageCacheLayout;
use super::path::PathLayout;
use super::sockets::SocketsLayout;
use super::started::StartedLayout;
use super::tasks::TasksLayout;
use super::time::TimeLayout;
use super::tracing::TracingLayout;
use super::trees::TreesLayout;
use crate::observe::{self, Observed};
use crate::paging::Root;
use crate::{GapReason, Gpa, Gva, Partial, Pause, Processors, SharedMemory};
use lynceus_profiles::kernel_file::KernelImage;
use lynceus_profiles::module_file::ModuleFolder;
use lynceus_profiles::{Profile, ProfileError};
use std::sync::Arc;
use std::time::Duration;

/// A kernel found in guest memory. Immutable while it runs; a reboot makes another.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Symbols and types of the build.
    pub profile: Arc<Profile>,
    /// What KASLR added to every link-time kernel address (a multiple of 2 MiB).
    pub slide: u64,
    /// Guest-physical address of `_text`.
    pub text: Gpa,
    /// The kernel's own page tables (`init_top_pgt`).
    pub root: Root,
    /// Offsets that the views need, resolved once.
    pub layouts: Layouts,
}

/// One entry a view: the offsets it needs, or what this kernel lacks (that view alone is then unavailable).
#[derive(Clone, Debug)]
pub struct Layouts {
    /// Tasks.
    pub tasks: Resolved<TasksLayout>,
    /// Tasks by other ways than their list.
    pub hunt: Resolved<HuntLayout>,
    /// Their credentials.
    pub creds: Resolved<CredsLayout>,
    /// Their namespaces.
    pub namespaces: Resolved<NamespacesLayout>,
    /// As whom they were started.
    pub started: Resolved<StartedLayout>,
    /// Who traces them.
    pub tracing: Resolved<TracingLayout>,
    /// Their control groups.
    pub cgroup: Resolved<CgroupLayout>,
    /// Executable, arguments and environment.
    pub mm: Resolved<MmLayout>,
    /// Memory maps.
    pub maps: Resolved<MapsLayout>,
    /// Kernel modules.
    pub modules: Resolved<ModulesLayout>,
    /// Sections of modules.
    pub module_sections: Resolved<ModuleSectionsLayout>,
    /// Symbols of modules.
    pub module_symbols: Resolved<ModuleSymbolsLayout>,
    /// Paths of files.
    pub path: Resolved<PathLayout>,
    /// Names in directories.
    pub dcache: Resolved<DcacheLayout>,
    /// Open files.
    pub files: Resolved<FilesLayout>,
    /// Root and working directories.
    pub fs: Resolved<FsLayout>,
    /// Mounts.
    pub mounts: Resolved<MountsLayout>,
    /// BPF programs, maps and links.
    pub bpf: Resolved<BpfLayout>,
    /// Files in the page cache.
    pub page_cache: Resolved<PageCacheLayout>,
    /// Probes and traced functions.
    pub probes: Resolved<ProbesLayout>,
    /// Who sees packets.
    pub netfilter: Resolved<NetfilterLayout>,
    /// Who is told of events.
    pub notifiers: Resolved<NotifiersLayout>,
    /// Who gets what is typed.
    pub terminals: Resolved<TerminalsLayout>,
    /// Code made at run time.
    pub trampolines: Resolved<TrampolinesLayout>,
    /// Red-black trees and xarrays.
    pub trees: Resolved<TreesLayout>,
    /// Sockets.
    pub sockets: Resolved<SocketsLayout>,
    /// Network namespaces and interfaces.
    pub net: Resolved<NetLayout>,
    /// The kernel log.
    pub log: Resolved<LogLayout>,
    /// The clocks.
    pub time: Resolved<TimeLayout>,
}

impl Layouts {
    /// Resolves every view's layout. Never fails as a whole.
    pub fn resolve(profile: &Profile) -> Layouts {
        Layouts {
            tasks: TasksLayout::resolve(profile),
            hunt: HuntLayout::resolve(profile),
            creds: CredsLayout::resolve(profile),
            namespaces: NamespacesLayout::resolve(profile),
            started: StartedLayout::resolve(profile),
            tracing: TracingLayout::resolve(profile),
            cgroup: CgroupLayout::resolve(profile),
            mm: MmLayout::resolve(profile),
            maps: MapsLayout::resolve(profile),
            modules: ModulesLayout::resolve(profile),
            module_sections: ModuleSectionsLayout::resolve(profile),
            module_symbols: ModuleSymbolsLayout::resolve(profile),
            path: PathLayout::resolve(profile),
            dcache: DcacheLayout::resolve(profile),
            files: FilesLayout::resolve(profile),
            fs: FsLayout::resolve(profile),
            mounts: MountsLayout::resolve(profile),
            bpf: BpfLayout::resolve(profile),
            page_cache: PageCacheLayout::resolve(profile),
            probes: ProbesLayout::resolve(profile),
            netfilter: NetfilterLayout::resolve(profile),
            notifiers: NotifiersLayout::resolve(profile),
            terminals: TerminalsLayout::resolve(profile),
            trampolines: TrampolinesLayout::resolve(profile),
            trees: TreesLayout::resolve(profile),
            sockets: SocketsLayout::resolve(profile),
            net: NetLayout::resolve(profile),
            log: LogLayout::resolve(profile),
            time: TimeLayout::resolve(profile),
        }
    }
}

impl Layouts {
    /// The views that this kernel lacks something for, and what.
    pub fn unavailable(&self) -> Vec<String> {
        let missing = [
            ("tasks", self.tasks.as_ref().err()),
            ("hidden tasks", self.hunt.as_ref().err()),
            ("credentials", self.creds.as_ref().err()),
            ("namespaces", self.namespaces.as_ref().err()),
            ("starts", self.started.as_ref().err()),
            ("tracing", self.tracing.as_ref().err()),
            ("control groups", self.cgroup.as_ref().err()),
            ("process memory", self.mm.as_ref().err()),
            ("maps", self.maps.as_ref().err()),
            ("modules", self.modules.as_ref().err()),
            ("module sections", self.module_sections.as_ref().err()),
            ("module symbols", self.module_symbols.as_ref().err()),
            ("paths", self.path.as_ref().err()),
            ("directory cache", self.dcache.as_ref().err()),
            ("files", self.files.as_ref().err()),
            ("directories", self.fs.as_ref().err()),
            ("mounts", self.mounts.as_ref().err()),
            ("BPF", self.bpf.as_ref().err()),
            ("page cache", self.page_cache.as_ref().err()),
            ("probes", self.probes.as_ref().err()),
            ("packet hooks", self.netfilter.as_ref().err()),
            ("notifiers", self.notifiers.as_ref().err()),
            ("terminals", self.terminals.as_ref().err()),
            ("code made at run time", self.trampolines.as_ref().err()),
            ("trees", self.trees.as_ref().err()),
            ("sockets", self.sockets.as_ref().err()),
            ("network", self.net.as_ref().err()),
            ("kernel log", self.log.as_ref().err()),
            ("clocks", self.time.as_ref().err()),
        ];
        missing.into_iter().filter_map(|(view, error)| Some(format!("{view}: {}", error?))).collect()
    }
}

/// What a view's layout is before it is used.
pub type Resolved<L> = Result<L, ProfileError>;

impl Kernel {
    /// Run-time address of a kernel symbol. Per-CPU symbols that are zero-based stay so.
    pub fn symbol(&self, name: &str) -> Result<Gva, ProfileError> {
        self.profile.symbol(name).map(|address| self.slid(address))
    }
    /// The run-time address of a link-time address: only the kernel image itself moves.
    pub fn slid(&self, link_address: u64) -> Gva {
        const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
        Gva(if link_address >= KERNEL_MAP { link_address.wrapping_add(self.slide) } else { link_address })
    }
    /// The link-time address of a run-time address.
    pub fn unslid(&self, at: Gva) -> u64 {
        at.0.wrapping_sub(self.slide)
    }
    /// What people call an address of the kernel's image: the symbol at or before it, with the distance where there is one
    /// (`do_exit+0x1c`).
    pub fn place(&self, at: Gva) -> String {
        match self.profile.symbols.nearest(self.unslid(at)) {
            Some((symbol, 0)) => symbol.name.to_owned(),
            Some((symbol, distance)) => format!("{}+{distance:#x}", symbol.name),
            None => at.to_string(),
        }
    }
}

/// A kernel's file is of another build than the guest runs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it is another kernel: the guest runs {guest:?}, the file holds {file:?}")]
pub struct OtherKernel {
    /// The guest's banner.
    pub guest: String,
    /// The file's banner.
    pub file: String,
}

/// A Linux guest that has been attached to.
pub struct LinuxGuest {
    memory: SharedMemory,
    kernel: Kernel,
    image: Option<Arc<KernelImage>>,
    module_files: Option<Arc<ModuleFolder>>,
    pause: Option<Arc<dyn Pause + Send + Sync>>,
    processors: Option<Arc<dyn Processors + Send + Sync>>,
}

impl LinuxGuest {
    /// Joins memory and the kernel found in it.
    pub fn new(memory: SharedMemory, kernel: Kernel) -> Self {
        LinuxGuest { memory, kernel, image: None, module_files: None, pause: None, processors: None }
    }
    /// What was found at attach.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }
    /// The memory looked at.
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }
    /// The file of its kernel, where one is known that is trusted.
    pub fn image(&self) -> Option<&Arc<KernelImage>> {
        self.image.as_ref()
    }
    /// The files of its modules, where some are known that are trusted.
    pub fn module_files(&self) -> Option<&Arc<ModuleFolder>> {
        self.module_files.as_ref()
    }
    /// Compares modules with these files from now on.
    pub fn set_module_files(&mut self, files: Arc<ModuleFolder>) {
        self.module_files = Some(files);
    }
    /// Compares with this file of its kernel from now on. A file of another build is refused.
    pub fn set_image(&mut self, image: Arc<KernelImage>) -> Result<(), OtherKernel> {
        let (ours, theirs) = (&self.kernel.profile.identity, &image.identity);
        let same = match (ours.build_id, theirs.build_id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => ours.banner == theirs.banner,
        };
        if !same {
            return Err(OtherKernel { guest: ours.banner.clone(), file: theirs.banner.clone() });
        }
        self.image = Some(image);
        Ok(())
    }
    /// A plain look, for memory that does not move: a dump or a paused guest.
    pub fn view(&self) -> View<'_> {
        View::new(&*self.memory, &self.kernel)
    }
    /// Lets looks pause the guest when it will not stand still.
    #[must_use]
    pub fn with_pause(mut self, pause: Arc<dyn Pause + Send + Sync>) -> Self {
        self.pause = Some(pause);
        self
    }
    /// Lets detectors ask for the registers of the guest's processors.
    #[must_use]
    pub fn with_processors(mut self, processors: Arc<dyn Processors + Send + Sync>) -> Self {
        self.processors = Some(processors);
        self
    }
    /// Who tells the registers of its processors, if anyone does.
    pub fn processors(&self) -> Option<&(dyn Processors + Send + Sync)> {
        self.processors.as_deref()
    }
    /// A look whose result held together at one instant, or has a gap that says it did not.
    /// `look` may run several times; see [`crate::observe`] for what is promised.
    pub fn observe<T>(
        &self,
        options: &observe::Options,
        mut look: impl FnMut(&View<'_>) -> Partial<T>,
    ) -> Observed<Partial<T>> {
        let pause = self.pause.as_deref().map(|pause| pause as &dyn Pause);
        let mut looks = 0u32;
        loop {
            let found = observe::observe(&*self.memory, pause, options, |memory| {
                look(&View::new(memory, &self.kernel))
            });
            looks = looks.saturating_add(1);
            // A processor of the guest that is just linking an object leaves it half linked for an instant.
            let half_linked = found.outcome == observe::Outcome::Consistent && bent(&found.result);
            if !half_linked || looks >= LOOKS_AT_BENT {
                return found.with_gap(options);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Looks at what does not agree with itself, before it is believed that this is more than an update under way.
const LOOKS_AT_BENT: u32 = 3;

fn bent<T>(found: &Partial<T>) -> bool {
    found.gaps.iter().any(|gap| matches!(gap.reason, GapReason::Inconsistent(_)))
}
