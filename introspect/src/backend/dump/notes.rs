//! The notes of an ELF core or a kdump file: QEMU's register dump of each vCPU, and VMCOREINFO.
//!
//! Sources: ELF gABI "Note Section"; QEMU `target/i386/arch_dump.c` (`QEMUCPUState` version 1: 18 registers
//! from 8, ten 24-byte segments from 152, CR0–CR4 from 392, then the kernel GS base). *Trusts*: nothing.

use super::image::{u32_at, u64_at};

/// More vCPUs than QEMU allows.
const MAX_VCPUS: usize = 8192;
const RIP_AT: usize = 136;
const GS_BASE_AT: usize = 152 + 4 * 24 + 16;
const IDT_BASE_AT: usize = 152 + 9 * 24 + 16;
const CR0_AT: usize = 392;
const KERNEL_GS_BASE_AT: usize = 432;

/// What a vCPU held when the dump was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuState {
    /// Control register 0: paging is on if bit 31 is.
    pub cr0: u64,
    /// The page-table root with its flags.
    pub cr3: u64,
    /// Control register 4: bit 12 says 5-level paging.
    pub cr4: u64,
    /// The next instruction.
    pub rip: u64,
    /// GS base: in the kernel, the vCPU's per-CPU area.
    pub gs_base: u64,
    /// The GS base that `swapgs` would load, where the note has it.
    pub kernel_gs_base: Option<u64>,
    /// Address of the interrupt descriptor table.
    pub idt_base: u64,
}

/// What notes tell.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) vcpus: Vec<VcpuState>,
    pub(crate) vmcoreinfo: Option<String>,
}

impl Notes {
    /// Takes in a run of notes; what follows a note that does not fit is left.
    pub(crate) fn absorb(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((name, desc, tail)) = split(rest) {
            match name {
                b"QEMU\0" | b"QEMU" if self.vcpus.len() < MAX_VCPUS => self.vcpus.extend(vcpu(desc)),
                b"VMCOREINFO\0" | b"VMCOREINFO" => self.vmcoreinfo = Some(text(desc)),
                _ => {}
            }
            rest = tail;
        }
    }
}

/// VMCOREINFO as text, without the zeros that pad it.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// Name, descriptor, and what follows the first note.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name_len, desc_len) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?);
    let (name, rest) = padded(bytes.get(12..)?, name_len)?;
    let (desc, rest) = padded(rest, desc_len)?;
    Some((name, desc, rest))
}

/// The first `len` bytes, and what lies past their padding to four.
fn padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok()?;
    let part = bytes.get(..len)?;
    let next = len.checked_next_multiple_of(4)?.min(bytes.len());
    Some((part, bytes.get(next..)?))
}

fn vcpu(desc: &[u8]) -> Option<VcpuState> {
    // `size` counts the whole structure and tells whether the kernel GS base is there.
    let size = usize::try_from(u32_at(desc, 4)?).ok()?;
    Some(VcpuState {
        cr0: u64_at(desc, CR0_AT)?,
        cr3: u64_at(desc, CR0_AT + 24)?,
        cr4: u64_at(desc, CR0_AT + 32)?,
        rip: u64_at(desc, RIP_AT)?,
        gs_base: u64_at(desc, GS_BASE_AT)?,
        kernel_gs_base: (size >= KERNEL_GS_BASE_AT + 8).then(|| u64_at(desc, KERNEL_GS_BASE_AT)).flatten(),
        idt_base: u64_at(desc, IDT_BASE_AT)?,
    })
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn note(name: &[u8], desc: &[u8]) -> Vec<u8> {
        let mut out = [name.len() as u32, desc.len() as u32, 0].map(u32::to_le_bytes).concat();
        for part in [name, desc] {
            out.extend(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    #[test]
    fn reads_qemus_registers_and_vmcoreinfo() {
        let mut cpu = vec![0; 440];
        cpu[4..8].copy_from_slice(&440_u32.to_le_bytes());
        for (at, value) in [(RIP_AT, 1_u64), (GS_BASE_AT, 2), (IDT_BASE_AT, 3), (CR0_AT, 4), (CR0_AT + 24, 5)]
        {
            cpu[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        cpu[CR0_AT + 32..CR0_AT + 40].copy_from_slice(&6_u64.to_le_bytes());
        cpu[KERNEL_GS_BASE_AT..].copy_from_slice(&7_u64.to_le_bytes());
        let mut old = cpu[..432].to_vec();
        old[4..8].copy_from_slice(&432_u32.to_le_bytes());
        let bytes = [note(b"CORE\0", &[1; 7]), note(b"QEMU\0", &cpu), note(b"QEMU\0", &old)].concat();
        let bytes = [bytes, note(b"VMCOREINFO\0", b"OSRELEASE=6\n\0\0")].concat();
        let mut notes = Notes::default();
        notes.absorb(&bytes);
        let state =
            VcpuState { cr0: 4, cr3: 5, cr4: 6, rip: 1, gs_base: 2, kernel_gs_base: Some(7), idt_base: 3 };
        assert_eq!(notes.vcpus, [state, VcpuState { kernel_gs_base: None, ..state }]);
        assert_eq!(notes.vmcoreinfo.as_deref(), Some("OSRELEASE=6\n"));
        for cut in 0..bytes.len() {
            Notes::default().absorb(&bytes[..cut]);
        }
    }
}
