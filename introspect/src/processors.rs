//! What a guest's processors hold and its memory does not show: where they enter the kernel, and which protections are on.
//!
//! *Does*: names the registers, whoever is asked for them: QEMU, Xen, a dump's notes.
//! *Trusts*: the hypervisor's word on them. What they hold is the guest's to choose, a wild address or none.
//! *Never*: changes one.

use crate::ControlError;
use serde::{Deserialize, Serialize};

/// More processors of one guest than any hypervisor allows.
pub const MAX_PROCESSORS: usize = 8192;

/// A target whose processors can be asked. Separate from [`crate::GuestMemory`]: a raw dump has no processors.
pub trait Processors {
    /// What each processor held at some instant; not all of them at the same one, where the guest runs.
    fn processors(&self) -> Result<Vec<Processor>, ControlError>;
}

/// A processor's registers, as far as whoever was asked tells them. Addresses are guest-virtual.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Processor {
    /// Its number.
    pub number: u32,
    /// Control register 0: bit 16 makes read-only pages read-only for the kernel too.
    pub cr0: Option<u64>,
    /// The page-table root with its flags.
    pub cr3: Option<u64>,
    /// Control register 4.
    pub cr4: Option<u64>,
    /// Base of the interrupt descriptor table.
    pub idt_base: Option<u64>,
    /// Where `syscall` leads in 64-bit code: `MSR_LSTAR`.
    pub syscall: Option<u64>,
    /// Where `syscall` leads in 32-bit code: `MSR_CSTAR`.
    pub compat_syscall: Option<u64>,
    /// Where `sysenter` leads: `MSR_IA32_SYSENTER_EIP`.
    pub sysenter: Option<u64>,
    /// Where a Xen PV guest has Xen lead its traps, system calls and events.
    pub upcalls: Vec<Upcall>,
}

/// An address that Xen calls in a PV guest's kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Upcall {
    /// What for.
    pub on: UpcallKind,
    /// The address.
    pub to: u64,
}

/// What Xen calls a PV guest's kernel for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpcallKind {
    /// A trap of this vector.
    Trap(u8),
    /// An event channel.
    Event,
    /// A segment that cannot be loaded.
    Failsafe,
    /// A system call.
    Syscall,
}

/// Registers that were written down: they are the same each time.
#[derive(Clone, Debug)]
pub struct Recorded(pub Vec<Processor>);

impl Processors for Recorded {
    fn processors(&self) -> Result<Vec<Processor>, ControlError> {
        Ok(self.0.clone())
    }
}
