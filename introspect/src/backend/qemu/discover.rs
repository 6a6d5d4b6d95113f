//! The QEMU virtual machines of this host.
//!
//! *Does*: finds QEMU processes in `/proc`, whichever tool started them, and reads their command lines.
//! *Trusts*: the host kernel on who runs what. Not the command lines: any user may start QEMU under any VM's name, hence
//! [`Vm::uid`].
//! *Never*: connects to a VM's sockets: looking around must disturb nothing.

use super::QemuError;
use super::argv::{Config, printable};
use super::process::Process;
use std::path::{Path, PathBuf};

/// Longest command line read.
const CMDLINE_BYTES: usize = 1 << 20;
/// Most VMs listed.
const MAX_VMS: usize = 4096;

/// A VM and what its command line says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vm {
    /// Its QEMU process, in this process's namespace.
    pub pid: u32,
    /// When that process started, in clock ticks since boot: with `pid` it is never given again.
    pub started_ticks: u64,
    /// The user that QEMU runs as.
    pub uid: u32,
    /// `-name`; `pid-N` without one. Nothing makes it unique.
    pub name: String,
    /// `-uuid`, in small letters.
    pub uuid: Option<String>,
    /// RAM at start in bytes, memory devices not counted.
    pub ram_bytes: u64,
    /// Virtual CPUs at start.
    pub vcpus: u32,
    /// Machine type, as asked for: `pc-q35-9.2`, `q35`, …
    pub machine: Option<String>,
    /// Accelerator, as asked for: `kvm`, `tcg`, `kvm:tcg`, …
    pub accelerator: Option<String>,
    /// Control sockets, as paths in the VM process's own root.
    pub qmp_sockets: Vec<PathBuf>,
    /// The kernel that QEMU was told to boot, as a path in the VM process's own root.
    pub kernel: Option<PathBuf>,
    /// It was started to take a guest that migrates here, whether that is over or not.
    pub is_incoming: bool,
    /// Processor time that the process has spent, in clock ticks.
    pub spent_ticks: u64,
    /// How the process does.
    pub state: VmState,
}

/// How a VM's process does. A guest that its admin paused runs all the same: only QEMU can tell, see [`super::Qemu::run_state`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmState {
    /// It runs.
    Running,
    /// A signal or a debugger stopped the process itself.
    Stopped,
}

/// All VMs of this host, by process number. Processes that go meanwhile are left out.
pub fn list() -> Vec<Vm> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut vms: Vec<Vm> =
        pids.filter(|pid| program_is_qemu(*pid)).filter_map(|pid| find(pid).ok()).take(MAX_VMS).collect();
    vms.sort_by_key(|vm| vm.pid);
    vms
}

fn find(pid: u32) -> Result<Vm, QemuError> {
    let process = Process::open(pid).map_err(|why| QemuError::Host { pid, why })?;
    describe(&process).map(|(vm, _)| vm)
}

/// What the process's command line says.
pub(super) fn describe(process: &Process) -> Result<(Vm, Config), QemuError> {
    let pid = process.pid();
    let host = |why| QemuError::Host { pid, why };
    let Stat { started_ticks, spent_ticks, state } =
        stat(&process.text("stat").map_err(host)?).ok_or(QemuError::Gone { pid })?;
    let mut cmdline = process.text("cmdline").map_err(host)?;
    cmdline.truncate(CMDLINE_BYTES);
    if cmdline.is_empty() || !program_is_qemu(pid) {
        return Err(QemuError::NotQemu { pid });
    }
    let args: Vec<String> =
        cmdline.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
    let config = Config::parse(args.get(1..).unwrap_or_default());
    let status = String::from_utf8_lossy(&process.text("status").map_err(host)?).into_owned();
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok());
    let vm = Vm {
        pid,
        started_ticks,
        uid: uid.unwrap_or(u32::MAX),
        name: config.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| format!("pid-{pid}")),
        uuid: config.uuid.clone(),
        ram_bytes: config.ram_bytes,
        vcpus: config.vcpus,
        machine: config.machine.clone(),
        accelerator: config.accelerator.clone(),
        qmp_sockets: config.qmp_sockets.clone(),
        kernel: config.kernel.clone(),
        is_incoming: config.is_incoming,
        spent_ticks,
        state,
    };
    Ok((vm, config))
}

/// The program file decides; the first argument only where that file is hidden from us: any program can call itself QEMU.
fn program_is_qemu(pid: u32) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let program = program.or_else(|| {
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(PathBuf::from(String::from_utf8_lossy(cmdline.split(|byte| *byte == 0).next()?).into_owned()))
    });
    program.is_some_and(|program| is_qemu(&program))
}

fn is_qemu(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
    name == "qemu-kvm" || name == "kvm" || name.trim_start_matches('.').starts_with("qemu-system-")
}

/// What `/proc/PID/stat` says (proc(5)): fields 22, 14 and 15, and 3.
#[derive(PartialEq, Eq, Debug)]
struct Stat {
    started_ticks: u64,
    spent_ticks: u64,
    state: VmState,
}

/// None of a zombie, which has neither memory nor command line.
fn stat(text: &[u8]) -> Option<Stat> {
    let text = String::from_utf8_lossy(text);
    let mut fields = text.get(text.rfind(')')?..)?.split_ascii_whitespace().skip(1);
    let state = match fields.next()? {
        "Z" | "X" | "x" => return None,
        "T" | "t" => VmState::Stopped,
        _ => VmState::Running,
    };
    let mut number = |skipped| fields.nth(skipped)?.parse::<u64>().ok();
    let spent_ticks = number(10)?.saturating_add(number(0)?);
    Some(Stat { started_ticks: number(6)?, spent_ticks, state })
}

impl Vm {
    /// One line for a person: name, process, size.
    pub fn summary(&self) -> String {
        let mib = self.ram_bytes >> 20;
        let machine = self.machine.as_deref().map(printable).unwrap_or_default();
        format!(
            "{} (QEMU process {}, {mib} MiB, {} vCPUs{}{machine})",
            self.name,
            self.pid,
            self.vcpus,
            if machine.is_empty() { "" } else { ", " }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_qemu_by_its_file() {
        for name in [
            "/usr/bin/qemu-system-x86_64",
            "/usr/libexec/qemu-kvm",
            "/usr/bin/kvm",
            "/nix/store/x/bin/.qemu-system-x86_64-wrapped",
            "/usr/bin/qemu-system-x86_64 (deleted)",
        ] {
            assert!(is_qemu(Path::new(name)), "{name}");
        }
        for name in ["/usr/bin/qemu-img", "/tmp/not-qemu-system-x86_64", "/usr/bin/virtqemud", ""] {
            assert!(!is_qemu(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn reads_stat_with_any_command_name() {
        let text = b"12 (a) b) Z) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let expected = Stat { started_ticks: 4711, spent_ticks: 11 + 12, state: VmState::Running };
        assert_eq!(stat(text), Some(expected));
        assert_eq!(stat(b"12 (x) Z 1"), None);
        assert_eq!(stat(b"12 x"), None);
        assert!(matches!(find(std::process::id()), Err(QemuError::NotQemu { .. })));
    }
}
