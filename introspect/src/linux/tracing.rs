//! Who traces a task, and whether its system calls are handed back to it.
//!
//! *Trusts*: nothing; the tracer is read as any task is.
//!
//! Layouts: `task_struct.ptrace` and `.parent` (`include/linux/sched.h`), `thread_info.syscall_work` and `struct
//! syscall_user_dispatch` (`include/linux/thread_info.h`, `syscall_user_dispatch_types.h`, from 5.11), Linux 5.10 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Resolved, Task, View};
use crate::{GapReason, Gva};
use lynceus_profiles::{Field, Profile};

/// `PT_PTRACED` (`include/linux/ptrace.h`).
const TRACED: u64 = 1;
/// `SYSCALL_WORK_SYSCALL_USER_DISPATCH`: bit 5 since there is one.
const USER_DISPATCH: u64 = 1 << 5;

/// Members that tell of tracing and dispatch.
#[derive(Clone, Debug)]
pub struct TracingLayout {
    ptrace: Field,
    parent: Field,
    /// Kernels from 5.11 on.
    dispatch: Option<DispatchLayout>,
}

#[derive(Clone, Copy, Debug)]
struct DispatchLayout {
    work: Field,
    selector: Field,
    offset: Field,
    length: Field,
}

/// System calls from outside of one range of code are handed to the task itself, as signals (`prctl(PR_SET_SYSCALL_USER_DISPATCH)`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserDispatch {
    /// The byte of the task's memory that switches it on and off; null: it is always on.
    pub selector: Gva,
    /// Where the code begins whose system calls go to the kernel.
    pub start: Gva,
    /// Its length in bytes.
    pub len_bytes: u64,
}

impl TracingLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let task = |path| profile.field("task_struct", path);
        let dispatch = || -> Resolved<DispatchLayout> {
            Ok(DispatchLayout {
                work: task("thread_info.syscall_work")?,
                selector: task("syscall_dispatch.selector")?,
                offset: task("syscall_dispatch.offset")?,
                length: task("syscall_dispatch.len")?,
            })
        };
        Ok(TracingLayout { ptrace: task("ptrace")?, parent: task("parent")?, dispatch: dispatch().ok() })
    }
}

impl View<'_> {
    /// The task that traces this one.
    pub fn tracer(&self, task: &Task) -> Result<Option<Task>, GapReason> {
        let layout = self.kernel().layouts.tracing.as_ref().map_err(Clone::clone)?;
        if self.integer(task.at, layout.ptrace)? & TRACED == 0 {
            return Ok(None);
        }
        self.task(Gva(self.integer(task.at, layout.parent)?)).map(Some)
    }

    /// How the system calls of this thread are handed back to it, where they are.
    pub fn user_dispatch(&self, thread: &Task) -> Result<Option<UserDispatch>, GapReason> {
        let layout = self.kernel().layouts.tracing.as_ref().map_err(Clone::clone)?;
        let Some(dispatch) = layout.dispatch else { return Ok(None) };
        let number = |field| self.integer(thread.at, field);
        if number(dispatch.work)? & USER_DISPATCH == 0 {
            return Ok(None);
        }
        let (selector, start) = (Gva(number(dispatch.selector)?), Gva(number(dispatch.offset)?));
        Ok(Some(UserDispatch { selector, start, len_bytes: number(dispatch.length)? }))
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::linux::tasks::tests as tasks;
    use crate::linux::testing::{Bench, gva, number, pointer};

    fn bench() -> Bench {
        let mut bench = Bench::new();
        let dispatch = DispatchLayout {
            work: number(0x810, 8),
            selector: pointer(0x818),
            offset: number(0x820, 8),
            length: number(0x828, 8),
        };
        let dispatch = Some(dispatch);
        bench.layouts().tracing =
            Ok(TracingLayout { ptrace: number(0x800, 4), parent: pointer(0x808), dispatch });
        bench
    }

    fn task(at: u64) -> Task {
        Task {
            at: gva(at),
            pid: 1,
            tgid: 1,
            ppid: 0,
            comm: String::new(),
            state: 'S',
            kthread: false,
            start_boottime_ns: 0,
            mm: Gva(0),
            files: Gva(0),
            fs: Gva(0),
        }
    }

    #[test]
    fn only_a_traced_task_has_a_tracer() {
        let mut bench = bench();
        bench.layouts().tasks = Ok(tasks::layout());
        bench.link(0x1808, 0x4000).u64(0x1800, 2);
        assert_eq!(bench.look(|view| view.tracer(&task(0x1000))), Ok(None));
        bench.u64(0x1800, 3);
        let tracer = bench.look(|view| view.tracer(&task(0x1000))).expect("a tracer");
        assert_eq!(tracer.map(|tracer| tracer.at), Some(gva(0x4000)));
        bench.u64(0x1808, 0x40);
        assert!(matches!(bench.look(|view| view.tracer(&task(0x1000))), Err(GapReason::Access(_))));
    }

    #[test]
    fn dispatch_is_told_where_it_is_on() {
        let mut bench = bench();
        bench.u64(0x1810, 0x1f).u64(0x1818, 0x7000).u64(0x1820, 0x40_0000).u64(0x1828, 0x1000);
        assert_eq!(bench.look(|view| view.user_dispatch(&task(0x1000))), Ok(None));
        bench.u64(0x1810, 0x20);
        let found = UserDispatch { selector: Gva(0x7000), start: Gva(0x40_0000), len_bytes: 0x1000 };
        assert_eq!(bench.look(|view| view.user_dispatch(&task(0x1000))), Ok(Some(found)));
    }
}
