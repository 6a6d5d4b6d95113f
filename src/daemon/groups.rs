//! Control groups of workers: what each may use up, together with all that the kernel keeps for it.
//!
//! *Does*: where systemd has delegated the service's group to the appliance (cgroup v2), moves the supervisor to a group below it, and every worker to one of its own, before
//! it is told what to look at: so much memory and no swap, so many threads, so much of the processors. Ends a worker by its group, takes the group away with it, and tells
//! whether the kernel ended it for want of memory.
//!
//! *Trusts*: the host's kernel, and the mark by which systemd says that a group is delegated. *Never*: touches a group that is not marked so, or one above it; takes a host that has
//! no groups to give for an error: other limits hold there as well, and `status` says that these do not.

use super::config::Workers;
use super::process::{proc_kib, status_kib};
use crate::sandbox::Limits;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The controllers that take part, and whether a worker is bounded without it.
const CONTROLLERS: [(&str, bool); 3] = [("memory", false), ("pids", true), ("cpu", true)];
/// What systemd writes on a group that it gives away (systemd.resource-control(5), `Delegate=`): older versions the first alone.
const MARKS: [&str; 2] = ["trusted.delegate", "user.delegate"];
const SUPERVISOR: &str = "supervisor";
const WORKER: &str = "worker-";
/// Beside workers that are busy the supervisor, which the firewall is part of, goes first.
const SUPERVISORS_WEIGHT: u32 = 1000;
/// Beside what a worker allocates: the kernel's own for a process and its threads, and pages of files that it reads.
const KERNELS_BYTES: u64 = 32 << 20;
/// A page table of 4 KiB for each 2 MiB that are mapped, and some more for those that are not aligned.
const MAPPED_BY_TABLE: u64 = 256;
/// A period of the processors' scheduler, in microseconds.
const PERIOD_US: u64 = 100_000;
/// A group whose last process has just ended is given up by the kernel within so many times this.
const LAST_BREATH: Duration = Duration::from_millis(2);
const LAST_BREATHS: u32 = 50;

/// What a worker may use up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    /// What it may allocate.
    pub(super) memory_bytes: u64,
    /// What it maps of its guest: an estimate that is rather too large.
    pub(super) mapped_bytes: u64,
    /// Threads.
    pub(super) threads: u32,
    /// In percent of one processor.
    pub(super) cpu_percent: u32,
    /// Among the workers, where all processors are busy.
    pub(super) cpu_weight: u32,
}

impl Room {
    /// For a worker that may allocate so much, and looks at this.
    pub(super) fn of(memory_bytes: u64, workers: &Workers, target: &str) -> Room {
        Room {
            memory_bytes,
            mapped_bytes: mapped_bytes(target),
            threads: Limits::default().threads,
            cpu_percent: workers.cpu_percent,
            cpu_weight: workers.cpu_weight,
        }
    }

    /// `memory.max`: so much that a worker that keeps to its limits never meets it.
    fn group_bytes(&self) -> u64 {
        self.memory_bytes.saturating_add(KERNELS_BYTES).saturating_add(self.mapped_bytes / MAPPED_BY_TABLE)
    }

