//! A real guest's frozen memory, with pages that an attacker wrote over it.
//!
//! *Does*: reads an image of the lab through pages of its own: a test writes to the kernel's addresses as code in the guest
//! would, takes pages away, adds RAM. The image itself is shared by all tests and never written.
//! *Termination* is asserted by counting: a look that reads more often than any real one panics.

use lynceus_introspect::backend::dump::Dump;
use lynceus_introspect::find::{self, AttachError, Attached};
use lynceus_introspect::linux::{Kernel, Mm, Task, View};
use lynceus_introspect::paging::Root;
use lynceus_introspect::{Gap, GapReason, Gpa, GpaRange, GuestMemory, Gva, ReadError};
use lynceus_introspect::{Partial, SharedMemory, Stability};
use lynceus_lab::images::{self, Frozen};
use lynceus_lab::{KernelVersion, Paging, Spec};
use lynceus_profiles::Field;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

const PAGE: u64 = 4096;
/// Where RAM that the guest does not have can be added.
pub(crate) const EXTRA: Gpa = Gpa(4 << 30);
/// Reads after which a look counts as endless: a walk over a million objects takes some ten million.
const MAX_READS: u64 = 40_000_000;
const PRESENT: u64 = 0x63;
const HUGE: u64 = 0xe3;

/// An image and the kernel in it.
pub(crate) struct Base {
    pub(crate) frozen: Frozen,
    pub(crate) memory: SharedMemory,
    pub(crate) kernel: Kernel,
}

/// The image of a kernel, attached to once.
pub(crate) fn base(kernel: KernelVersion) -> &'static Base {
    static OLD: OnceLock<Base> = OnceLock::new();
    static NEW: OnceLock<Base> = OnceLock::new();
    static NEWER: OnceLock<Base> = OnceLock::new();
    static NEWEST: OnceLock<Base> = OnceLock::new();
    let cell = match kernel {
        KernelVersion::V5_10 => &OLD,
        KernelVersion::V6_12 => &NEWER,
        KernelVersion::V6_1 => &NEW,
        KernelVersion::V7 => &NEWEST,
    };
    cell.get_or_init(|| {
        let frozen = images::frozen(&Spec::new(kernel, Paging::Four)).expect("a frozen guest");
        let memory: SharedMemory = Arc::new(Dump::open(&frozen.ram).expect("an image"));
        let attached = find::attach(memory.clone()).expect("a kernel");
        Base { frozen, memory, kernel: attached.guest.kernel().clone() }
    })
}

/// What an attacker made of a guest.
#[derive(Clone)]
pub(crate) struct Hostile {
    version: KernelVersion,
    pub(crate) kernel: Kernel,
    pub(crate) memory: Overlay,
}

/// Pages over an image.
pub(crate) struct Overlay {
    base: SharedMemory,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
    absent: BTreeSet<u64>,
    ranges: Vec<GpaRange>,
    reads: AtomicU64,
}

impl Clone for Overlay {
    fn clone(&self) -> Self {
        Overlay {
            base: self.base.clone(),
            pages: self.pages.clone(),
            absent: self.absent.clone(),
            ranges: self.ranges.clone(),
            reads: AtomicU64::new(0),
        }
    }
}

impl Overlay {
    fn page(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let frame = at.0 / PAGE;
        if self.absent.contains(&frame) {
            return Err(ReadError::Absent { at });
        }
        if let Some(page) = self.pages.get(&frame) {
            let from = at.page_offset() as usize;
            buf.copy_from_slice(&page[from..from + buf.len()]);
            return Ok(());
        }
        match self.ranges.iter().any(|range| range.start == EXTRA && range.contains(at, buf.len() as u64)) {
            true => buf.fill(0),
            false => self.base.read(at, buf)?,
        }
        Ok(())
    }

    /// Writes as a device would: to physical memory.
    pub(crate) fn write(&mut self, at: Gpa, bytes: &[u8]) {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let take = ((PAGE - at.page_offset()) as usize).min(rest.len());
            let mut page = Box::new([0; PAGE as usize]);
            let start = Gpa(at.0 - at.page_offset());
            self.page(start, &mut page[..]).expect("memory to write to");
            let from = at.page_offset() as usize;
            page[from..from + take].copy_from_slice(&rest[..take]);
            self.pages.insert(start.0 / PAGE, page);
            (at, rest) = (Gpa(at.0 + take as u64), &rest[take..]);
        }
    }

    /// Adds zeroed RAM at [`EXTRA`].
    pub(crate) fn grow(&mut self, len_bytes: u64) {
        self.ranges.push(GpaRange { start: EXTRA, len_bytes });
    }

    /// Takes a page away: ballooned, granted to another guest, left out of a dump.
    pub(crate) fn take_away(&mut self, at: Gpa) {
        self.absent.insert(at.0 / PAGE);
    }

    /// A reset: zeros everywhere.
    pub(crate) fn wipe(&mut self) {
        self.base = Arc::new(Zeros(self.base.ram().to_vec()));
        self.pages.clear();
    }

    /// All pages that differ from the image.
    pub(crate) fn written(&self) -> impl Iterator<Item = (Gpa, &[u8])> {
        self.pages.iter().map(|(frame, page)| (Gpa(frame * PAGE), &page[..]))
    }
}

