//! What the lab guest is meant to plant, checked against its truth: a test that compares two empty lists proves nothing.

use anyhow::Result;
use std::time::Duration;

use crate::truth::{SocketKind, Task, Truth};
use crate::until;

/// What is planted in a guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scenery {
    /// Everything, and with it [`ODDITIES`].
    Full,
    /// Only what an ordinary system may run: no detector has anything to say of it.
    Everyday,
}

impl Scenery {
    /// The word for it on the kernel's command line, `lynceus.scenery=`.
    pub fn word(self) -> &'static str {
        match self {
            Scenery::Full => "full",
            Scenery::Everyday => "everyday",
        }
    }
}

/// What the full scenery plants that no ordinary system runs: the detector that must find it, and the process.
pub const ODDITIES: &[(&str, &str)] =
    &[("odd_executable", "lab-deleted"), ("odd_executable", "lab-memfd"), ("executable_memory", "lab-rwx")];

/// The uid that runs `lab-user`.
pub const USER: u32 = 1000;
/// The title that `lab-title` wrote over its arguments.
pub const TITLE: &str = "lab-title: rewritten, serving nobody [idle] and longer than it was";
/// What `lab-rwx` wrote into writable and executable memory.
pub const RWX_MARKER: &str = "LYNCEUS-LAB-RWX-MARKER-7f3a9c51";
/// cgroup of `lab-container` and `lab-inner`.
pub const CONTAINER_CGROUP: &str = "/docker/4c61624c796e636575734c61624c796e636575734c61624c796e636575730001";

