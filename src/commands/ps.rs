//! `lynceus ps` and `lynceus tree`: the processes of a guest.

use crate::daemon::Process;
use crate::output::{Column, Output, Row, escape};
use lynceus_introspect::linux::{Clocks, Namespaces, Task, View, container_of};
use lynceus_introspect::{GapReason, Partial};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A process, or a thread of one.
#[derive(Serialize)]
pub(crate) struct PsRow {
    pub(super) pid: u32,
    tgid: u32,
    ppid: u32,
    comm: String,
    exe: Option<String>,
    cmdline: Vec<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    state: char,
    /// Wall clock of the guest, RFC 3339; absent where the guest's clock could not be read.
    start_time: Option<String>,
    start_boottime_ns: u64,
    kthread: bool,
    container: Option<String>,
    cgroup: Option<String>,
    namespaces: Option<NamespaceIds>,
    /// Effective capabilities, a bit each.
    capabilities: Option<u64>,
    threads: usize,
    /// In the pid table but not on the task list, which the guest's own `ps` reads.
    hidden: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    environ: Option<Vec<String>>,
}

/// Inode numbers of namespaces.
#[derive(Serialize)]
struct NamespaceIds {
    mnt: Option<u32>,
    pid: Option<u32>,
    net: Option<u32>,
    uts: Option<u32>,
    ipc: Option<u32>,
    cgroup: Option<u32>,
    time: Option<u32>,
    user: Option<u32>,
    /// The id inside its own pid namespace.
    pid_inside: Option<u32>,
}

/// What a listing of processes should hold.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) threads: bool,
    pub(crate) environ: bool,
}

/// The processes by pid, each with its threads after it where they are wanted.
pub(crate) fn rows(view: &View<'_>, wanted: Wanted) -> Partial<PsRow> {
    let mut rows = Partial::default();
    let clocks = view.clocks().map_err(|reason| rows.gap("clocks", None, reason)).ok();
    let processes = view.processes();
    let mut processes = rows.absorb(processes);
    processes.sort_by_key(|(task, _)| task.pid);
    for (process, listed) in processes {
        let threads = view.threads(&process);
        let mut threads = rows.absorb(threads);
        let row = row(view, &process, clocks.as_ref(), wanted, &mut rows);
        rows.items.push(PsRow { threads: threads.len(), hidden: !listed, ..row });
        if wanted.threads {
            threads.retain(|thread| thread.at != process.at);
            threads.sort_by_key(|thread| thread.pid);
            for thread in threads {
                let row = self::row(view, &thread, clocks.as_ref(), wanted, &mut rows);
                rows.items.push(row);
            }
        }
    }
    rows
}

fn row(
    view: &View<'_>,
    task: &Task,
    clocks: Option<&Clocks>,
    wanted: Wanted,
    gaps: &mut Partial<PsRow>,
) -> PsRow {
    let mut row = PsRow {
        pid: task.pid,
        tgid: task.tgid,
        ppid: task.ppid,
        comm: task.comm.clone(),
        exe: None,
        cmdline: Vec::new(),
        uid: None,
        gid: None,
        state: task.state,
        start_time: clocks.and_then(|clocks| wall_clock(clocks, task.start_boottime_ns)),
        start_boottime_ns: task.start_boottime_ns,
        kthread: task.kthread,
        container: None,
        cgroup: None,
        namespaces: None,
        capabilities: None,
        threads: 1,
        hidden: false,
        environ: None,
    };
    if let Some(creds) = gaps.ok("task credentials", task.at, view.creds(task)) {
        // As `ps` does: the effective user, the effective group.
        (row.uid, row.gid, row.capabilities) =
            (creds.uids.get(1).copied(), creds.gids.get(1).copied(), creds.caps.get(2).copied());
    }
    row.namespaces = gaps.ok("task namespaces", task.at, view.namespaces(task)).map(NamespaceIds::from);
    row.cgroup = gaps.ok("task control group", task.at, view.cgroup(task));
    row.container = row.cgroup.as_deref().and_then(container_of).map(str::to_owned);
    if !task.mm.is_null() && !task.kthread {
        let memory = memory(view, task, wanted, gaps, &mut row);
        gaps.ok("task memory", task.mm, memory);
    }
    row
}

fn memory(
    view: &View<'_>,
    task: &Task,
    wanted: Wanted,
    gaps: &mut Partial<PsRow>,
    row: &mut PsRow,
) -> Result<(), GapReason> {
    let mm = view.mm(task.mm)?;
    row.exe = gaps.ok("executable", task.at, view.exe(&mm)).flatten();
    row.cmdline = gaps.ok("arguments", task.at, view.cmdline(&mm)).unwrap_or_default();
    if wanted.environ {
        row.environ = gaps.ok("environment", task.at, view.environ(&mm));
    }
    Ok(())
}

/// When something happened that many nanoseconds after boot, by the guest's own wall clock.
pub(super) fn wall_clock(clocks: &Clocks, since_boot_ns: u64) -> Option<String> {
    let at_ns = u64::try_from(clocks.boot_time_ns).ok()?.checked_add(since_boot_ns)?;
    rfc3339(UNIX_EPOCH.checked_add(Duration::from_nanos(at_ns))?)
}

