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

/// All of them.
pub const ATTACKS: &[Attack] = &[
    program("executable in shared memory", "odd_executable", "attack-shm"),
    program("executable that was deleted", "odd_executable", "attack-deleted"),
    program("executable without a file", "odd_executable", "attack-memfd"),
    program("name of a kernel thread", "odd_executable", "attack-masked"),
    program("library preloaded by the environment", "ld_preload", "attack-preload"),
    program("library that audits others", "ld_preload", "attack-audit"),
    program("library preloaded by everybody", "ld_preload", "attack-ld-so"),
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