    /// A group's files, and what to write there; and whether a worker is bounded enough where that cannot be.
    fn settings(&self) -> [(&'static str, String, bool); 7] {
        let quota = u64::from(self.cpu_percent) * PERIOD_US / 100;
        [
            ("memory.max", self.group_bytes().to_string(), false),
            // What a worker has read of a guest stays out of the host's swap.
            ("memory.swap.max", "0".to_owned(), true),
            ("memory.oom.group", "1".to_owned(), true),
            ("pids.max", self.threads.to_string(), true),
            ("cpu.max", format!("{quota} {PERIOD_US}"), true),
            ("cpu.weight", self.cpu_weight.to_string(), true),
            // Where there is swap compressed in memory, not there either.
            ("memory.zswap.max", "0".to_owned(), true),
        ]
    }
}

/// What a worker maps of its guest, at most: all that QEMU has, a dump, or as much as there is.
fn mapped_bytes(target: &str) -> u64 {
    let qemu = target.strip_prefix("pid:").and_then(|pid| pid.parse().ok());
    let qemu = qemu.and_then(|pid| status_kib(pid, "VmSize:"));
    let dump = || fs::metadata(target).ok().map(|about| about.len() >> 10);
    qemu.or_else(dump).or_else(|| proc_kib("meminfo", "MemTotal:")).unwrap_or(0) << 10
}

/// The groups of this process and its workers; or why there are none.
static GROUPS: OnceLock<Result<Groups, String>> = OnceLock::new();

/// Takes the delegated group, where there is one, for good. Why not, otherwise.
pub(super) fn take() -> Option<&'static str> {
    let groups = GROUPS.get_or_init(|| Groups::take().map_err(|error| format!("{error:#}")));
    groups.as_ref().err().map(String::as_str)
}

/// Whether workers of a process where this one is get groups of their own, in words.
pub(crate) fn told() -> String {
    match Groups::find() {
        Ok(folder) => format!("workers get control groups of their own below {}", folder.display()),
        Err(why) => format!("workers get no control groups of their own here: {why:#}"),
    }
}

/// Why workers have no groups of their own, where they have none.
pub(super) fn missing() -> Option<&'static str> {
    GROUPS.get().and_then(|groups| groups.as_ref().err()).map(String::as_str)
}

/// A group for a process that waits for its first word. None where there are no groups to give.
pub(super) fn join(pid: u32, room: &Room) -> Result<Option<Group>> {
    match GROUPS.get() {
        Some(Ok(groups)) => groups.join(pid, room).map(Some),
        _ => Ok(None),
    }
}

/// The group that was delegated, with the supervisor in one below it.
#[derive(Debug)]
struct Groups {
    folder: PathBuf,
}

impl Groups {
    /// The group that is delegated to this process, or why there is none.
    fn find() -> Result<PathBuf> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let own = own_path(&groups).context("this host has no cgroup v2")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let folder = mounted(&mounts).context("cgroup v2 is not mounted")?.join(own.trim_start_matches('/'));
        // One that was started anew by itself is where it was put.
        let folder = match folder.file_name() {
            Some(name) if name == SUPERVISOR => folder.parent().map(Path::to_owned).unwrap_or(folder),
            _ => folder,
        };
        ensure!(is_delegated(&folder), "{} is not delegated (Delegate= of the unit)", folder.display());
        let has = fs::read_to_string(folder.join("cgroup.controllers"))?;
        let has = |name: &str| has.split_whitespace().any(|controller| controller == name);
        ensure!(has("memory"), "{} has no memory controller", folder.display());
        Ok(folder)
    }

    fn take() -> Result<Groups> {
        let folder = Groups::find()?;
        let supervisor = folder.join(SUPERVISOR);
        made(&supervisor)?;
        // A group with processes has no controllers to give to those below it.
        write(&supervisor, "cgroup.procs", &std::process::id().to_string())?;
        for (name, may_lack) in CONTROLLERS {
            match write(&folder, "cgroup.subtree_control", &format!("+{name}")) {
                Err(error) if !may_lack => return Err(error),
                _ => {}
            }
        }
        let _ = write(&supervisor, "cpu.weight", &SUPERVISORS_WEIGHT.to_string());
        let groups = Groups { folder };
        groups.sweep();
        Ok(groups)
    }

    /// Groups of workers of one that was killed before: their workers ended with it.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(WORKER) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    fn join(&self, pid: u32, room: &Room) -> Result<Group> {
        let group =
            Group { folder: self.folder.join(format!("{WORKER}{pid}")), memory_bytes: room.group_bytes() };
        made(&group.folder)?;
        for (file, value, may_lack) in room.settings() {
            match write(&group.folder, file, &value) {
                Err(error) if !may_lack => return Err(error),
                _ => {}
            }
        }
        write(&group.folder, "cgroup.procs", &pid.to_string())?;
        Ok(group)
    }
}

