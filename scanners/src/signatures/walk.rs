//! Where there is something to scan: the maps of processes, the files of the page cache, the kernel, all RAM.
//!
//! *Trusts*: nothing. A guest can map one page a million times, or keep a million huge files of one page each: what is scanned in
//! all is bounded by a multiple of its RAM, and what lies behind is a gap.
//! *Never*: leaves out a process that hides from the task list.

use super::engine::Externals;
use super::layout::Layout;
use super::{PathPattern, Scope};
use crate::{Finding, Subject};
use lynceus_introspect::linux::{CachedFile, LinuxGuest, Map, Task, View, container_of};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{AddressSpace, GapReason, Gva, Partial};

/// How many times its RAM a guest's memory is scanned at most: processes share pages, hostile ones without end.
const MAX_TIMES_RAM: u64 = 8;

/// Regions of the kernel come behind those of processes and files in what is told, and pieces of RAM behind them.
const KERNEL_INDEX: u64 = 1 << 48;
const RAM_INDEX: u64 = 1 << 49;

/// A region that is to be scanned.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) index: u64,
    pub(super) subject: Subject,
    pub(super) externals: Externals,
    pub(super) layout: Layout,
}

/// Finds regions and hands each of them on.
pub(super) struct Walker<'w> {
    guest: &'w LinuxGuest,
    options: &'w Options,
    hand_on: &'w mut dyn FnMut(Job),
    next: u64,
    left_bytes: u64,
    /// What could not be read on the way.
    pub(super) gaps: Partial<Finding>,
}

/// What is the same for all maps of a process.
struct Owner {
    task: Task,
    cgroup: Option<String>,
    container: Option<String>,
}

impl<'w> Walker<'w> {
    pub(super) fn new(
        guest: &'w LinuxGuest,
        options: &'w Options,
        hand_on: &'w mut dyn FnMut(Job),
    ) -> Walker<'w> {
        let ram = guest.memory().ram().iter().fold(0u64, |sum, range| sum.saturating_add(range.len_bytes));
        let left_bytes = ram.saturating_mul(MAX_TIMES_RAM);
        Walker { guest, options, hand_on, next: 0, left_bytes, gaps: Partial::default() }
    }

    /// The kernel's text is the largest region there is: where several threads scan, it must not be the last, which the others wait for.
    /// It is told of last nevertheless.
    pub(super) fn all(&mut self, scope: Scope, path: Option<&PathPattern>) {
        if scope.kernel {
            self.next = KERNEL_INDEX;
            self.kernel(&self.guest.view());
            self.next = 0;
        }
        if scope.processes {
            self.processes(scope.pid);
        }
        if scope.files {
            self.files(path);
        }
        if scope.physical {
            self.next = RAM_INDEX;
            self.physical();
        }
    }

    fn processes(&mut self, pid: Option<u32>) {
        let tasks = self.guest.observe(self.options, |view| view.processes()).result;
        for (task, _) in self.gaps.absorb(tasks) {
            if task.mm.is_null() || pid.is_some_and(|pid| pid != task.pid) {
                continue;
            }
            let seen = self.guest.observe(self.options, |view| {
                let mut maps = Partial::default();
                if let Some(mm) = maps.ok("mm", task.mm, view.mm(task.mm)) {
                    let found = view.maps(&mm);
                    let found = maps.absorb(found);
                    maps.items.push((mm, found));
                }
                maps
            });
            let found = self.gaps.absorb(seen.result).pop().filter(|(_, maps)| !maps.is_empty());
            let Some((mm, maps)) = found else { continue };
            let view = self.guest.view();
            // A kernel without control groups has none to tell.
            let cgroup = view.cgroup(&task).ok().filter(|path| path != "/");
            let container = cgroup.as_deref().and_then(container_of).map(str::to_owned);
            let owner = Owner { task, cgroup, container };
            let Some(space) = self.gaps.ok("page tables", mm.at, view.process_space(&mm)) else { continue };
            maps.into_iter().for_each(|map| self.map(&space, &owner, map));
        }
    }

    fn map(&mut self, space: &AddressSpace<'_>, owner: &Owner, map: Map) {
        let layout = Layout::of_space(space, map.start, map.end, &mut self.gaps);
        let subject = Subject::Memory {
            pid: Some(owner.task.pid),
            comm: Some(owner.task.comm.clone()),
            cgroup: owner.cgroup.clone(),
            container: owner.container.clone(),
            start: map.start.0,
            end: map.end.0,
            path: map.path,
        };
        self.region(layout, subject, Externals::default());
    }

    /// Files at their true size, so that conditions on size and offsets hold.
    fn files(&mut self, wanted: Option<&PathPattern>) {
        let files = self.guest.observe(self.options, |view| view.cached_files()).result;
        for file in self.gaps.absorb(files) {
            let path = file.path.clone().unwrap_or_default();
            if wanted.is_some_and(|wanted| !wanted.matches(&path)) {
                continue;
            }
            let layout = Layout::of_file(&file, &mut self.gaps);
            let externals = externals(&file, &path);
            let subject = Subject::File {
                path,
                fs: file.fs,
                inode: file.number,
                size_bytes: file.size_bytes,
                deleted: file.links == 0,
                sha256: None,
            };
            self.region(layout, subject, externals);
        }
    }

    fn kernel(&mut self, view: &View<'_>) {
        let kernel = view.kernel();
        for (first, last, name) in
            [("_text", "_etext", "kernel text"), ("__start_rodata", "__end_rodata", "kernel rodata")]
        {
            let (Ok(start), Ok(end)) = (kernel.symbol(first), kernel.symbol(last)) else { continue };
            self.of_kernel(view, start, end, name.to_owned());
        }
        let modules = view.modules();
        for module in self.gaps.absorb(modules) {
            let end = Gva(module.base.0.saturating_add(module.size_bytes));
            self.of_kernel(view, module.base, end, format!("module {}", module.name));
        }
    }

    fn of_kernel(&mut self, view: &View<'_>, start: Gva, end: Gva, path: String) {
        let layout = Layout::of_space(view.space(), start, end, &mut self.gaps);
        self.region(layout, of_nobody(start.0, end.0, path), Externals::default());
    }

    fn physical(&mut self) {
        for range in self.guest.memory().ram().to_vec() {
            for layout in Layout::of_ram(range) {
                let subject = of_nobody(layout.start, layout.end, "physical memory".to_owned());
                self.region(layout, subject, Externals::default());
            }
        }
    }

    fn region(&mut self, layout: Layout, subject: Subject, externals: Externals) {
        if layout.parts.is_empty() {
            return;
        }
        let Some(left) = self.left_bytes.checked_sub(layout.cost_bytes()) else {
            let limit = GapReason::TooLarge(self.left_bytes);
            return self.gaps.gap("scanned region", Gva(layout.start), limit);
        };
        self.left_bytes = left;
        let index = self.next;
        self.next = self.next.saturating_add(1);
        (self.hand_on)(Job { index, subject, externals, layout });
    }
}

fn of_nobody(start: u64, end: u64, path: String) -> Subject {
    Subject::Memory { pid: None, comm: None, cgroup: None, container: None, start, end, path }
}

fn externals(file: &CachedFile, path: &str) -> Externals {
    let name = path.rsplit('/').next().unwrap_or_default();
    Externals {
        filename: name.to_owned(),
        filepath: path.to_owned(),
        extension: name.rsplit_once('.').map_or("", |(_, ending)| ending).to_owned(),
        // The name of a uid is known to the guest's user database alone.
        owner: file.uid.map_or_else(String::new, |uid| uid.to_string()),
    }
}
