//! Processes and threads, from `/proc/PID/{status,stat,comm,cmdline,environ,cgroup}` and its links (proc(5)).

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{Truth, hex};

/// One process (thread group), kernel threads included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Thread-group id, which is the leader's pid, in the initial PID namespace.
    pub pid: u32,
    /// Parent's thread-group id; 0 for PID 1 and kthreadd.
    pub ppid: u32,
    /// Process group.
    pub pgrp: u32,
    /// Session.
    pub session: u32,
    /// Name, as `/proc/PID/comm` has it. For a kernel worker the kernel adds `-` or `+` and its work queue.
    pub comm: String,
    /// State letter (`S`, `R`, `Z`, `I`...).
    pub state: char,
    /// `task_struct.flags`, as stat shows them.
    pub flags: u64,
    /// Real, effective, saved and file-system user, as seen from the initial user namespace.
    pub uids: [u32; 4],
    /// Real, effective, saved and file-system group, as seen from the initial user namespace.
    pub gids: [u32; 4],
    /// Supplementary groups, sorted by the kernel.
    pub groups: Vec<u32>,
    /// Capability sets.
    pub caps: Caps,
    /// Whether no_new_privs is set.
    pub no_new_privs: bool,
    /// Link target of the executable (with ` (deleted)` where it is); none for a kernel thread or zombie.
    pub exe: Option<String>,
    /// Link target of the working directory.
    pub cwd: Option<String>,
    /// Link target of the root directory.
    pub root: Option<String>,
    /// Arguments.
    pub cmdline: Vec<String>,
    /// Environment, as `NAME=value`.
    pub environ: Vec<String>,
    /// Start after boot, in clock ticks (1/100 s), of the boot-time clock.
    pub start_ticks: u64,
    /// Every thread, the leader first.
    pub threads: Vec<Thread>,
    /// Inode number of each namespace, by its file name in `/proc/PID/ns`.
    pub namespaces: BTreeMap<String, u64>,
    /// Pid in each nested PID namespace, outermost first.
    pub ns_pids: Vec<u32>,
    /// Path in the cgroup 2 hierarchy, as seen from the initial cgroup namespace.
    pub cgroup: Option<String>,
    /// Resident pages in kibibytes; none for a kernel thread.
    pub rss_kib: Option<u64>,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Thread id.
    pub tid: u32,
    /// Name.
    pub comm: String,
    /// State letter.
    pub state: char,
    /// Start after boot, in clock ticks.
    pub start_ticks: u64,
}

/// Capability sets, a bit for each capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// `CapInh`
    pub inheritable: u64,
    /// `CapPrm`
    pub permitted: u64,
    /// `CapEff`
    pub effective: u64,
    /// `CapBnd`
    pub bounding: u64,
    /// `CapAmb`
    pub ambient: u64,
}

impl Task {
    /// Whether this is a kernel thread (`PF_KTHREAD`, include/linux/sched.h).
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & 0x0020_0000 != 0
    }
}

impl Truth {
    /// Every process that was there from the start of its capture to the end, in order of pid.
    pub fn tasks(&self) -> Result<Vec<Task>> {
        let whole = |pid: &u32| {
            ["stat", "status", "comm", "fdstat"]
                .iter()
                .all(|name| self.file(&format!("/proc/{pid}/{name}")).is_some())
        };
        self.pids().into_iter().filter(whole).map(|pid| self.task(pid)).collect()
    }

    /// The only process of this name (any of them if there are more).
    pub fn task_named(&self, comm: &str) -> Result<Task> {
        let named =
            |pid: &u32| self.text(&format!("/proc/{pid}/comm")).is_some_and(|name| name.trim_end() == comm);
        let pid =
            self.pids().into_iter().find(named).with_context(|| format!("no process is called {comm}"))?;
        self.task(pid)
    }

    /// One process.
    pub fn task(&self, pid: u32) -> Result<Task> {
        let base = format!("/proc/{pid}");
        let status = Status(self.need(&format!("{base}/status"))?);
        let stat = Stat(self.need(&format!("{base}/stat"))?);
        let tids = self.numbers(&format!("{base}/task/"), "/stat");
        let threads = std::iter::once(self.thread(pid, &base))
            .chain(tids.into_iter().map(|tid| self.thread(tid, &format!("{base}/task/{tid}"))));
        self.assemble(pid, &base, &status, &stat, threads.collect::<Result<_>>()?)
            .with_context(|| format!("{base}: status or stat cannot be read"))
    }

