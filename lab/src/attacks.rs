//! Harmless attacks, each of which does to a guest just what one detector must find.
//!
//! *Does*: names them, and starts and ends them in a guest. What they do is in `lab/guest/src/attacks`.
//! *Trusts*: its own guest, which is disposable and has no network.

use crate::Guest;
use crate::kernels::KernelVersion;
use Given::{At, Pid, Text, Was};
use anyhow::{Context, Result};

/// Something that an attacker would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attack {
    /// Its name.
    pub name: &'static str,
    /// The detector that must find it.
    pub detector: &'static str,
    /// Others that may find it as well.
    pub also: &'static [&'static str],
    /// How it is done.
    pub how: How,
    /// The kernels that it can be done to.
    pub kernels: &'static [KernelVersion],
}

/// How an attack is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// A program of the guest's, by the name that it runs under.
    Program(&'static str),
    /// The module `lab/module/attack.c`, by its kind, and what it is given.
    Module(&'static str, &'static [Given]),
}

/// A parameter of the module that attacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Given {
    /// The address of a symbol, and how many bytes behind it.
    At(&'static str, u64),
    /// The address of the function that is replaced: of the first of these that the kernel has.
    Was(&'static [&'static str]),
    /// A text.
    Text(&'static str),
    /// The pid of a process, by its name.
    Pid(&'static str),
}

const ALL: &[KernelVersion] = &KernelVersion::ALL;

const SINCE_5_11: &[KernelVersion] = &[KernelVersion::V6_1, KernelVersion::V6_12, KernelVersion::V7];

/// All of them.
pub const ATTACKS: &[Attack] = &[
    program("executable in shared memory", "odd_executable", "attack-shm"),
    program("executable that was deleted", "odd_executable", "attack-deleted"),
    program("executable without a file", "odd_executable", "attack-memfd"),
    program("name of a kernel thread", "odd_executable", "attack-masked"),
    program("library preloaded by the environment", "ld_preload", "attack-preload"),
    program("library that audits others", "ld_preload", "attack-audit"),
    program("library preloaded by everybody", "ld_preload", "attack-ld-so"),
    module(
        "handler of a system call",
        "syscall_handler",
        CONSTANT,
        "pointer",
        &[At("sys_call_table", 0), Was(&["__x64_sys_kexec_load"])],
    ),
    module("gate of an interrupt", "interrupt_handler", &[], "gate", &[At("idt_table", 16 * 5)]),
    module("interrupt table of one's own", "processor_state", &[], "idtr", &[At("idt_table", 0)]),
    module("protection switched off", "processor_state", &[], "smep", &[]),
    module(
        "listing of processes",
        "operation_table",
        CONSTANT,
        "pointer",
        &[At("proc_root_operations", 0), Was(&["proc_root_readdir"])],
    ),
    module(
        "listing of sockets",
        "operation_table",
        CONSTANT,
        "pointer",
        &[At("tcp4_seq_ops", 0), Was(&["tcp4_seq_show"])],
    ),
    module("jump at the start of a function", "kernel_text", &[], "code", &[At("__x64_sys_kexec_load", 0)]),
    module("byte inside of a function", "kernel_text", &[], "byte", &[At("__x64_sys_kexec_load", 40)]),
    module("jump at the start of a module's function", "module_text", &[], "code", &[At("br_add_if", 0)]),
    module("byte inside of a module's function", "module_text", &[], "byte", &[At("br_add_if", 40)]),
    module("byte of a constant", "kernel_constants", &[], "byte", &[At("linux_proc_banner", 3)]),
    module("probe", "kprobe_handler", &[], "kprobe", &[At("__x64_sys_kexec_load", 0)]),
    module("traced function", "ftrace_handler", &[], "ftrace", &[At("__x64_sys_kexec_load", 0)]),
    module("sight of packets", "packet_hook", &[], "packets", &[]),
    module("sight of keys", "notifier", &[], "keys", &[]),
    module(
        "sight of terminals",
        "terminal_input",
        &[],
        "pointer",
        &[At("n_tty_ops", 0), Was(&["n_tty_receive_buf2"])],
    ),
    module("helper program", "helper_program", &[], "text", &[At("modprobe_path", 0), Text("/tmp/x")]),
    module("credentials of another", "shared_credentials", &[], "creds", &[Pid("lab-user")]),
    module("root written over a user", "raised_credentials", &[], "raise", &[Pid("lab-command")]),
    module("port that nobody has open", "hidden_socket", &[], "port", &[Pid("lab-net")]),
    module("file taken out of its folder", "hidden_file", &[], "drop", &[Text("/tmp/lab-append.log")]),
    program("process hidden by a mount", "covered_path", "attack-unlisted"),
    program("program hidden by a mount", "covered_path", "attack-covered"),
    program("program hidden by another file", "covered_path", "attack-overlaid"),
    program("filter for packets from /tmp", "packet_socket", "attack-waiting"),
    program("filter for packets in a stranger", "packet_socket", "attack-capture"),
    program("BPF program at a device, from /tmp", "bpf_attachment", "attack-xdp"),
    program("BPF program at a perf event, from /tmp", "bpf_attachment", "attack-perf"),
    program("BPF program that nobody holds", "bpf_orphan", "attack-orphan"),
    program("BPF program that writes to processes", "bpf_program", "attack-bpf"),
    program("code in writable memory", "executable_memory", "attack-rwx"),
    program("code written, then made executable", "executable_memory", "attack-late"),
    program("program loaded without a file", "executable_memory", "attack-loader"),
    program("executable stack", "executable_memory", "attack-stack"),
    program("jump written over code", "process_hollowing", "attack-patch"),
    program("program replaced in memory", "process_hollowing", "attack-hollow"),
    program("breakpoint left behind", "process_hollowing", "attack-int3"),
    program("process steered by a stranger", "ptrace_link", "attack-tracer"),
    program("process steered by its parent", "ptrace_link", "attack-parent"),
    Attack {
        kernels: SINCE_5_11,
        ..program("system calls kept from the kernel", "syscall_user_dispatch", "attack-dispatch")
    },
];

/// Those that only Xen can be asked about: QEMU does not tell these registers, and a PV kernel has its own.
pub const XEN_ATTACKS: &[Attack] = &[
    module("entry of system calls", "processor_state", &[], "lstar", &[Was(&["entry_SYSCALL_64"])]),
    module(
        "entry of system calls from Xen",
        "processor_state",
        &[],
        "xen",
        &[Was(&["xen_entry_SYSCALL_64", "xen_syscall_target"])],
    ),
];

const fn program(name: &'static str, detector: &'static str, program: &'static str) -> Attack {
    Attack { name, detector, also: &[], how: How::Program(program), kernels: ALL }
}

/// What stands in a constant table is found there as well, where the kernel's own file is known.
const CONSTANT: &[&str] = &["kernel_constants"];

const fn module(
    name: &'static str,
    detector: &'static str,
    also: &'static [&'static str],
    kind: &'static str,
    given: &'static [Given],
) -> Attack {
    Attack { name, detector, also, how: How::Module(kind, given), kernels: ALL }
}

