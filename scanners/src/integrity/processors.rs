//! Processors: the registers through which they enter the kernel, and the protections that the kernel switched on for good.
//!
//! What it sees, and what evades it: [`DETECTOR`]. Where nobody can be asked for registers (a raw dump, a VM without a control socket) it has nothing to say.

use super::judge::Owners;
use super::{Allow, Hook, judged};
use crate::crossview::confirmed;
use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::processors::{Processor, Upcall, UpcallKind};
use lynceus_introspect::{ControlError, Gpa, Gva, Partial};
use std::cell::LazyCell;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "processor_state",
    technique: "T1014",
    about: "processors that enter the kernel elsewhere, or whose protections were switched off",
    limits: Limits {
        sees: "an IDTR that leads to another table than the kernel's; under Xen also MSR_LSTAR, MSR_CSTAR and SYSENTER_EIP of PVH and HVM domains, and of PV domains each trap, event and system-call handler that is registered with Xen; CR0 without write protection, CR4 without what the kernel pinned (SMEP, SMAP, UMIP)",
        evaded_by: "a VM whose QMP socket is missing or held by another client, or a raw dump: nobody can be asked; system-call registers under QEMU, whose monitor does not tell them; a register that is right whenever it is looked at; page tables of the attacker's own that lack the kernel's entry code",
        false_positives: "none known: a processor that runs a guest of the guest's is told by its page tables and left out",
    },
    next: "treat the guest's kernel as lost: dump it, isolate it, rebuild it; whose code the register leads to stands in the finding",
    run: processor_states,
};

/// `X86_CR0_WP`.
const CR0_WRITE_PROTECT: u64 = 1 << 16;
/// Bits of CR4 that kernels pin (`cr4_pinned_mask`, `arch/x86/kernel/cpu/common.c`), by their names.
const PINNED: [(u64, &str); 5] =
    [(1 << 20, "SMEP"), (1 << 21, "SMAP"), (1 << 11, "UMIP"), (1 << 16, "FSGSBASE"), (1 << 23, "CET")];
/// Bytes of a stub of the early boot under Xen (`XEN_EARLY_IDT_HANDLER_SIZE`, with and without `endbr64`), at most, and how many there are.
const EARLY_BYTES: u64 = 13 * 32;

/// Processors whose registers lead elsewhere, or lack what protects the kernel.
pub fn processor_states(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    let Some(asked) = guest.processors() else { return Partial::default() };
    let look = || match asked.processors() {
        Ok(processors) => guest.observe(options, |view| judge(view, &processors)).result,
        // Nobody to ask is no gap of this look: `lynceus info` tells of it.
        Err(ControlError::Unavailable(_)) => Partial::default(),
        Err(error) => Partial::unavailable("registers of the processors", error),
    };
    confirmed(guest, look, |before, now| before.subject == now.subject)
}

fn judge(view: &View<'_>, processors: &[Processor]) -> Partial<Finding> {
    let (mut found, mut hooks) = (Partial::default(), Partial::default());
    // Whoever judges the hooks lists them as well, and tells what cannot be read.
    let owners = LazyCell::new(|| Owners::new(view, &mut Partial::<()>::default()));
    for processor in processors {
        let late = processor.upcalls.iter().filter(|upcall| !is_early(view, upcall));
        hooks.items.extend(late.map(|upcall| registered(processor, upcall)));
        if is_in_this_kernel(view, processor) {
            hooks.items.extend(minor_entries(processor));
            found.items.extend(other_table(view, processor));
            found.items.extend(other_entry(view, processor, &owners));
            found.items.extend(unprotected(view, processor));
        }
    }
    let hooked = judged(view, &DETECTOR, Allow::Kernel, hooks);
    let hooked = found.absorb(hooked);
    found.items.extend(hooked);
    found
}

/// Xen's traps that the kernel never set lead to stubs of its early boot, one for each (`xen_early_idt_handler_array`, `arch/x86/xen/xen-asm.S`).
fn is_early(view: &View<'_>, upcall: &Upcall) -> bool {
    let stubs = view.kernel().symbol("xen_early_idt_handler_array");
    let is_stub = |stubs: Gva| (stubs.0..stubs.0.saturating_add(EARLY_BYTES)).contains(&upcall.to);
    matches!(upcall.on, UpcallKind::Trap(_)) && stubs.is_ok_and(is_stub)
}

