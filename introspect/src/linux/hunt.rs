//! Tasks found in other places than the task list: the pid table, the run queues and the slab pages that hold them.
//!
//! A rootkit that unlinks a task from one of them must keep it on another, or it would never run; and to leave the slab's
//! pages it would have to move it.
//!
//! *Trusts*: nothing. *Never*: takes the stale content of a freed `task_struct` for a task: what is freed has no users
//! (`usage`), and one that has exited says so.
//!
//! Layouts: `struct pid` (`include/linux/pid.h`), `struct rq` (`kernel/sched/sched.h`), `struct slab` (`mm/slab.h`, from
//! 5.17; `struct page` before), `struct kmem_cache`, Linux 5.10 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Resolved, Task, View};
use crate::addr::PAGE_BYTES;
use crate::paging::TranslateError;
use crate::{AccessError, GapReason, Gpa, Gva, Partial};
use lynceus_profiles::{Field, Profile, ProfileError};
use std::collections::HashSet;

/// `EXIT_DEAD` (`include/linux/sched.h`): gone, about to be freed.
const EXIT_DEAD: u64 = 0x10;
/// `TASK_NEW`: being made, on no list yet.
const TASK_NEW: u64 = 0x800;
/// `PID_MAX_LIMIT`.
const MAX_PID: u64 = 4 << 20;
/// Most objects in a slab page group (`struct slab.objects` has 15 bits).
const MAX_OBJECTS: u64 = 1 << 15;

/// Members that lead to tasks other than by the task list.
#[derive(Clone, Debug)]
pub struct HuntLayout {
    usage: Field,
    exit_state: Field,
    state: Field,
    pid: Field,
    tgid: Field,
    tasks: Field,
    pids: Result<PidsLayout, ProfileError>,
    queues: Result<QueuesLayout, ProfileError>,
    slabs: Result<SlabsLayout, ProfileError>,
}

/// The pid table: an xarray of `struct pid`.
#[derive(Clone, Copy, Debug)]
struct PidsLayout {
    /// Link-time address of `init_pid_ns`.
    first: u64,
    table: Field,
    first_task: Field,
    pid_links: Field,
}

/// The run queues: a list of the fair tasks that want to run, and the one that does.
#[derive(Clone, Copy, Debug)]
struct QueuesLayout {
    current: Field,
    clock: Field,
    idle: Field,
    fair: Field,
    node: Field,
}

/// The pages of the `task_struct` cache.
#[derive(Clone, Copy, Debug)]
struct SlabsLayout {
    page_bytes: u32,
    cache: Field,
    object_bytes: Field,
    order_objects: Field,
}

impl HuntLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let task = |member| profile.field("task_struct", member);
        Ok(HuntLayout {
            usage: task("usage")?,
            exit_state: task("exit_state")?,
            state: task("__state").or_else(|_| task("state"))?,
            pid: task("pid")?,
            tgid: task("tgid")?,
            tasks: task("tasks")?,
            pids: PidsLayout::resolve(profile),
            queues: QueuesLayout::resolve(profile),
            slabs: SlabsLayout::resolve(profile),
        })
    }
}

impl PidsLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        Ok(PidsLayout {
            first: profile.symbol("init_pid_ns")?,
            table: profile.field("pid_namespace", "idr.idr_rt")?,
            // The lists by kind of id; the first is that of thread ids (`PIDTYPE_PID`).
            first_task: profile.field("pid", "tasks")?,
            pid_links: profile.field("task_struct", "pid_links")?,
        })
    }
}

impl QueuesLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        let (entity, node) =
            (profile.field("task_struct", "se")?, profile.field("sched_entity", "group_node")?);
        Ok(QueuesLayout {
            current: profile.field("rq", "curr")?,
            clock: profile.field("rq", "clock")?,
            idle: profile.field("rq", "idle")?,
            fair: profile.field("rq", "cfs_tasks")?,
            node: Field { offset: entity.offset.saturating_add(node.offset), ..node },
        })
    }
}

impl SlabsLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        Ok(SlabsLayout {
            page_bytes: profile.size_of("page")?,
            cache: profile.field("slab", "slab_cache").or_else(|_| profile.field("page", "slab_cache"))?,
            object_bytes: profile.field("kmem_cache", "size")?,
            order_objects: profile.field("kmem_cache", "oo.x")?,
        })
    }
}

/// How far a processor has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pulse {
    /// Its scheduler's clock at its last tick, in nanoseconds.
    pub clock_ns: u64,
    /// Whether it has nothing to do; then it may not tick.
    pub is_idle: bool,
}

