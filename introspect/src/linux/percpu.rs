//! Per-CPU variables: where each CPU's copy lies.
//!
//! Layout: `__per_cpu_offset`, `nr_cpu_ids` (`arch/x86/kernel/setup_percpu.c`). A per-CPU symbol is an offset from zero
//! through 6.14 and a kernel address after; the sum is right for both.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::View;
use crate::{GapReason, Gva};

/// `NR_CPUS` of the largest kernels.
const MAX_CPUS: u32 = 8192;

impl View<'_> {
    /// The address of each possible CPU's copy of a per-CPU variable.
    pub fn per_cpu(&self, symbol: &str) -> Result<Vec<Gva>, GapReason> {
        let variable = self.kernel().symbol(symbol)?;
        let cpus = self.u32(self.kernel().symbol("nr_cpu_ids")?)?;
        if cpus > MAX_CPUS {
            return Err(GapReason::Limit(MAX_CPUS.into()));
        }
        let offsets = self.kernel().symbol("__per_cpu_offset")?;
        (0..cpus)
            .map(|cpu| Ok(Gva(self.u64(offsets.field(cpu.saturating_mul(8)))?.wrapping_add(variable.0))))
            .collect()
    }
}
