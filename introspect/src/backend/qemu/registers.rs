//! What QEMU's monitor tells of a guest's processors: `info registers -a`.
//!
//! Source: QEMU `target/i386/cpu-dump.c` (7.2, 10.0): `CPU#N`, then `IDT=     BASE LIMIT`, `CR0=… CR2=… CR3=… CR4=…`; 16 digits for addresses of a processor in
//! long mode. The system-call registers are not among it.
//! *Trusts*: QEMU's words; what they say of registers is the guest's. *Never*: stops the guest: QEMU kicks each processor out for an instant.

use super::Qemu;
use crate::ControlError;
use crate::processors::{MAX_PROCESSORS, Processor, Processors};

impl Processors for Qemu {
    fn processors(&self) -> Result<Vec<Processor>, ControlError> {
        let text = self.control()?.human("info registers -a")?;
        let processors = parse(&text);
        if processors.is_empty() {
            return Err(ControlError::Refused("QEMU names no processor's registers".to_owned()));
        }
        Ok(processors)
    }
}

fn parse(text: &str) -> Vec<Processor> {
    let mut all: Vec<Processor> = Vec::new();
    for line in text.lines() {
        if let Some(number) = line.trim().strip_prefix("CPU#") {
            match number.parse() {
                Ok(number) if all.len() < MAX_PROCESSORS => {
                    all.push(Processor { number, ..Processor::default() });
                }
                _ => return all,
            }
        } else if let Some(processor) = all.last_mut() {
            absorb(processor, line);
        }
    }
    all
}

fn absorb(processor: &mut Processor, line: &str) {
    if let Some(table) = line.strip_prefix("IDT=") {
        // Eight digits are half an address: the processor is not in long mode.
        let base = table.split_whitespace().next().filter(|base| base.len() == 16);
        processor.idt_base = base.and_then(hexadecimal);
    } else if line.starts_with("CR0=") {
        for (name, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            match name {
                "CR0" => processor.cr0 = hexadecimal(value),
                "CR3" => processor.cr3 = hexadecimal(value),
                "CR4" => processor.cr4 = hexadecimal(value),
                _ => {}
            }
        }
    }
}

fn hexadecimal(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_qemu_prints_and_nothing_else() {
        let text = "\r\nCPU#0\r\nRAX=ffffffff8a0c8a40 RBX=0000000000000000\r\nRIP=ffffffff8a0c8ef0 RFL=00000246\r\n\
            GDT=     fffffe0000001000 0000007f\r\nIDT=     fffffe0000000000 00000fff\r\n\
            CR0=80050033 CR2=00007f0e CR3=0000000003a12000 CR4=00750ef0\r\nDR0=0000000000000000\r\n\
            \r\nCPU#1\r\nIDT=     00000000 0000ffff\r\nCR0=60000010 CR2=0 CR3=0 CR4=0\r\nCPU#x\r\nCR0=1\r\n";
        let wanted = [
            Processor {
                number: 0,
                cr0: Some(0x8005_0033),
                cr3: Some(0x3a1_2000),
                cr4: Some(0x75_0ef0),
                idt_base: Some(0xffff_fe00_0000_0000),
                ..Processor::default()
            },
            Processor {
                number: 1,
                cr0: Some(0x6000_0010),
                cr3: Some(0),
                cr4: Some(0),
                ..Processor::default()
            },
        ];
        assert_eq!(parse(text), wanted);
        assert_eq!(parse("unknown command: 'info registers -a'"), []);
    }
}