/// Whether a processor's page tables hold this kernel's entry code where it belongs: those of processes do, as far as the kernel is mapped in them at
/// all. Those of a guest's guest, or of a kernel that is just being started by kexec, do not.
fn is_in_this_kernel(view: &View<'_>, processor: &Processor) -> bool {
    let (Some(root), Ok(entry)) = (processor.cr3, view.kernel().symbol("entry_SYSCALL_64")) else {
        return false;
    };
    let theirs = view.user_space(Gpa(root)).translate(entry).map(|translation| translation.gpa);
    theirs.is_ok_and(|theirs| view.space().translate(entry).is_ok_and(|ours| ours.gpa == theirs))
}

/// The kernel's table is mapped a second time, read-only (`CPU_ENTRY_AREA_RO_IDT`): what counts is where it lies.
fn other_table(view: &View<'_>, processor: &Processor) -> Option<Finding> {
    let (base, root) = (Gva(processor.idt_base?), processor.cr3?);
    let table = view.kernel().symbol("idt_table").ok()?;
    let ours = view.space().translate(table).ok()?.gpa;
    let theirs = view.user_space(Gpa(root)).translate(base).map(|translation| translation.gpa);
    if theirs == Ok(ours) {
        return None;
    }
    let summary = format!(
        "processor {} takes its interrupts from a table at {base}, not from the kernel's",
        processor.number
    );
    Some(finding(processor, "IDTR", table, base.0, summary))
}

/// Who owns what is listed where an entry is another one: on most guests never.
fn other_entry<F: FnOnce() -> Owners>(
    view: &View<'_>,
    processor: &Processor,
    owners: &LazyCell<Owners, F>,
) -> Option<Finding> {
    let (to, entry) = (Gva(processor.syscall?), view.kernel().symbol("entry_SYSCALL_64").ok()?);
    if to == entry {
        return None;
    }
    let whose = owners.describe(view, to);
    let summary = format!("system calls on processor {} lead to {to}, {whose}", processor.number);
    Some(finding(processor, "MSR_LSTAR", entry, to.0, summary))
}

/// Ways in that 64-bit programs do not use; 0 where the kernel left them alone.
fn minor_entries(processor: &Processor) -> impl Iterator<Item = Hook> {
    let entries = [("MSR_CSTAR", processor.compat_syscall), ("SYSENTER_EIP", processor.sysenter)];
    let number = processor.number;
    entries.into_iter().filter_map(move |(name, to)| {
        let to = Gva(to.filter(|to| *to != 0)?);
        Some(Hook {
            what: format!("32-bit system calls on processor {number}, {name},"),
            symbol: register(number, name),
            at: Gva(0),
            handler: to,
        })
    })
}

fn registered(processor: &Processor, upcall: &Upcall) -> Hook {
    let on = match upcall.on {
        UpcallKind::Trap(vector) => format!("trap {vector:#x}"),
        UpcallKind::Event => "events".to_owned(),
        UpcallKind::Failsafe => "bad segments".to_owned(),
        UpcallKind::Syscall => "system calls".to_owned(),
    };
    Hook {
        what: format!("what Xen calls for {on} on processor {}", processor.number),
        symbol: register(processor.number, &on),
        at: Gva(0),
        handler: Gva(upcall.to),
    }
}

fn unprotected(view: &View<'_>, processor: &Processor) -> Option<Finding> {
    let pinned = view.kernel().symbol("cr4_pinned_bits").ok().and_then(|at| view.u64(at).ok()).unwrap_or(0);
    let lacks_wp = processor.cr0.is_some_and(|cr0| cr0 & CR0_WRITE_PROTECT == 0);
    let lacking = processor.cr4.map_or(0, |cr4| pinned & !cr4);
    let off = lacks_wp.then_some("write protection (CR0.WP)").into_iter();
    let off: Vec<_> =
        off.chain(PINNED.iter().filter(|(bit, _)| lacking & bit != 0).map(|(_, name)| *name)).collect();
    if off.is_empty() {
        return None;
    }
    let summary =
        format!("processor {} runs without what protects the kernel: {}", processor.number, off.join(", "));
    // What is off, and not the whole register, whose other bits come and go.
    let (name, off) = if lacks_wp { ("CR0", CR0_WRITE_PROTECT) } else { ("CR4", lacking) };
    Some(finding(processor, name, Gva(0), off, summary))
}

fn finding(processor: &Processor, name: &str, address: Gva, value: u64, summary: String) -> Finding {
    let (symbol, value) = (register(processor.number, name), format!("{value:#x}"));
    DETECTOR.finding(Severity::Critical, summary, Subject::Kernel { symbol, address: address.0, value })
}

fn register(processor: u32, name: &str) -> String {
    format!("processor {processor}, {name}")
}