/// A worker's group. Gone when dropped, which comes after its process.
#[derive(Debug)]
pub(super) struct Group {
    folder: PathBuf,
    memory_bytes: u64,
}

impl Group {
    /// Ends all that is in it.
    pub(super) fn kill(&self) {
        // Kernels before 5.14 have no such file: the process is killed by its number as well.
        let _ = write(&self.folder, "cgroup.kill", "1");
    }

    /// That the kernel ended it because it wanted more memory than its group may have, or the host has; in words.
    pub(super) fn ran_out(&self) -> Option<String> {
        let events = fs::read_to_string(self.folder.join("memory.events")).ok()?;
        (killed(&events) > 0)
            .then(|| format!("it ran out of its memory: its group may have {} MiB", self.memory_bytes >> 20))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..LAST_BREATHS {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(LAST_BREATH),
                _ => return,
            }
        }
        tracing::warn!("{}: the group of a worker that has ended cannot be removed", self.folder.display());
    }
}

fn made(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

fn write(folder: &Path, file: &str, value: &str) -> Result<()> {
    let path = folder.join(file);
    fs::write(&path, value).with_context(|| format!("{value} to {}", path.display()))
}

fn is_delegated(folder: &Path) -> bool {
    let mut value = [0; 8];
    MARKS.iter().any(|mark| {
        rustix::fs::getxattr(folder, *mark, &mut value).is_ok_and(|len| value.get(..len) == Some(b"1"))
    })
}

/// The group of cgroup v2 in proc_pid_cgroup(5).
fn own_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| path.starts_with('/'))
}

/// Where the whole of cgroup v2 is mounted (proc_pid_mountinfo(5)).
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(at))
    })
}

/// How many processes of a group the kernel has killed for want of memory, in `memory.events`.
fn killed(events: &str) -> u64 {
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    events.lines().find_map(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood() {
        assert_eq!(
            own_path("12:memory:/a\n0::/system.slice/lynceus.service\n"),
            Some("/system.slice/lynceus.service")
        );
        assert_eq!(own_path("12:memory:/a\n1:name=systemd:/b\n"), None);
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let part = "30 23 0:26 /a.service /sys/fs/cgroup/a.service rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(&format!("{part}{unified}")), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(mounted("30 23 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"), None);
        assert_eq!(mounted("nonsense"), None);
        let events = "low 0\nhigh 0\nmax 31\noom 2\noom_kill 1\noom_group_kill 1\n";
        assert_eq!((killed(events), killed("oom_kill 0\n"), killed("oom_kill x"), killed("")), (1, 0, 0, 0));
    }

    #[test]
    fn a_worker_that_keeps_to_its_limits_never_meets_its_groups() {
        let room = Room {
            memory_bytes: 1 << 30,
            mapped_bytes: 64 << 30,
            threads: 16,
            cpu_percent: 150,
            cpu_weight: 7,
        };
        // Page tables for all of its guest, with half as much again.
        assert!(room.group_bytes() >= (1 << 30) + (64 << 30) / 512 * 3 / 2);
        let of =
            |name| room.settings().into_iter().find(|(file, ..)| *file == name).map(|(_, value, _)| value);
        assert_eq!(of("cpu.max").as_deref(), Some("150000 100000"));
        assert_eq!((of("pids.max").as_deref(), of("memory.swap.max").as_deref()), (Some("16"), Some("0")));
    }

    #[test]
    fn only_what_is_marked_is_delegated() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        assert!(!is_delegated(folder.path()));
        let mark = |value: &[u8]| {
            rustix::fs::setxattr(folder.path(), "user.delegate", value, rustix::fs::XattrFlags::empty())
                .unwrap();
            is_delegated(folder.path())
        };
        assert_eq!([mark(b"1"), mark(b"0"), mark(b"11")], [true, false, false]);
    }
}