/// A process's name, and what must be true of it.
type Person = (&'static str, fn(&Task) -> bool);

const PEOPLE: &[Person] = &[
    ("lab-plain", |task| {
        task.cmdline == ["lab-plain", "--alpha one", "--beta=two words"]
            && has(&task.environ, "LAB_SECRET=s3cr3t")
    }),
    ("lab-user", |task| task.uids == [USER; 4] && task.gids == [USER; 4] && task.groups == [4, 24, 27]),
    ("lab-session", |task| task.uids == [USER; 4]),
    ("lab-command", |task| task.uids == [USER; 4]),
    ("lab-caps", |task| {
        task.caps.effective == (1 << 10 | 1 << 19) && task.caps.bounding & (1 << 16) == 0 && task.no_new_privs
    }),
    ("lab-threads", |task| (0..4).all(|number| has_thread(task, &format!("worker-{number}")))),
    ("lab-zombie", |task| task.state == 'S'),
    ("lab-undead", |task| task.state == 'Z' && task.exe.is_none()),
    ("lab-deleted", |task| task.exe.as_deref() == Some("/run/lab-deleted (deleted)")),
    ("lab-upgraded", |task| task.exe.as_deref() == Some("/run/lab-upgraded (deleted)")),
    ("lab-memfd", |task| task.exe.as_deref() == Some("/memfd:lab-payload (deleted)")),
    ("lab-rwx", |_| true),
    ("lab-long-15char", |task| task.cmdline.get(1).is_some_and(|text| text.len() == 8192)),
    ("lab-title", |task| task.cmdline.first().is_some_and(|text| text == TITLE)),
    ("lab-net", |task| has_thread(task, "acceptor")),
    ("lab-files", |_| true),
    ("lab-maps", |_| true),
    ("lab-bpf", |_| true),
    ("lab-userns", |task| task.uids == [100_000; 4]),
    ("lab-chroot", |task| {
        task.root.as_deref() == Some("/run/lab-jail") && task.cwd.as_deref() == Some("/run/lab-jail/home")
    }),
    ("lab-runtime", |_| true),
    ("lab-container", |task| contained(task) && task.exe.as_deref() == Some("/bin/lab-container")),
    ("lab-inner", |task| contained(task) && task.exe.as_deref() == Some("/bin/lab-inner")),
    ("intruder", |_| true),
];

/// Local ports that `lab-net` and `lab-bpf` hold, with the protocol and `sk_state` of each.
const PORTS: &[(&str, u16, u8)] = &[
    ("tcp", 10001, 10),
    ("tcp", 10001, 1),
    ("tcp", 10011, 1),
    ("tcp6", 10002, 10),
    ("tcp6", 10012, 1),
    ("tcp6", 10013, 10),
    ("tcp6", 10013, 1),
    ("tcp", 10014, 1),
    ("tcp", 10015, 8),
    ("tcp", 10016, 5),
    ("tcp", 10017, 10),
    ("tcp", 10018, 1),
    ("tcp", 10007, 10),
    ("udp", 10003, 7),
    ("udp", 10005, 1),
    ("udp6", 10004, 7),
    ("udp6", 10006, 1),
    ("udp", 10009, 7),
    ("raw", 1, 7),
    ("raw6", 58, 7),
    ("tcp", 10080, 10),
];

/// Starts of the link targets among `lab-files`' descriptors.
const FILES: &[&str] = &[
    "/tmp/lab-append.log",
    "/tmp/lab-gone.dat (deleted)",
    "/proc/version",
    "/sys/kernel/notes",
    "/dev/null",
    "/dev/kmsg",
    "/mnt/bound/file",
    "/mnt/with two spaces",
    "/etc-lab",
    "/run",
    "/tmp",
    "/run/lab-fifo",
    "/init",
    "pipe:[",
    "anon_inode:[eventfd]",
    "anon_inode:[eventpoll]",
    "anon_inode:[timerfd]",
    "anon_inode:[signalfd]",
    "anon_inode:inotify",
    "/memfd:lab-memory (deleted)",
    "/dev/ptmx",
    "/dev/pts/0",
];

/// How long something of the scenery may be late: an address is not there while its interface changes.
const LATE: Duration = Duration::from_secs(10);

/// A guest's account of itself with the whole scenery in it, but for what is `left_out`.
///
/// # Errors
/// It cannot be asked for, or something is missing for good; the error names all of it.
pub fn whole(
    scenery: Scenery,
    left_out: impl Fn(&str) -> bool,
    ask: impl Fn() -> Result<Truth>,
) -> Result<Truth> {
    let mut lacks = String::new();
    let found = until("the whole scenery", LATE, || {
        let truth = ask()?;
        let missing: Vec<String> =
            missing(&truth, scenery)?.into_iter().filter(|what| !left_out(what)).collect();
        lacks = missing.join("; ");
        Ok(missing.is_empty().then_some(truth))
    });
    match found {
        Err(error) if !lacks.is_empty() => Err(error.context(format!("the scenery lacks: {lacks}"))),
        found => found,
    }
}

/// Everything of the scenery that this truth does not show; empty for a guest that planted all of it.
///
/// Not looked for, since no kernel so far could do it: memory named by `PR_SET_VMA` (see [`Truth::notes`]).
pub fn missing(truth: &Truth, scenery: Scenery) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let planted = |name: &str| scenery == Scenery::Full || ODDITIES.iter().all(|(_, odd)| *odd != name);
    for (name, is_right) in PEOPLE.iter().filter(|(name, _)| planted(name)) {
        match truth.task_named(name) {
            Ok(task) if is_right(&task) => {}
            Ok(task) => missing.push(format!("{name} is not as planned: {task:?}")),
            Err(error) => missing.push(error.to_string()),
        }
    }
    missing_sockets(truth, &mut missing)?;
    missing_files(truth, &mut missing)?;
    missing_maps(truth, &mut missing)?;
    missing_kernel(truth, &mut missing)?;
    Ok(missing)
}

fn missing_sockets(truth: &Truth, missing: &mut Vec<String>) -> Result<()> {
    let sockets = truth.sockets()?;
    for wanted in PORTS {
        let held = sockets.iter().any(|socket| match &socket.kind {
            SocketKind::Inet { protocol, local, state, .. } => (*protocol, local.port(), *state) == *wanted,
            _ => false,
        });
        check(missing, held, || format!("no socket {wanted:?}"));
    }
    for name in ["/run/lab.sock", "@lab-abstract", "/run/lab-dgram.sock", "/run/lab-seq.sock"] {
        let held = |socket: &SocketKind| matches!(socket, SocketKind::Unix { path, .. } if path == name);
        check(missing, sockets.iter().any(|socket| held(&socket.kind)), || format!("no Unix socket {name}"));
    }
    let packets = sockets.iter().filter(|socket| matches!(socket.kind, SocketKind::Packet { .. })).count();
    check(missing, packets == 2, || format!("{packets} packet sockets, not 2"));
    let listener = |kind: &SocketKind| matches!(kind, SocketKind::Netlink { protocol: 0, groups: 0x11, .. });
    check(missing, sockets.iter().any(|socket| listener(&socket.kind)), || "no netlink listener".into());
    let interfaces = truth.interfaces()?;
    for name in ["lo", "lab-dummy0", "lab-veth0", "lab-veth1"] {
        let there =
            interfaces.iter().any(|interface| interface.name == name && !interface.addresses.is_empty());
        check(missing, there, || format!("no interface {name} with an address"));
    }
    Ok(())
}

