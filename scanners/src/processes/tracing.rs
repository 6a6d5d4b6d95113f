//! Tracing and dispatch: processes that another one steers, and threads whose system calls go elsewhere than to the kernel.
//!
//! What they see, and what evades them: [`TRACED`] and [`DISPATCHED`].

use super::jit::{self, Maker};
use super::{each, places, subject};
use crate::{Detector, Finding, Limits, Severity};
use lynceus_introspect::linux::{LinuxGuest, Mm, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Partial};

/// What is known of the detector of tracing.
pub(crate) const TRACED: Detector = Detector {
    name: "ptrace_link",
    technique: "T1055.008",
    about: "processes traced by a program that is no known debugger",
    limits: Limits {
        sees: "a thread attached to by ptrace whose tracer is no debugger, tracer or sandbox of a package",
        evaded_by: "a tracer that detaches before the look, process_vm_writev, /proc/PID/mem; a program called like a debugger in a system folder",
        false_positives: "debuggers that are not on the list; programs that trace themselves to keep debuggers out",
    },
    next: "what the tracer is and who started it; the traced process's code against its file, and its executable memory",
    run: ptrace_links,
};

/// What is known of the detector of dispatch.
pub(crate) const DISPATCHED: Detector = Detector {
    name: "syscall_user_dispatch",
    technique: "T1562",
    about: "threads whose system calls are handed back to code of their own process",
    limits: Limits {
        sees: "a thread that has syscall user dispatch switched on, in a process that is no emulator of another system",
        evaded_by: "seccomp filters that trap, ptrace, a process called like wine in a system folder",
        false_positives: "sandboxes and emulators that are not on the list",
    },
    next: "lynceus maps --pid: whose code the range is; system calls from anywhere else are seen by that code before the kernel",
    run: dispatched,
};

/// Programs whose work it is to trace others.
const TRACERS: &[&str] = &[
    "gdb",
    "gdbserver",
    "lldb",
    "lldb-server",
    "strace",
    "ltrace",
    "rr",
    "dlv",
    "proot",
    "fakeroot-ng",
    "runsc",
    "linux",
    "criu",
    "valgrind",
    "vsdbg",
    "OpenDebugAD7",
    "crashpad_handler",
    "reptyr",
    "uftrace",
    "sydbox",
    "syd",
    "wineserver",
    "wine64-preloader",
    "wine-preloader",
];
/// Most threads of a process that are looked at one by one.
const MAX_THREADS: usize = 4096;

/// Processes that another one traces.
pub fn ptrace_links(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    each(guest, options, |view, task, _| of_thread(view, task, traced))
}

/// Processes whose system calls are handed back to them.
pub fn dispatched(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    each(guest, options, |view, task, mm| of_thread(view, task, |view, thread| diverted(view, thread, mm)))
}

/// What `judge` says of the first thread of a process that it has something to say of.
fn of_thread(
    view: &View<'_>,
    task: &Task,
    judge: impl Fn(&View<'_>, &Task) -> Result<Option<Finding>, GapReason>,
) -> Partial<Finding> {
    let mut found = Partial::default();
    let threads = view.threads(task);
    for thread in found.absorb(threads).into_iter().take(MAX_THREADS) {
        let judged = judge(view, &thread);
        if let Some(Some(finding)) = found.ok("thread", thread.at, judged) {
            found.items.push(finding);
            break;
        }
    }
    found
}

fn traced(view: &View<'_>, thread: &Task) -> Result<Option<Finding>, GapReason> {
    let Some(tracer) = view.tracer(thread)? else { return Ok(None) };
    let program = if tracer.mm.is_null() { None } else { view.exe(&view.mm(tracer.mm)?)? };
    let program = program.unwrap_or_default();
    let known = TRACERS.contains(&places::file_name(&program)) && !places::is_temporary(&program);
    if known {
        return Ok(None);
    }
    // A parent that traces what it started may hardly do more to it than it could before.
    let severity = if tracer.tgid == thread.ppid { Severity::Low } else { Severity::Medium };
    let summary = format!(
        "process {} ({}) is traced by process {} ({}), which is no known debugger: {program}",
        thread.tgid, thread.comm, tracer.tgid, tracer.comm
    );
    Ok(Some(TRACED.finding(severity, summary, subject(thread))))
}

fn diverted(view: &View<'_>, thread: &Task, mm: &Mm) -> Result<Option<Finding>, GapReason> {
    let Some(dispatch) = view.user_dispatch(thread)? else { return Ok(None) };
    let program = view.exe(mm)?.unwrap_or_default();
    if jit::maker(&program, &view.maps(mm).items) == Maker::Loader {
        return Ok(None);
    }
    let end = dispatch.start.0.saturating_add(dispatch.len_bytes);
    let summary = format!(
        "process {} ({}): system calls of thread {} from outside of {}-{end:#x} go to the process itself",
        thread.tgid, thread.comm, thread.pid, dispatch.start
    );
    Ok(Some(DISPATCHED.finding(Severity::Medium, summary, subject(thread))))
}
