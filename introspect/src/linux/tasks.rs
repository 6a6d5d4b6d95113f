//! Tasks: processes and their threads, from the kernel's task list.
//!
//! *Trusts*: nothing. The list is walked with a bound and a cycle check; a task that cannot be read is a gap.
//! *Never*: reads more of a `task_struct` than the members asked for: its hot members beside them (run time, scheduler
//! state) change all the time and would make every look at a running task fail its validation.
//!
//! Layout: `struct task_struct`, `struct signal_struct` (`include/linux/sched.h`, `sched/signal.h`), Linux 5.10 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Resolved, View};
use crate::{AccessError, GapReason, Gva, Partial};
use lynceus_profiles::{Field, Profile};

/// Bytes of `task_struct.comm` (`TASK_COMM_LEN`).
pub const COMM_BYTES: usize = 16;
/// `PF_KTHREAD` (`include/linux/sched.h`).
const PF_KTHREAD: u64 = 0x0020_0000;
/// States that `/proc` reports, lowest bit first (`task_state_array`, fs/proc/array.c).
const STATE_LETTERS: [char; 9] = ['R', 'S', 'D', 'T', 't', 'X', 'Z', 'P', 'I'];
/// `TASK_REPORT`: the bits of those states, but idle.
const TASK_REPORT: u64 = 0x7f;
/// `TASK_IDLE`: uninterruptible, not counted as load.
const TASK_IDLE: u64 = 0x402;
/// `TASK_RTLOCK_WAIT` and `TASK_FROZEN` (6.x), both reported as uninterruptible.
const TASK_UNINTERRUPTIBLE_TOO: u64 = 0x1000 | 0x8000;
const TASK_UNINTERRUPTIBLE: u64 = 2;

/// A task: a process's main thread, or another of its threads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Address of its `task_struct`.
    pub at: Gva,
    /// Thread id in the initial pid namespace.
    pub pid: u32,
    /// Process id: the thread id of the process's first thread.
    pub tgid: u32,
    /// Process id of the parent; 0 where there is none.
    pub ppid: u32,
    /// Its name, up to 15 bytes; bytes that are not UTF-8 become U+FFFD.
    pub comm: String,
    /// State as `/proc` shows it: `R`, `S`, `D`, `T`, `t`, `X`, `Z`, `P` or `I`.
    pub state: char,
    /// Whether it is a thread of the kernel.
    pub kthread: bool,
    /// When it started: nanoseconds of `CLOCK_BOOTTIME`.
    pub start_boottime_ns: u64,
    /// Its `mm_struct`; null for kernel threads and zombies.
    pub mm: Gva,
    /// Its descriptor table; null for zombies.
    pub files: Gva,
    /// Its `fs_struct` (root and working directory); null for zombies.
    pub fs: Gva,
}

/// The least that a listing needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pid {
    /// Thread id in the initial pid namespace.
    pub pid: u32,
    /// Its name, NUL-padded.
    pub comm: [u8; COMM_BYTES],
}

/// Members of tasks.
#[derive(Clone, Debug)]
pub struct TasksLayout {
    /// Link-time address of `init_task`.
    pub(crate) init_task: u64,
    pub(crate) tasks: Field,
    pid: Field,
    tgid: Field,
    comm: Field,
    state: Field,
    exit_state: Field,
    flags: Field,
    start_boottime: Field,
    real_parent: Field,
    mm: Field,
    files: Field,
    fs: Field,
    signal: Field,
    thread_node: Field,
    thread_head: Field,
}

impl TasksLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let task = |member| profile.field("task_struct", member);
        Ok(TasksLayout {
            init_task: profile.symbol("init_task")?,
            tasks: task("tasks")?,
            pid: task("pid")?,
            tgid: task("tgid")?,
            comm: task("comm")?,
            // Renamed in 5.14, when reading it without READ_ONCE became an error.
            state: task("__state").or_else(|_| task("state"))?,
            exit_state: task("exit_state")?,
            flags: task("flags")?,
            start_boottime: task("start_boottime").or_else(|_| task("real_start_time"))?,
            real_parent: task("real_parent")?,
            mm: task("mm")?,
            files: task("files")?,
            fs: task("fs")?,
            signal: task("signal")?,
            thread_node: task("thread_node")?,
            thread_head: profile.field("signal_struct", "thread_head")?,
        })
    }
}

