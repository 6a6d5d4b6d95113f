//! Tasks, threads, credentials, namespaces, control groups, executables, arguments.
//!
//! Left out, because it moves between the guest's account and ours: kernel workers (they come, go and are renamed),
//! the state of PID 1, which takes the account, and that of a task that either side caught running. Of a kernel thread's
//! name the task holds 15 bytes; what `/proc` shows beyond them is kept elsewhere.

use crate::report::Report;
use anyhow::Result;
use lynceus_introspect::linux::{Namespaces, Task, View};
use lynceus_lab::truth::{self, Truth};

/// The name that the kernel gives its workers; `/proc` appends what they work at.
const WORKER: &str = "kworker/";
/// `/proc/PID/stat` counts hundredths of a second.
const NS_PER_TICK: u64 = 10_000_000;

pub(crate) fn compare(view: &View<'_>, truth: &Truth, report: &mut Report) -> Result<()> {
    let (tasks, theirs) = (ours(view, report), theirs(truth)?);
    let running = running(&tasks, &theirs);

    let lines = tasks.iter().flat_map(|task| our_lines(view, task, &running, report)).collect();
    report.compare("task", theirs.iter().flat_map(|task| their_lines(task, &running)).collect(), lines);
    Ok(())
}

/// What we see, but kernel workers.
pub(crate) fn ours(view: &View<'_>, report: &mut Report) -> Vec<Task> {
    let mut tasks = report.whole("tasks", view.tasks());
    tasks.retain(|task| !task.comm.starts_with(WORKER));
    tasks
}

/// What the guest told, but kernel workers.
pub(crate) fn theirs(truth: &Truth) -> Result<Vec<truth::Task>> {
    let mut tasks = truth.tasks()?;
    tasks.retain(|task| !task.comm.starts_with(WORKER));
    Ok(tasks)
}

/// Tasks whose state cannot be held against each other.
fn running(ours: &[Task], theirs: &[truth::Task]) -> Vec<u32> {
    let ours = ours.iter().filter(|task| task.state == 'R').map(|task| task.pid);
    let theirs = theirs.iter().filter(|task| task.state == 'R').map(|task| task.pid);
    ours.chain(theirs).chain([1]).collect()
}

fn their_lines(task: &truth::Task, running: &[u32]) -> Vec<String> {
    let pid = task.pid;
    let kthread = task.is_kernel_thread();
    let name = |comm: &str| comm.chars().take(if kthread { 15 } else { usize::MAX }).collect::<String>();
    let caps = &task.caps;
    let caps = [caps.inheritable, caps.permitted, caps.effective, caps.bounding, caps.ambient];
    let namespace = |name: &str| task.namespaces.get(name).map(|inode| *inode as u32);
    let mut lines = vec![
        format!("{pid} ppid {} comm {:?} kthread {kthread}", task.ppid, name(&task.comm)),
        format!("{pid} uids {:?} gids {:?} caps {caps:x?}", task.uids, task.gids),
        format!("{pid} exe {:?}", task.exe),
        format!("{pid} arguments {:?}", task.cmdline),
        format!("{pid} environment {:?}", task.environ),
        format!("{pid} root {:?} cwd {:?}", task.root, task.cwd),
        format!("{pid} started {}", task.start_ticks),
        format!("{pid} cgroup {:?}", task.cgroup),
        format!("{pid} inside {:?}", task.ns_pids.last()),
    ];
    for name in NAMESPACES {
        lines.push(format!("{pid} namespace {name} {:?}", namespace(name)));
    }
    for thread in &task.threads {
        let (tid, start) = (thread.tid, thread.start_ticks);
        lines.push(format!("{pid} thread {tid} {:?} started {start}", name(&thread.comm)));
    }
    if !running.contains(&pid) {
        lines.push(format!("{pid} state {}", task.state));
    }
    lines
}

const NAMESPACES: [&str; 8] = ["mnt", "pid", "net", "uts", "ipc", "cgroup", "time", "user"];

fn our_lines(view: &View<'_>, task: &Task, running: &[u32], report: &mut Report) -> Vec<String> {
    let pid = task.pid;
    let mut lines = vec![format!("{pid} ppid {} comm {:?} kthread {}", task.ppid, task.comm, task.kthread)];
    if let Some(creds) = report.some("credentials", view.creds(task)) {
        lines.push(format!("{pid} uids {:?} gids {:?} caps {:x?}", creds.uids, creds.gids, creds.caps));
    }
    let mm = (!task.mm.is_null()).then(|| report.some("mm", view.mm(task.mm))).flatten();
    let exe = mm.as_ref().and_then(|mm| report.some("exe", view.exe(mm))).flatten();
    let arguments = mm.as_ref().and_then(|mm| report.some("arguments", view.cmdline(mm)));
    let environment = mm.as_ref().and_then(|mm| report.some("environment", view.environ(mm)));
    lines.push(format!("{pid} exe {exe:?}"));
    lines.push(format!("{pid} arguments {:?}", arguments.unwrap_or_default()));
    lines.push(format!("{pid} environment {:?}", environment.unwrap_or_default()));
    let root = report.some("root", view.root_of(task)).flatten();
    let cwd = report.some("cwd", view.cwd_of(task)).flatten();
    let mut path =
        |at: lynceus_introspect::linux::PathAt| report.some("path", view.path(at.mount, at.dentry));
    lines.push(format!("{pid} root {:?} cwd {:?}", root.and_then(&mut path), cwd.and_then(&mut path)));
    lines.push(format!("{pid} started {}", task.start_boottime_ns / NS_PER_TICK));
    lines.push(format!("{pid} cgroup {:?}", report.some("cgroup", view.cgroup(task))));
    if let Some(namespaces) = report.some("namespaces", view.namespaces(task)) {
        lines.push(format!("{pid} inside {:?}", namespaces.pid_inside));
        let numbers = NAMESPACES.iter().zip(numbers(&namespaces));
        lines.extend(numbers.map(|(name, number)| format!("{pid} namespace {name} {number:?}")));
    }
    for thread in report.whole("threads", view.threads(task)) {
        let (tid, start) = (thread.pid, thread.start_boottime_ns / NS_PER_TICK);
        lines.push(format!("{pid} thread {tid} {:?} started {start}", thread.comm));
    }
    if !running.contains(&pid) {
        lines.push(format!("{pid} state {}", task.state));
    }
    lines
}

/// In the order of [`NAMESPACES`].
fn numbers(of: &Namespaces) -> [Option<u32>; 8] {
    [of.mnt, of.pid, of.net, of.uts, of.ipc, of.cgroup, of.time, of.user]
}