/// RFC 3339 in milliseconds; `None` beyond the year 9999, which a guest's clock may well claim.
pub(super) fn rfc3339(at: SystemTime) -> Option<String> {
    const YEAR_10000: u64 = 253_402_300_800;
    let seconds = at.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds < YEAR_10000).then(|| humantime::format_rfc3339_millis(at).to_string())
}

impl From<Namespaces> for NamespaceIds {
    fn from(found: Namespaces) -> NamespaceIds {
        let Namespaces { mnt, pid, net, uts, ipc, cgroup, time, user, pid_inside, .. } = found;
        NamespaceIds { mnt, pid, net, uts, ipc, cgroup, time, user, pid_inside }
    }
}

impl From<PsRow> for Process {
    fn from(row: PsRow) -> Process {
        let (cmdline, comm) = (row.command(), row.comm);
        Process { pid: row.pid, ppid: row.ppid, uid: row.uid, comm, cmdline, hidden: row.hidden }
    }
}

impl PsRow {
    /// The name, and whether the guest hides it.
    fn name(&self) -> String {
        if self.hidden { format!("{} (hidden)", self.comm) } else { self.comm.clone() }
    }

    /// The command as `ps` shows it: the arguments, or the name in brackets where there are none.
    fn command(&self) -> String {
        if self.cmdline.is_empty() { format!("[{}]", self.comm) } else { self.cmdline.join(" ") }
    }
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

impl Row for PsRow {
    const COLUMNS: &'static [Column] = &[
        Column::right("PID"),
        Column::right("PPID"),
        Column::right("UID"),
        Column::left("S"),
        Column::right("THR"),
        Column::left("START"),
        Column::left("CONTAINER"),
        Column::left("COMM"),
        Column::left("COMMAND"),
    ];
    fn cells(&self) -> Vec<String> {
        let seconds = self.start_time.as_ref().and_then(|time| time.get(..19));
        vec![
            self.pid.to_string(),
            self.ppid.to_string(),
            or_dash(self.uid),
            self.state.to_string(),
            self.threads.to_string(),
            seconds.map_or_else(|| "-".to_owned(), |time| time.replace('T', " ")),
            self.container.as_deref().map_or_else(|| "-".to_owned(), |id| id.chars().take(12).collect()),
            self.name(),
            self.command(),
        ]
    }
}

/// Tells a person about processes that the guest hides; whether it is so for sure is for `check` to say.
pub(super) fn point_at_hidden(output: Output, rows: &[PsRow]) {
    let count = rows.iter().filter(|row| row.hidden).count();
    if count > 0 && !output.is_json() {
        eprintln!(
            "{count} not on the kernel's task list, so that the guest's own ps does not show it: see `lynceus check`"
        );
    }
}

/// A process in a tree.
#[derive(Serialize)]
struct TreeRow<'a> {
    depth: usize,
    #[serde(flatten)]
    row: &'a PsRow,
}

/// Prints the processes below their parents. A process whose parent is missing, or whose parents run in a circle, is a root.
pub(super) fn print_tree(output: Output, rows: &[PsRow]) -> anyhow::Result<()> {
    let mut children: BTreeMap<u32, Vec<&PsRow>> = BTreeMap::new();
    rows.iter().for_each(|row| children.entry(row.ppid).or_default().push(row));
    let known: HashSet<u32> = rows.iter().map(|row| row.pid).collect();
    let mut seen = HashSet::new();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let roots = rows.iter().filter(|row| !known.contains(&row.ppid) || row.ppid == row.pid);
    for root in roots.chain(rows) {
        // Depth first, last child on top of the stack last: an explicit stack, so that no guest decides how deep we recurse.
        let mut open = vec![(root, 0usize, String::new(), true)];
        while let Some((row, depth, indent, is_last)) = open.pop() {
            if !seen.insert(row.pid) {
                continue;
            }
            if output.is_json() {
                serde_json::to_writer(&mut out, &TreeRow { depth, row })?;
                out.write_all(b"\n")?;
            } else {
                let branch = if depth == 0 {
                    ""
                } else if is_last {
                    "└─ "
                } else {
                    "├─ "
                };
                writeln!(out, "{indent}{branch}{}", label(output, row))?;
            }
            let below = match (depth, is_last) {
                (0, _) => String::new(),
                (_, true) => format!("{indent}   "),
                (_, false) => format!("{indent}│  "),
            };
            let own = children.get(&row.pid).map_or(&[][..], Vec::as_slice);
            for (index, child) in own.iter().rev().enumerate() {
                open.push((child, depth.saturating_add(1), below.clone(), index == 0));
            }
        }
    }
    out.flush()?;
    Ok(())
}

fn label(output: Output, row: &PsRow) -> String {
    let container = row.container.as_deref().map(|id| format!(" ⟨{}⟩", id.get(..12).unwrap_or(id)));
    let user = row.uid.filter(|uid| *uid != 0).map(|uid| format!(" uid {uid}"));
    let arguments = row.cmdline.get(1..).unwrap_or_default().join(" ");
    let shown: String = arguments.chars().take(100).collect();
    let cut = if shown.len() < arguments.len() { "…" } else { "" };
    let name = if row.hidden {
        output.red(&escape(&row.name()))
    } else if row.kthread {
        format!("[{}]", escape(&row.comm))
    } else {
        output.bold(&escape(&row.comm))
    };
    let extra = [user, container].into_iter().flatten().collect::<String>();
    format!("{} {name}{} {}{cut}", row.pid, escape(&extra), escape(&shown)).trim_end().to_owned()
}