/// RAM that nobody wrote to yet.
struct Zeros(Vec<GpaRange>);

impl GuestMemory for Zeros {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let len_bytes = buf.len() as u64;
        let there = self.0.iter().any(|range| range.contains(at, len_bytes));
        buf.fill(0);
        if there { Ok(()) } else { Err(ReadError::NotRam { at, len_bytes }) }
    }

    fn ram(&self) -> &[GpaRange] {
        &self.0
    }

    fn stability(&self) -> Stability {
        Stability::Frozen
    }
}

impl GuestMemory for Overlay {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let reads = self.reads.fetch_add(1, Ordering::Relaxed);
        assert!(reads < MAX_READS, "the look does not end");
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let take = ((PAGE - at.page_offset()) as usize).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            self.page(at, now)?;
            rest = later;
            if rest.is_empty() {
                break;
            }
            let end = ReadError::NotRam { at, len_bytes: rest.len() as u64 };
            at = at.checked_add(take as u64).ok_or(end)?;
        }
        Ok(())
    }

    fn ram(&self) -> &[GpaRange] {
        &self.ranges
    }

    fn stability(&self) -> Stability {
        Stability::Frozen
    }
}

impl Hostile {
    /// Linux 6.1: a list of tasks, a maple tree of maps.
    pub(crate) fn new() -> Hostile {
        Hostile::of(KernelVersion::V6_1)
    }

    /// Linux 5.10: maps in a list.
    pub(crate) fn old() -> Hostile {
        Hostile::of(KernelVersion::V5_10)
    }

    /// Linux 6.12: folios of several pages in the page cache.
    pub(crate) fn newer() -> Hostile {
        Hostile::of(KernelVersion::V6_12)
    }

    /// A kernel of the matrix.
    pub(crate) fn of(kernel: KernelVersion) -> Hostile {
        let base = base(kernel);
        let memory = Overlay {
            base: base.memory.clone(),
            pages: BTreeMap::new(),
            absent: BTreeSet::new(),
            ranges: base.memory.ram().to_vec(),
            reads: AtomicU64::new(0),
        };
        Hostile { version: kernel, kernel: base.kernel.clone(), memory }
    }

    /// Which kernel it runs.
    pub(crate) fn version(&self) -> KernelVersion {
        self.version
    }

