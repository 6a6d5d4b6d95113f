//! Interrupt handlers: every gate of the interrupt descriptor table must lead into the kernel's own code.
//!
//! *Sees*: a gate that was replaced, such as the page fault's or the breakpoint's.
//! *Evaded by*: another table in a processor's IDTR, a change of the handler's own code.
//! *False positives*: none known. A gate that the kernel never set (the machine check's, on a processor without one) still leads
//! to its stub of the early boot, `early_idt_handler_array` (`arch/x86/kernel/head_64.S`), and to no other place there.
//! ATT&CK T1014, Rootkit.

use super::{Hook, judged};
use crate::Finding;
use lynceus_introspect::linux::{Gate, LinuxGuest, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};

pub(crate) const NAME: &str = "interrupt_handler";
pub(crate) const TECHNIQUE: &str = "T1014";

/// Bytes of an early stub, without and with `endbr64` (`EARLY_IDT_HANDLER_SIZE`).
const EARLY_STUB_BYTES: [u64; 2] = [9, 13];

/// Gates that lead elsewhere.
pub fn interrupt_handlers(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut found = Partial::default();
    let (modules, gates) = (view.modules_in_tree(), view.interrupt_gates());
    let modules = found.absorb(modules);
    let table = view.kernel().symbol("idt_table").unwrap_or_default();
    let early = view.kernel().symbol("early_idt_handler_array").ok();
    let is_early = |gate: &Gate| {
        let stub = |bytes: u64| early.map(|early| early.0.saturating_add(bytes * u64::from(gate.vector)));
        EARLY_STUB_BYTES.iter().any(|bytes| stub(*bytes) == Some(gate.handler.0))
    };
    for gate in found.absorb(gates).into_iter().filter(|gate| !is_early(gate)) {
        let hook = Hook {
            detector: NAME,
            technique: TECHNIQUE,
            what: format!("the handler of interrupt {:#x}", gate.vector),
            symbol: format!("idt_table[{:#x}]", gate.vector),
            at: Gva(table.0.saturating_add(u64::from(gate.vector) * 16)),
            handler: gate.handler,
            modules: &modules,
        };
        found.items.extend(judged(view, hook));
    }
    found
}
