//! What Xen tells of a domain's processors: of a PVH or HVM domain its registers, of a PV domain where Xen calls its kernel.
//!
//! A PV kernel has neither an interrupt table nor `MSR_LSTAR` of its own: it registers its handlers with Xen, for each processor.
//! *Trusts*: Xen. *Never*: stops the domain: a processor that runs is looked at by Xen for an instant.

use super::abi::{Abi, hvm_cpu, pv_context};
use super::privcmd::Hypervisor;
use super::{DomainKind, Xen, control};
use crate::ControlError;
use crate::processors::{MAX_PROCESSORS, Processor, Processors, Upcall, UpcallKind};
use std::io;

impl Processors for Xen {
    fn processors(&self) -> Result<Vec<Processor>, ControlError> {
        let Some((xen, abi)) = &self.control else {
            return Err(ControlError::Unavailable("this domain may not ask Xen for it".to_owned()));
        };
        all(&**xen, *abi, self.domain.id, self.domain.kind)
    }
}

/// All that are online now.
pub(super) fn all(
    xen: &dyn Hypervisor,
    abi: Abi,
    domain: u16,
    kind: DomainKind,
) -> Result<Vec<Processor>, ControlError> {
    let refused = |error: io::Error| ControlError::Refused(error.to_string());
    // Numbers run up to the highest one online; what is off line in between answers as if it were not there.
    let highest = control::info_of(xen, abi, domain).map_err(refused)?.max_vcpu;
    let mut all = Vec::new();
    for number in (0..=highest).take(MAX_PROCESSORS) {
        let told = match kind {
            DomainKind::Hvm => hvm(xen, abi, domain, number),
            DomainKind::Pv => pv(xen, abi, domain, number),
        };
        match told {
            Ok(processor) => all.push(processor),
            Err(error) if is_offline(&error) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(all)
}

/// What Xen says of a processor that was never started (`ENODATA`, `ENOENT`) or is none (`ESRCH`, `EINVAL`).
fn is_offline(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODATA | libc::ENOENT | libc::ESRCH | libc::EINVAL))
}

fn hvm(xen: &dyn Hypervisor, abi: Abi, domain: u16, number: u32) -> io::Result<Processor> {
    let mut record = vec![0; hvm_cpu::BYTES];
    control::hvm_context(xen, abi, domain, hvm_cpu::CODE, number, &mut record)?;
    let long = |at: usize| long(&record, at);
    Ok(Processor {
        number,
        cr0: long(hvm_cpu::CR0),
        cr3: long(hvm_cpu::CR3),
        cr4: long(hvm_cpu::CR4),
        idt_base: long(hvm_cpu::IDTR_BASE),
        syscall: long(hvm_cpu::MSR_LSTAR),
        compat_syscall: long(hvm_cpu::MSR_CSTAR),
        sysenter: long(hvm_cpu::SYSENTER_EIP),
        upcalls: Vec::new(),
    })
}

fn pv(xen: &dyn Hypervisor, abi: Abi, domain: u16, number: u32) -> io::Result<Processor> {
    let mut context = vec![0; pv_context::BYTES];
    control::vcpu_context(xen, abi, domain, number, &mut context)?;
    let traps = (0..pv_context::TRAP_COUNT).filter_map(|index| {
        let at = pv_context::TRAPS + index * pv_context::TRAP_BYTES;
        // What Xen tells stands at the place of its vector, and an empty place has vector 0.
        let vector = u8::try_from(index).ok()?;
        Some((UpcallKind::Trap(vector), long(&context, at + 8)?))
    });
    let others = [
        (UpcallKind::Event, pv_context::EVENT_EIP),
        (UpcallKind::Failsafe, pv_context::FAILSAFE_EIP),
        (UpcallKind::Syscall, pv_context::SYSCALL_EIP),
    ];
    let others = others.iter().filter_map(|(on, at)| Some((*on, long(&context, *at)?)));
    let set = traps.chain(others).filter(|(_, to)| *to != 0);
    let upcalls = set.map(|(on, to)| Upcall { on, to }).collect();
    Ok(Processor { number, upcalls, ..Processor::default() })
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|part| u64::from_le_bytes(*part))
}