    /// A look by somebody who attached before the attack.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        self.memory.reads.store(0, Ordering::Relaxed);
        look(&View::new(&self.memory, &self.kernel))
    }

    /// The image's file, without the attack.
    pub(crate) fn image(&self) -> &Path {
        &base(self.version).frozen.ram
    }

    /// Attaches after the attack.
    pub(crate) fn attach(&self) -> Result<Attached, AttachError> {
        find::attach(self.shared())
    }

    pub(crate) fn shared(&self) -> SharedMemory {
        Arc::new(self.memory.clone())
    }

    pub(crate) fn field(&self, ty: &str, path: &str) -> Field {
        self.kernel.profile.field(ty, path).expect("a member")
    }

    pub(crate) fn symbol(&self, name: &str) -> Gva {
        self.kernel.symbol(name).expect("a symbol")
    }

    /// Where `path` of the `ty` at `at` lies.
    pub(crate) fn member(&self, at: Gva, ty: &str, path: &str) -> Gva {
        at.field(self.field(ty, path).offset)
    }

    pub(crate) fn gpa(&self, at: Gva) -> Gpa {
        self.look(|view| view.space().translate(at)).expect("a mapped address").gpa
    }

    /// Writes as the guest's kernel would.
    pub(crate) fn write(&mut self, at: Gva, bytes: &[u8]) -> &mut Hostile {
        let mut done = 0;
        while done < bytes.len() {
            let here = Gva(at.0 + done as u64);
            let take = ((PAGE - here.page_offset()) as usize).min(bytes.len() - done);
            let gpa = self.gpa(here);
            self.memory.write(gpa, &bytes[done..done + take]);
            done += take;
        }
        self
    }

    pub(crate) fn u64(&mut self, at: Gva, value: u64) -> &mut Hostile {
        self.write(at, &value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, at: Gva, value: u32) -> &mut Hostile {
        self.write(at, &value.to_le_bytes())
    }

    pub(crate) fn read_u64(&self, at: Gva) -> u64 {
        self.look(|view| view.u64(at)).expect("readable memory")
    }

    pub(crate) fn copy(&mut self, from: Gva, to: Gva, len_bytes: usize) -> &mut Hostile {
        let mut bytes = vec![0; len_bytes];
        self.look(|view| view.space().read(from, &mut bytes)).expect("readable memory");
        self.write(to, &bytes)
    }

    /// `len_bytes` of zeroed memory in the kernel's half that nobody else uses, physically at [`EXTRA`].
    pub(crate) fn scratch(&mut self, len_bytes: u64) -> Gva {
        assert!(len_bytes <= 1 << 30, "one large page");
        self.memory.grow(len_bytes);
        let direct = Gva(self.read_u64(self.symbol("page_offset_base")));
        let table = self.entry(direct, 4).1 & 0x000f_ffff_ffff_f000;
        let used = |index: &u64| {
            let mut entry = [0; 8];
            self.memory.read(Gpa(table + index * 8), &mut entry).expect("a table");
            entry == [0; 8]
        };
        let first = direct.0 >> 30 & 511;
        let index = (first..512).chain(0..first).find(used).expect("a free gigabyte");
        self.memory.write(Gpa(table + index * 8), &(EXTRA.0 | HUGE).to_le_bytes());
        Gva(direct.0 & !(511 << 30) | index << 30)
    }

    /// Where the page-table entry of `level` for `at` lies, and what it says.
    pub(crate) fn entry(&self, at: Gva, level: u32) -> (Gpa, u64) {
        let mut table = self.kernel.root.table.0;
        for now in (1..=4).rev() {
            let place = Gpa(table + (at.0 >> (12 + 9 * (now - 1)) & 511) * 8);
            let mut entry = [0; 8];
            self.memory.read(place, &mut entry).expect("a table");
            let entry = u64::from_le_bytes(entry);
            if now == level {
                return (place, entry);
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        panic!("no level {level}")
    }

    /// Tables of the attacker's own in scratch memory at `at`, in which `from` is mapped to `to`, 2 MiB a page, and all else as
    /// in the guest's. `at` needs three pages.
    pub(crate) fn forged_tables(&mut self, at: Gpa, from: Gva, to: Gpa, pages: u64) -> Root {
        let mut table = self.kernel.root.table.0;
        for level in [4, 3, 2] {
            let copy = Gpa(at.0 + (4 - level) * PAGE);
            let mut bytes = [0; PAGE as usize];
            self.memory.read(Gpa(table), &mut bytes).expect("a table");
            self.memory.write(copy, &bytes);
            let index = (from.0 >> (12 + 9 * (level - 1)) & 511) * 8;
            table =
                u64::from_le_bytes(bytes[index as usize..][..8].try_into().unwrap()) & 0x000f_ffff_ffff_f000;
            if level > 2 {
                self.memory.write(Gpa(copy.0 + index), &((copy.0 + PAGE) | PRESENT).to_le_bytes());
            } else {
                for page in 0..pages {
                    let entry = (to.0 + (page << 21)) | HUGE;
                    self.memory.write(Gpa(copy.0 + index + page * 8), &entry.to_le_bytes());
                }
            }
        }
        Root { table: at, mode: self.kernel.root.mode }
    }

    /// A process by its name.
    pub(crate) fn task(&self, comm: &str) -> Task {
        let tasks = self.look(|view| view.tasks());
        tasks.items.into_iter().find(|task| task.comm == comm).expect("a process of the lab")
    }

    pub(crate) fn mm(&self, comm: &str) -> Mm {
        let task = self.task(comm);
        self.look(|view| view.mm(task.mm)).expect("a process with memory")
    }

    /// A file in a directory that `lab-files` has open (`struct file`).
    pub(crate) fn file(&self) -> Gva {
        let files = self.look(|view| view.files(self.task("lab-files").files)).items;
        files.iter().find(|file| file.path.matches('/').count() > 1).expect("a file in a directory").file
    }

    /// The directory entry of that file.
    pub(crate) fn dentry(&self) -> Gva {
        Gva(self.read_u64(self.member(self.file(), "file", "f_path.dentry")))
    }

    /// Where a task's node on the task list is.
    pub(crate) fn node(&self, task: &Task) -> Gva {
        self.member(task.at, "task_struct", "tasks")
    }

    pub(crate) fn head(&self) -> Gva {
        self.member(self.symbol("init_task"), "task_struct", "tasks")
    }
}

/// Every view, one after the other: whatever the attack, all of them end. Returns what could not be read.
pub(crate) fn look_everywhere(view: &View<'_>) -> Vec<Gap> {
    let mut all = Partial::<()>::default();
    let (tasks, mut namespaces) = (view.tasks(), BTreeSet::new());
    let tasks = all.absorb(tasks);
    for task in tasks.iter().take(100) {
        all.absorb(view.threads(task));
        all.ok("creds", task.at, view.creds(task));
        all.ok("cgroup", task.at, view.cgroup(task));
        all.ok("root", task.at, view.root_of(task));
        all.ok("cwd", task.at, view.cwd_of(task));
        let found = all.ok("namespaces", task.at, view.namespaces(task));
        namespaces.extend(found.filter(|found| found.mnt.is_some()).map(|found| found.mnt_at));
        all.absorb(view.files(task.files));
        all.absorb(view.sockets_held(task));
        all.ok("tracer", task.at, view.tracer(task));
        all.ok("dispatch", task.at, view.user_dispatch(task));
        all.ok("parent", task.at, view.parent(task));
        if !task.mm.is_null() {
            look_at_memory(view, task, &mut all);
        }
    }
    for at in namespaces {
        all.absorb(view.mounts(at, None));
    }
    let owners = tasks.iter().take(100).map(|task| (task.pid, task.comm.clone(), task.files));
    let sockets = view.sockets_of(owners);
    let sockets = all.absorb(sockets);
    all.absorb(view.files_in_flight(&sockets));
    all.absorb(view.modules_in_tree());
    all.absorb(view.modules_in_sysfs());
    for module in all.absorb(view.modules()).iter().take(100) {
        all.absorb(view.module_symbols(module));
    }
    all.absorb(view.processes());
    all.absorb(view.tasks_by_pid());
    all.absorb(view.tasks_in_queues());
    all.absorb(view.tasks_carved());
    all.absorb(view.interfaces());
    all.absorb(view.kernel_log());
    all.absorb(view.bpf_programs());
    all.absorb(view.bpf_maps());
    all.absorb(view.bpf_links());
    all.absorb(view.syscalls());
    all.ok("clocks", Gva(0), view.clocks());
    all.gaps
}

fn look_at_memory(view: &View<'_>, task: &Task, all: &mut Partial<()>) {
    let Some(mm) = all.ok("mm", task.mm, view.mm(task.mm)) else { return };
    all.ok("exe", mm.at, view.exe(&mm));
    all.ok("cmdline", mm.at, view.cmdline(&mm));
    all.ok("environ", mm.at, view.environ(&mm));
    all.absorb(view.maps(&mm));
    all.ok("start", mm.at, view.started_as(&mm));
    if mm.exe_file.is_null() {
        return;
    }
    all.absorb(view.mapped_file_pages(mm.exe_file));
    if let Some(entry) = all.ok("entry", mm.exe_file, view.entry_of_file(mm.exe_file)) {
        let name = all.ok("name", entry.at, view.entry_name(entry.at)).unwrap_or_default();
        all.ok("directory", entry.parent, view.lookup(entry.parent, &name));
        let info = all.ok("inode", entry.inode, view.file_info(entry.inode));
        all.absorb(view.file_start(entry.inode, info.map_or(0, |info| info.size_bytes), 1 << 20));
    }
}

/// Whether one of the gaps is there for this reason.
pub(crate) fn has(gaps: &[Gap], reason: &GapReason) -> bool {
    gaps.iter().any(|gap| gap.reason == *reason)
}

pub(crate) fn inconsistent(gaps: &[Gap]) -> bool {
    gaps.iter().any(|gap| matches!(gap.reason, GapReason::Inconsistent(_)))
}

pub(crate) fn unreadable(gaps: &[Gap]) -> bool {
    gaps.iter().any(|gap| matches!(gap.reason, GapReason::Access(_)))
}

/// The image as it is gives no gap: or no test here would mean anything.
#[test]
fn without_an_attack_everything_is_read() {
    for guest in [Hostile::new(), Hostile::old()] {
        let gaps = guest.look(look_everywhere);
        assert!(gaps.is_empty(), "{gaps:#?}");
    }
}