fn missing_files(truth: &Truth, missing: &mut Vec<String>) -> Result<()> {
    let Ok(task) = truth.task_named("lab-files") else { return Ok(()) };
    let fds = truth.fds(task.pid)?;
    for target in FILES {
        check(missing, fds.iter().any(|fd| fd.target.starts_with(target)), || {
            format!("lab-files lacks {target}")
        });
    }
    for number in [70, 300] {
        let right = fds.iter().any(|fd| fd.fd == number && fd.pos == 4242);
        check(missing, right, || format!("lab-files lacks descriptor {number} at 4242"));
    }
    let mounts = truth.mounts(task.pid)?;
    for point in
        ["/mnt/bound", "/mnt/with two spaces", "/mnt/stacked", "/mnt/ramfs", "/sys/fs/cgroup", "/sys/fs/bpf"]
    {
        let there = mounts.iter().any(|mount| mount.mount_point == point);
        check(missing, there, || format!("no mount on {point}"));
    }
    Ok(())
}

fn missing_maps(truth: &Truth, missing: &mut Vec<String>) -> Result<()> {
    if let Ok(task) = truth.task_named("lab-rwx") {
        let armed = truth.maps(task.pid)?.iter().any(|map| map.perms == "rwxp" && map.path.is_empty());
        check(missing, armed, || "lab-rwx has no rwx memory".into());
        let pages = truth.pages(task.pid)?.iter().filter(|(_, frame)| *frame != 0).count();
        check(missing, pages > 10, || format!("lab-rwx has {pages} pages with a known frame"));
    }
    let Ok(task) = truth.task_named("lab-maps") else { return Ok(()) };
    let maps = truth.maps(task.pid)?;
    check(missing, maps.len() > 300, || format!("lab-maps has {} mappings", maps.len()));
    for (perms, path) in [
        ("r--p", "/run/lab-mapped"),
        ("rw-s", "/run/lab-mapped"),
        ("---p", ""),
        ("rw-s", "/dev/zero (deleted)"),
        ("rw-s", "/run/lab-unmapped (deleted)"),
        ("rw-p", "/anon_hugepage (deleted)"),
        ("rw-p", "[stack]"),
    ] {
        let there = maps.iter().any(|map| map.perms == perms && map.path == path);
        check(missing, there, || format!("lab-maps has no {perms} {path}"));
    }
    Ok(())
}

fn missing_kernel(truth: &Truth, missing: &mut Vec<String>) -> Result<()> {
    let modules = truth.modules()?;
    for name in ["dummy", "veth"] {
        check(missing, modules.iter().any(|module| module.name == name), || format!("no module {name}"));
    }
    let filter = truth.bpf_programs()?.iter().any(|program| program.name == "lab_filter");
    check(missing, filter, || "no BPF program lab_filter".into());
    let map = truth.bpf_maps()?.iter().any(|map| map.name == "lab_map");
    check(missing, map, || "no BPF map lab_map".into());
    check(missing, !truth.log()?.is_empty(), || "no kernel log".into());
    check(missing, truth.host_name()? == "lab-guest", || "another host name".into());
    Ok(())
}

fn check(missing: &mut Vec<String>, there: bool, what: impl FnOnce() -> String) {
    if !there {
        missing.push(what());
    }
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == text)
}

fn has_thread(task: &Task, name: &str) -> bool {
    task.threads.iter().any(|thread| thread.comm == name)
}

fn contained(task: &Task) -> bool {
    task.ns_pids.len() == 2 && task.cgroup.as_deref() == Some(CONTAINER_CGROUP)
}
