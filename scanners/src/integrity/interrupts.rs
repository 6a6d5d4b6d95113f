//! Interrupt handlers: every gate of the interrupt descriptor table must lead into the kernel's own code.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{Allow, Hook, judged};
use crate::{Detector, Finding, Limits};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{Gate, LinuxGuest, View};
use lynceus_introspect::observe::Options;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "interrupt_handler",
    technique: "T1014",
    about: "interrupt handlers that are not the kernel's own code",
    limits: Limits {
        sees: "a gate of the interrupt descriptor table that was replaced, such as the page fault's or the breakpoint's",
        evaded_by: "another table in a processor's IDTR, which processor_state sees; a change of the handler's own code",
        false_positives: "none known",
    },
    next: "treat the guest's kernel as lost: dump it, isolate it, rebuild it",
    run: interrupt_handlers,
};

/// A gate that the kernel never set (the machine check's, on a processor without one) still leads to its stub of the early boot,
/// `early_idt_handler_array` (`arch/x86/kernel/head_64.S`), and to no other place there. Bytes of such a stub, without and with `endbr64` (`EARLY_IDT_HANDLER_SIZE`).
const EARLY_STUB_BYTES: [u64; 2] = [9, 13];

/// Gates that lead elsewhere.
pub fn interrupt_handlers(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut hooks = Partial::default();
    let table = view.kernel().symbol("idt_table").unwrap_or_default();
    let early = view.kernel().symbol("early_idt_handler_array").ok();
    let is_early = |gate: &Gate| {
        let stub = |bytes: u64| early.map(|early| early.0.saturating_add(bytes * u64::from(gate.vector)));
        EARLY_STUB_BYTES.iter().any(|bytes| stub(*bytes) == Some(gate.handler.0))
    };
    let gates = view.interrupt_gates();
    for gate in hooks.absorb(gates).into_iter().filter(|gate| !is_early(gate)) {
        hooks.items.push(Hook {
            what: format!("the handler of interrupt {:#x}", gate.vector),
            symbol: format!("idt_table[{:#x}]", gate.vector),
            at: table.field(gate.vector.saturating_mul(16)),
            handler: gate.handler,
        });
    }
    judged(view, &DETECTOR, Allow::Kernel, hooks)
}
