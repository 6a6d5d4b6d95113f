//! Whose code lies at an address, and the tables of the kernel that hold addresses of code.
//!
//! *Trusts*: the kernel's own symbols for where its image lies; module areas as the kernel lists them, hidden ones left out.
//!
//! Layouts: `gate_desc` (`arch/x86/include/asm/desc_defs.h`: offset bits 0–15 at 0, type and present bit at 5, bits 16–31 at 6,
//! bits 32–63 at 8), `idt_table` (`arch/x86/kernel/idt.c`), Linux 5.10 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Module, View};
use crate::{GapReason, Gva, Partial};

/// Vectors of an interrupt descriptor table.
const VECTORS: u32 = 256;
const GATE_BYTES: u32 = 16;
/// The present bit of a gate.
const PRESENT: u8 = 0x80;
/// Longest string of the kernel's that names a helper program (`CORENAME_MAX_SIZE` and `KMOD_PATH_LEN` are 128 and 256).
const MAX_PATH_BYTES: usize = 256;

/// Whose code it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Code {
    /// The kernel's image.
    Kernel,
    /// A module's, by name.
    Module(String),
    /// Nobody's that is listed.
    Unknown,
}

/// An interrupt gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gate {
    /// Its vector.
    pub vector: u32,
    /// What is called.
    pub handler: Gva,
}

impl View<'_> {
    /// Start and end of the kernel's own code, initialisation code left out.
    pub fn kernel_text(&self) -> Result<(Gva, Gva), GapReason> {
        Ok((self.kernel().symbol("_stext")?, self.kernel().symbol("_etext")?))
    }

    /// Whose code lies at `at`. `modules` are those that are listed.
    pub fn code_at(&self, at: Gva, modules: &[Module]) -> Code {
        if self.kernel_text().is_ok_and(|(start, end)| at >= start && at < end) {
            return Code::Kernel;
        }
        let holds = |module: &&Module| {
            let inside = |(start, len): &(Gva, u64)| at >= *start && at.0 < start.0.saturating_add(*len);
            module.areas.iter().any(inside)
        };
        modules.iter().find(holds).map_or(Code::Unknown, |module| Code::Module(module.name.clone()))
    }

    /// The interrupt descriptor table: every gate that is present.
    pub fn interrupt_gates(&self) -> Partial<Gate> {
        let what = "interrupt descriptor table";
        let table = match self.kernel().symbol("idt_table") {
            Ok(table) => table,
            Err(missing) => return Partial::unavailable(what, missing),
        };
        let mut found = Partial::default();
        for vector in 0..VECTORS {
            let at = table.field(vector.saturating_mul(GATE_BYTES));
            let Some(gate) = found.ok(what, at, self.bytes::<16>(at)) else { continue };
            let [a, b, _, _, _, kind, c, d, e, f, g, h, ..] = gate;
            if kind & PRESENT != 0 {
                let handler = Gva(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
                found.items.push(Gate { vector, handler });
            }
        }
        found
    }

    /// A text of the kernel's own, up to its end: `modprobe_path`, `core_pattern` and the like.
    pub fn kernel_string(&self, symbol: &str) -> Result<String, GapReason> {
        Ok(self.string(self.kernel().symbol(symbol)?, MAX_PATH_BYTES)?)
    }
}
