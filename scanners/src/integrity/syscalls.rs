//! System-call handlers: every entry of the table must lead into the kernel's own code.
//!
//! *Sees*: an entry of `sys_call_table` that was replaced.
//! *Evaded by*: a change of the handler's own code, of the entry code, or (from 6.9 on, where the table serves tracing alone) of
//! `x64_sys_call`.
//! *False positives*: a module that adds a system call, which no distribution's does.
//! ATT&CK T1014, Rootkit.

use super::{Hook, judged};
use crate::Finding;
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};

pub(crate) const NAME: &str = "syscall_handler";
pub(crate) const TECHNIQUE: &str = "T1014";

/// Entries that lead elsewhere.
pub fn syscall_handlers(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut found = Partial::default();
    let (modules, entries) = (view.modules_in_tree(), view.syscalls());
    let modules = found.absorb(modules);
    let table = view.kernel().symbol("sys_call_table").unwrap_or_default();
    for entry in found.absorb(entries) {
        let hook = Hook {
            detector: NAME,
            technique: TECHNIQUE,
            what: format!("the handler of system call {}", entry.number),
            symbol: format!("sys_call_table[{}]", entry.number),
            at: Gva(table.0.saturating_add(u64::from(entry.number) * 8)),
            handler: entry.handler,
            modules: &modules,
        };
        found.items.extend(judged(view, hook));
    }
    found
}