/// How a guest is asked: a line of its protocol to the bytes of its answer.
pub type Ask<'a> = dyn Fn(&str) -> Result<Vec<u8>> + 'a;

impl Attack {
    /// Does it, and returns when it is done.
    pub fn start(&self, ask: &Ask<'_>) -> Result<()> {
        match self.how {
            How::Program(name) => ask(&format!("ATTACK {name}")).map(drop),
            How::Module(kind, given) => {
                let mut line = format!("LOAD /attack.ko kind={kind}");
                for given in given {
                    line.push_str(&parameter(ask, *given)?);
                }
                ask(&line).map(drop)
            }
        }
    }

    /// Undoes it.
    pub fn stop(&self, ask: &Ask<'_>) -> Result<()> {
        match self.how {
            How::Program(name) => ask(&format!("CEASE {name}")).map(drop),
            How::Module(..) => ask("RUN rmmod lynceus_lab_attack").map(drop),
        }
    }
}

impl Guest {
    /// Attacks the guest, and returns when it is done.
    pub fn attack(&self, attack: &Attack) -> Result<()> {
        attack.start(&|line| self.ask(line))
    }

    /// Undoes the attack.
    pub fn cease(&self, attack: &Attack) -> Result<()> {
        attack.stop(&|line| self.ask(line))
    }
}

fn parameter(ask: &Ask<'_>, given: Given) -> Result<String> {
    Ok(match given {
        Given::At(symbol, offset) => format!(" at={:#x}", address_of(ask, &[symbol])?.wrapping_add(offset)),
        Given::Was(symbols) => format!(" was={:#x}", address_of(ask, symbols)?),
        Given::Text(text) => format!(" text={text}"),
        Given::Pid(name) => {
            let pids = String::from_utf8(ask(&format!("RUN pidof {name}"))?)?;
            format!(" pid={}", pids.split_whitespace().next().context("no such process")?)
        }
    })
}

/// Where the guest's kernel has the first of these symbols that it has.
fn address_of(ask: &Ask<'_>, symbols: &[&str]) -> Result<u64> {
    for symbol in symbols {
        let line = String::from_utf8(ask(&format!("RUN grep -E ' {symbol}($|\t)' /proc/kallsyms || true"))?)?;
        if let Some(address) = line.split_whitespace().next() {
            return u64::from_str_radix(address, 16).context("an address of /proc/kallsyms");
        }
    }
    anyhow::bail!("the guest's kernel has none of {symbols:?}")
}
