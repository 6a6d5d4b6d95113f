//! Harmless attacks, each of which does to a guest just what one detector must find.
//!
//! *Does*: names them, and starts and ends them in a guest. What they do is in `lab/guest/src/attacks`.
//! *Trusts*: its own guest, which is disposable and has no network.

use crate::Guest;
use crate::kernels::KernelVersion;
use anyhow::Result;

/// Something that an attacker would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attack {
    /// Its name.
    pub name: &'static str,
    /// The detector that must find it.
    pub detector: &'static str,
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

const fn program(name: &'static str, detector: &'static str, program: &'static str) -> Attack {
    Attack { name, detector, how: How::Program(program), kernels: ALL }
}

impl Guest {
    /// Attacks the guest, and returns when it is done.
    pub fn attack(&self, attack: &Attack) -> Result<()> {
        match attack.how {
            How::Program(name) => self.ask(&format!("ATTACK {name}")).map(drop),
        }
    }

    /// Undoes the attack.
    pub fn cease(&self, attack: &Attack) -> Result<()> {
        match attack.how {
            How::Program(name) => self.ask(&format!("CEASE {name}")).map(drop),
        }
    }
}