impl View<'_> {
    /// The processes on the task list: the first thread of each. The idle task (pid 0) is left out, as in `/proc`.
    pub fn tasks(&self) -> Partial<Task> {
        let layout = match &self.kernel().layouts.tasks {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("tasks", missing.clone()),
        };
        let mut tasks = Partial::default();
        let head = self.kernel().slid(layout.init_task).field(layout.tasks.offset);
        let nodes = self.list("task list", head);
        for node in tasks.absorb(nodes) {
            let at = Gva(node.0.wrapping_sub(layout.tasks.offset.into()));
            let task = self.task_at(layout, at);
            tasks.keep("task", at, task);
        }
        tasks
    }

    /// Every thread of a process, its first one included.
    pub fn threads(&self, process: &Task) -> Partial<Task> {
        let layout = match &self.kernel().layouts.tasks {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("threads", missing.clone()),
        };
        let mut threads = Partial::default();
        let signal = self.integer(process.at, layout.signal);
        let Some(signal) = threads.ok("task.signal", process.at, signal) else { return threads };
        let nodes = self.list("thread list", Gva(signal).field(layout.thread_head.offset));
        for node in threads.absorb(nodes) {
            let at = Gva(node.0.wrapping_sub(layout.thread_node.offset.into()));
            let thread = self.task_at(layout, at);
            threads.keep("thread", at, thread);
        }
        threads
    }

    /// The task whose `task_struct` is at `at`.
    pub fn task(&self, at: Gva) -> Result<Task, GapReason> {
        let layout = self.kernel().layouts.tasks.as_ref().map_err(Clone::clone)?;
        Ok(self.task_at(layout, at)?)
    }

    /// Pid and name of every process, with as few reads as that takes. Bytes of `pids` are reused between looks.
    pub fn pids(&self, pids: &mut Partial<Pid>) {
        pids.items.clear();
        pids.gaps.clear();
        pids.more_gaps = 0;
        let layout = match &self.kernel().layouts.tasks {
            Ok(layout) => layout,
            Err(missing) => return pids.gap("tasks", None, missing.clone()),
        };
        let head = self.kernel().slid(layout.init_task).field(layout.tasks.offset);
        self.ring("task list", head, pids, |pids, node| {
            let task = Gva(node.0.wrapping_sub(layout.tasks.offset.into()));
            let pid = self.u32(task.field(layout.pid.offset));
            let comm = self.bytes::<COMM_BYTES>(task.field(layout.comm.offset));
            if let (Some(pid), Some(comm)) =
                (pids.ok("task.pid", task, pid), pids.ok("task.comm", task, comm))
            {
                pids.items.push(Pid { pid, comm });
            }
        });
    }

    fn task_at(&self, layout: &TasksLayout, at: Gva) -> Result<Task, AccessError> {
        let number = |field| self.integer(at, field);
        let id = |field| number(field).map(|value| value as u32);
        let parent = Gva(number(layout.real_parent)?);
        let ppid = if parent.is_null() { 0 } else { self.integer(parent, layout.tgid)? as u32 };
        Ok(Task {
            at,
            pid: id(layout.pid)?,
            tgid: id(layout.tgid)?,
            ppid,
            comm: self.string(at.field(layout.comm.offset), COMM_BYTES)?,
            state: state_letter(number(layout.state)?, number(layout.exit_state)?),
            kthread: number(layout.flags)? & PF_KTHREAD != 0,
            start_boottime_ns: number(layout.start_boottime)?,
            mm: number(layout.mm).map(Gva)?,
            files: number(layout.files).map(Gva)?,
            fs: number(layout.fs).map(Gva)?,
        })
    }
}

/// The letter that `get_task_state` (fs/proc/array.c) derives from the two state members.
fn state_letter(state: u64, exit_state: u64) -> char {
    let reported = if state & TASK_IDLE == TASK_IDLE {
        TASK_REPORT.saturating_add(1)
    } else if state & TASK_UNINTERRUPTIBLE_TOO != 0 {
        TASK_UNINTERRUPTIBLE
    } else {
        (state | exit_state) & TASK_REPORT
    };
    let index = 64u32.saturating_sub(reported.leading_zeros());
    STATE_LETTERS.get(index as usize).copied().unwrap_or('?')
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
pub(in crate::linux) mod tests;