impl View<'_> {
    /// How far each processor has come: one that the host gives no time stands still in the middle of what it does.
    pub fn pulses(&self) -> Partial<Pulse> {
        let mut found = Partial::default();
        let layout = self.kernel().layouts.hunt.as_ref().map_err(Clone::clone);
        let queues = match layout.and_then(|layout| layout.queues.clone()) {
            Ok(queues) => queues,
            Err(missing) => return Partial::unavailable("processors", missing),
        };
        let each = self.per_cpu("runqueues");
        for queue in found.ok("processors", Gva(0), each).unwrap_or_default() {
            let number = |field| self.integer(queue, field);
            let pulse = number(queues.clock).and_then(|clock_ns| {
                Ok(Pulse { clock_ns, is_idle: number(queues.current)? == number(queues.idle)? })
            });
            found.keep("processor", queue, pulse);
        }
        found
    }

    /// Every thread in the pid table of the initial pid namespace, which knows them all.
    pub fn tasks_by_pid(&self) -> Partial<Task> {
        self.tasks_by("pid table", |layout| {
            let pids = layout.pids.clone()?;
            let mut found = Partial::default();
            let table = self.kernel().slid(pids.first).field(pids.table.offset);
            let entries = self.xarray("pid table", table);
            for (_, pid) in found.absorb(entries) {
                let node = self.pointer(pid.field(pids.first_task.offset));
                let node = found.ok("pid table", pid, node).filter(|node| !node.is_null());
                // A pid without a thread still names a group or a session.
                found.items.extend(node.map(|node| Gva(node.0.wrapping_sub(pids.pid_links.offset.into()))));
            }
            Ok(found)
        })
    }

    /// The processes on the task list, and after them those that are in the pid table alone, hidden from the guest's own `ps`.
    /// `false` is the mark of the latter. Where the pid table cannot be read on this kernel, the list is all there is.
    pub fn processes(&self) -> Partial<(Task, bool)> {
        let mut all = Partial::default();
        let listed = self.tasks();
        all.items = all.absorb(listed).into_iter().map(|task| (task, true)).collect();
        if self.kernel().layouts.hunt.as_ref().is_ok_and(|layout| layout.pids.is_ok()) {
            let known: HashSet<Gva> = all.items.iter().map(|(task, _)| task.at).collect();
            let table = self.tasks_by_pid();
            let unlisted = all.absorb(table).into_iter();
            let unlisted = unlisted.filter(|task| task.pid == task.tgid && !known.contains(&task.at));
            all.items.extend(unlisted.map(|task| (task, false)));
        }
        all
    }

    /// The threads that run or want to run, by the scheduler's fair queues. The idle tasks are left out.
    pub fn tasks_in_queues(&self) -> Partial<Task> {
        self.tasks_by("run queues", |layout| {
            let queues = layout.queues.clone()?;
            let mut found = Partial::default();
            for queue in self.per_cpu("runqueues")? {
                let current = self.integer(queue, queues.current).map(Gva);
                let current = found.ok("run queue", queue, current).filter(|task| !task.is_null());
                found.items.extend(current);
                let nodes = self.list("run queue", queue.field(queues.fair.offset));
                for node in found.absorb(nodes) {
                    found.items.push(Gva(node.0.wrapping_sub(queues.node.offset.into())));
                }
            }
            Ok(found)
        })
    }

    /// Every living `task_struct` in the pages of its slab cache, on whatever list it is or not.
    ///
    /// Reads the `struct page` of every page of RAM: meant for memory that stands still, or to be checked again.
    pub fn tasks_carved(&self) -> Partial<Task> {
        self.tasks_by("slab pages", |layout| {
            let slabs = layout.slabs.clone()?;
            let cache = self.pointer(self.kernel().symbol("task_struct_cachep")?)?;
            let stride = self.integer(cache, slabs.object_bytes)?;
            let objects = self.integer(cache, slabs.order_objects)? & 0xffff;
            if stride == 0 || objects == 0 || objects > MAX_OBJECTS || stride > 1 << 20 {
                return Err(GapReason::Inconsistent("the slab cache of tasks has an impossible shape"));
            }
            let direct = self.pointer(self.kernel().symbol("page_offset_base")?)?;
            let mut found = Partial::default();
            for page in self.slab_pages(&slabs, cache, &mut found)? {
                let start = direct.0.wrapping_add(page.0);
                for index in 0..objects {
                    found.items.push(Gva(start.wrapping_add(index.wrapping_mul(stride))));
                }
            }
            Ok(found)
        })
    }

    /// The pages whose `struct page` names `cache`: the first page of each group does.
    fn slab_pages(
        &self,
        slabs: &SlabsLayout,
        cache: Gva,
        found: &mut Partial<Gva>,
    ) -> Result<Vec<Gpa>, GapReason> {
        /// `struct page`s copied in one go.
        const CHUNK: u64 = 1024;
        let map = self.pointer(self.kernel().symbol("vmemmap_base")?)?;
        let stride = u64::from(slabs.page_bytes);
        let (from, wanted) = (slabs.cache.offset as usize, cache.0.to_le_bytes());
        let (mut pages, mut managed, mut unmanaged) = (Vec::new(), false, None);
        let mut buf = vec![0; usize::try_from(CHUNK.saturating_mul(stride)).unwrap_or(0)];
        for range in self.space().memory().ram() {
            let (mut page, last) = (range.start.0 / PAGE_BYTES, range.end().0 / PAGE_BYTES);
            while page < last {
                // No chunk reaches from one section of memory into the next.
                let count = CHUNK.saturating_sub(page % CHUNK).min(last.saturating_sub(page));
                let at = Gva(map.0.wrapping_add(page.wrapping_mul(stride)));
                let chunk = buf
                    .get_mut(..usize::try_from(count.saturating_mul(stride)).unwrap_or(0))
                    .unwrap_or_default();
                match self.space().read(at, chunk) {
                    Ok(()) => {
                        managed = true;
                        for (index, entry) in chunk.chunks_exact(stride as usize).enumerate() {
                            if entry.get(from..).and_then(|rest| rest.first_chunk()) == Some(&wanted) {
                                pages.push(Gpa(page.saturating_add(index as u64).saturating_mul(PAGE_BYTES)));
                            }
                        }
                    }
                    Err(error) if section_is_missing(&error) => unmanaged = Some((at, error)),
                    Err(error) => found.gap("struct page", at, error),
                }
                page = page.saturating_add(count);
            }
        }
        match unmanaged {
            Some((at, error)) if !managed => found.gap("struct page", at, error),
            _ => {}
        }
        Ok(pages)
    }

    /// The living tasks at the addresses that `find` gives, each once.
    fn tasks_by(
        &self,
        what: &'static str,
        find: impl FnOnce(&HuntLayout) -> Result<Partial<Gva>, GapReason>,
    ) -> Partial<Task> {
        let layout = match &self.kernel().layouts.hunt {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let found = match find(layout) {
            Ok(found) => found,
            Err(reason) => return Partial::unavailable(what, reason),
        };
        let (mut tasks, mut seen) = (Partial::default(), HashSet::new());
        for at in tasks.absorb(found) {
            if seen.insert(at) && self.is_alive(layout, at).unwrap_or(false) {
                tasks.keep("task", at, self.task(at));
            }
        }
        tasks
    }

    /// Whether a living task's `task_struct` is at `at`, rather than a freed one or none. The idle tasks do not count.
    fn is_alive(&self, layout: &HuntLayout, at: Gva) -> Result<bool, GapReason> {
        let number = |field| self.integer(at, field);
        let (pid, tgid) = (number(layout.pid)?, number(layout.tgid)?);
        let made = number(layout.state)? & TASK_NEW == 0;
        let used = number(layout.usage)? & 0xffff_ffff != 0;
        let there = number(layout.exit_state)? & EXIT_DEAD == 0;
        let next = number(layout.tasks)?;
        let sane = (1..MAX_PID).contains(&pid) && (1..MAX_PID).contains(&tgid) && Gva(next).is_kernel();
        Ok(sane && used && there && made)
    }

    /// Whether the task at `at` is still the living thread `pid`, for a second look at a suspect.
    pub fn is_living_task(&self, at: Gva, pid: u32) -> bool {
        let Ok(layout) = &self.kernel().layouts.hunt else { return false };
        let same = self.integer(at, layout.pid).is_ok_and(|found| found == u64::from(pid));
        same && self.is_alive(layout, at).unwrap_or(false)
    }
}

/// Whether a whole section of memory (128 MiB, what one page-middle entry of the map of `struct page`s covers) has none: memory
/// that the kernel does not manage, such as the firmware's, and in which it cannot keep objects.
fn section_is_missing(error: &AccessError) -> bool {
    matches!(error, AccessError::Translate { why: TranslateError::NotPresent { level, .. }, .. } if *level >= 2)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;
