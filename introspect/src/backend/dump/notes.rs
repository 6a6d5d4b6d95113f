//! The notes of an ELF core or a kdump file: QEMU's register dump of each vCPU, and VMCOREINFO.
//!
//! Sources: ELF gABI "Note Section"; QEMU `target/i386/arch_dump.c` (`QEMUCPUState` version 1: 18 registers
//! from 8, ten 24-byte segments from 152, CR0–CR4 from 392). *Trusts*: nothing.

use super::image::{u32_at, u64_at};
use crate::processors::{MAX_PROCESSORS, Processor};

const IDT_BASE_AT: usize = 152 + 9 * 24 + 16;
const CR0_AT: usize = 392;

/// What notes tell.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) processors: Vec<Processor>,
    pub(crate) vmcoreinfo: Option<String>,
}

impl Notes {
    /// Takes in a run of notes; what follows a note that does not fit is left.
    pub(crate) fn absorb(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((name, desc, tail)) = split(rest) {
            match name {
                b"QEMU\0" | b"QEMU" if self.processors.len() < MAX_PROCESSORS => {
                    let number = u32::try_from(self.processors.len()).unwrap_or(u32::MAX);
                    self.processors.extend(processor(number, desc));
                }
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

fn processor(number: u32, desc: &[u8]) -> Option<Processor> {
    Some(Processor {
        number,
        cr0: Some(u64_at(desc, CR0_AT)?),
        cr3: Some(u64_at(desc, CR0_AT + 24)?),
        cr4: Some(u64_at(desc, CR0_AT + 32)?),
        idt_base: Some(u64_at(desc, IDT_BASE_AT)?),
        ..Processor::default()
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
        for (at, value) in [(IDT_BASE_AT, 3_u64), (CR0_AT, 4), (CR0_AT + 24, 5), (CR0_AT + 32, 6)] {
            cpu[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        // Without what later versions of QEMU add at its end.
        let old = &cpu[..432];
        let bytes = [note(b"CORE\0", &[1; 7]), note(b"QEMU\0", &cpu), note(b"QEMU\0", old)].concat();
        let bytes = [bytes, note(b"VMCOREINFO\0", b"OSRELEASE=6\n\0\0")].concat();
        let mut notes = Notes::default();
        notes.absorb(&bytes);
        let processor = |number| Processor {
            number,
            cr0: Some(4),
            cr3: Some(5),
            cr4: Some(6),
            idt_base: Some(3),
            ..Processor::default()
        };
        assert_eq!(notes.processors, [processor(0), processor(1)]);
        assert_eq!(notes.vmcoreinfo.as_deref(), Some("OSRELEASE=6\n"));
        for cut in 0..bytes.len() {
            Notes::default().absorb(&bytes[..cut]);
        }
    }
}
