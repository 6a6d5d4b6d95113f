//! System-call handlers: every entry of the table must lead into the kernel's own code.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{Allow, Hook, judged};
use crate::{Detector, Finding, Limits};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "syscall_handler",
    technique: "T1014",
    about: "system-call handlers that are not the kernel's own code",
    limits: Limits {
        sees: "an entry of sys_call_table that was replaced",
        evaded_by: "a change of the handler's own code, of the entry code, or (from 6.9 on, where the table serves tracing alone) of x64_sys_call; an entry point (MSR_LSTAR) that leads elsewhere, which processor_state sees where the hypervisor tells",
        false_positives: "a module that adds a system call, which no distribution's does",
    },
    next: "which call it is tells what is hidden: 217 getdents64 files, 62 kill control of the rootkit, 59 execve programs; whose code it is stands in the finding",
    run: syscall_handlers,
};

/// Entries that lead elsewhere.
pub fn syscall_handlers(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut hooks = Partial::default();
    let table = view.kernel().symbol("sys_call_table").unwrap_or_default();
    let entries = view.syscalls();
    for entry in hooks.absorb(entries) {
        hooks.items.push(Hook {
            what: format!("the handler of system call {}", entry.number),
            symbol: format!("sys_call_table[{}]", entry.number),
            at: table.field(entry.number.saturating_mul(8)),
            handler: entry.handler,
        });
    }
    judged(view, &DETECTOR, Allow::Kernel, hooks)
}