    fn assemble(
        &self,
        pid: u32,
        base: &str,
        status: &Status,
        stat: &Stat,
        threads: Vec<Thread>,
    ) -> Option<Task> {
        let comm = self.text(&format!("{base}/comm"))?;
        let cgroups = self.text(&format!("{base}/cgroup")).unwrap_or_default();
        Some(Task {
            pid,
            ppid: stat.number(4)?,
            pgrp: stat.number(5)?,
            session: stat.number(6)?,
            comm: comm.trim_end_matches('\n').to_owned(),
            state: stat.state()?,
            flags: stat.number(9)?,
            uids: status.numbers("Uid")?.try_into().ok()?,
            gids: status.numbers("Gid")?.try_into().ok()?,
            groups: status.numbers("Groups")?,
            caps: status.caps()?,
            no_new_privs: status.field("NoNewPrivs")? == "1",
            exe: self.text(&format!("{base}/exe")),
            cwd: self.text(&format!("{base}/cwd")),
            root: self.text(&format!("{base}/root")),
            cmdline: self.strings(&format!("{base}/cmdline")),
            environ: self.strings(&format!("{base}/environ")),
            start_ticks: stat.number(22)?,
            threads,
            namespaces: self.namespaces(base),
            ns_pids: status.numbers("NSpid")?,
            cgroup: cgroups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned),
            rss_kib: status.field("VmRSS").and_then(|text| text.split_whitespace().next()?.parse().ok()),
        })
    }

    fn thread(&self, tid: u32, base: &str) -> Result<Thread> {
        let stat = Stat(self.need(&format!("{base}/stat"))?);
        let comm = self.need(&format!("{base}/comm"))?.trim_end_matches('\n').to_owned();
        let read = || Some(Thread { tid, comm, state: stat.state()?, start_ticks: stat.number(22)? });
        read().with_context(|| format!("{base}/stat cannot be read"))
    }

    /// NUL-terminated strings.
    fn strings(&self, path: &str) -> Vec<String> {
        let text = self.text(path).unwrap_or_default();
        let text = text.strip_suffix('\0').unwrap_or(&text);
        if text.is_empty() { Vec::new() } else { text.split('\0').map(str::to_owned).collect() }
    }

    /// Links such as `pid:[4026531836]`.
    fn namespaces(&self, base: &str) -> BTreeMap<String, u64> {
        let before = format!("{base}/ns/");
        let inode = |name: &str| {
            self.text(&format!("{before}{name}"))?.split_once('[')?.1.trim_end_matches(']').parse().ok()
        };
        self.names(&before, "")
            .into_iter()
            .filter_map(|name| Some((inode(&name)?, name)))
            .map(|(id, name)| (name, id))
            .collect()
    }
}

/// The text of a status file.
struct Status(String);

impl Status {
    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    fn numbers(&self, name: &str) -> Option<Vec<u32>> {
        self.field(name)?.split_whitespace().map(|text| text.parse().ok()).collect()
    }

    fn caps(&self) -> Option<Caps> {
        let set = |name| hex(self.field(name)?);
        Some(Caps {
            inheritable: set("CapInh")?,
            permitted: set("CapPrm")?,
            effective: set("CapEff")?,
            bounding: set("CapBnd")?,
            ambient: set("CapAmb")?,
        })
    }
}

/// The text of a stat file. The name may hold blanks and brackets; the last bracket ends it.
struct Stat(String);

impl Stat {
    /// A field by its number in proc(5), from 3.
    fn field(&self, number: usize) -> Option<&str> {
        self.0.rsplit_once(')')?.1.split_whitespace().nth(number.checked_sub(3)?)
    }

    fn number<T: std::str::FromStr>(&self, number: usize) -> Option<T> {
        self.field(number)?.parse().ok()
    }

    fn state(&self) -> Option<char> {
        self.field(3)?.chars().next()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::truth;

    const STATUS: &str = "Name:\todd) name\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nGroups:\t4 24 \nNSpid:\t42\t1\n\
        VmRSS:\t     972 kB\nCapInh:\t0000000000000400\nCapPrm:\t0000000000080400\nCapEff:\t0000000000080400\n\
        CapBnd:\t000001fffffeffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";
    const STAT: &str = "42 (odd) name) S 7 42 41 0 -1 4194560 93 0 0 0 1 2 0 0 20 0 2 0 161 1 2 3 4";

    #[test]
    fn a_process_is_read_from_its_files() {
        let thread = "43 (worker-0) R 7 42 41 0 -1 64 93 0 0 0 1 2 0 0 20 0 2 0 162 1";
        let truth = truth(&[
            ("/proc/42/status", STATUS),
            ("/proc/42/stat", STAT),
            ("/proc/42/comm", "odd) name\n"),
            ("/proc/42/cmdline", "prog\0\0two words\0"),
            ("/proc/42/environ", "A=b\0"),
            ("/proc/42/exe", "/x (deleted)"),
            ("/proc/42/cgroup", "0::/docker/ab\n"),
            ("/proc/42/fdstat", ""),
            ("/proc/42/ns/pid", "pid:[4026531836]"),
            ("/proc/42/task/43/stat", thread),
            ("/proc/42/task/43/comm", "worker-0\n"),
        ]);
        let tasks = truth.tasks().unwrap();
        let [task] = tasks.as_slice() else { panic!("{tasks:?}") };
        assert_eq!((task.pid, task.ppid, task.session, task.state), (42, 7, 41, 'S'));
        assert_eq!((task.comm.as_str(), task.start_ticks, task.rss_kib), ("odd) name", 161, Some(972)));
        assert_eq!((task.uids, task.gids), ([1000, 1001, 1002, 1003], [5, 6, 7, 8]));
        assert_eq!((task.groups.as_slice(), task.ns_pids.as_slice()), (&[4, 24][..], &[42, 1][..]));
        assert_eq!((task.caps.effective, task.caps.bounding), (0x80400, 0x1ff_fffe_ffff));
        assert!(task.no_new_privs && !task.is_kernel_thread());
        assert_eq!(task.cmdline, ["prog", "", "two words"]);
        assert_eq!((task.exe.as_deref(), task.cgroup.as_deref()), (Some("/x (deleted)"), Some("/docker/ab")));
        assert_eq!(task.namespaces["pid"], 4_026_531_836);
        let names: Vec<_> =
            task.threads.iter().map(|thread| (thread.tid, thread.comm.as_str(), thread.state)).collect();
        assert_eq!(names, [(42, "odd) name", 'S'), (43, "worker-0", 'R')]);
        assert_eq!(truth.task_named("odd) name").unwrap().pid, 42);
        assert!(truth.task_named("nobody").is_err());
    }

    #[test]
    fn a_process_that_ended_during_the_capture_is_left_out() {
        assert_eq!(truth(&[("/proc/42/status", STATUS)]).tasks().unwrap(), []);
    }
}
