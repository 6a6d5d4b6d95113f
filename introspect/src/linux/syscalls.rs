//! The system-call table.
//!
//! *Trusts*: nothing. A handler may point anywhere: it is listed as it is found, for others to judge. The table reaches to
//! the next symbol, not to where it stops looking right, so that no entry is left out for having been tampered with.
//!
//! Layout: `sys_call_table` (`arch/x86/entry/syscall_64.c`), an array of pointers, Linux 5.10 to 7.2. From 6.9 on the kernel
//! calls through `x64_sys_call` and keeps the table for tracing.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::View;
use crate::{Gva, Partial};

/// More than any kernel has.
const MAX_ENTRIES: u64 = 1024;

/// An entry of the system-call table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Syscall {
    /// Its number.
    pub number: u32,
    /// What is called.
    pub handler: Gva,
    /// The symbol at exactly that address; `None` where the kernel's own image has none.
    pub symbol: Option<String>,
}

impl View<'_> {
    /// The 64-bit system-call table, every entry of it.
    pub fn syscalls(&self) -> Partial<Syscall> {
        let what = "system-call table";
        let symbols = &self.kernel().profile.symbols;
        let table = match self.kernel().profile.symbol("sys_call_table") {
            Ok(table) => table,
            Err(missing) => return Partial::unavailable(what, missing),
        };
        let mut found = Partial::default();
        let len = symbols.next_after(table).and_then(|next| next.checked_sub(table)).unwrap_or(0);
        for number in 0..len.checked_div(8).unwrap_or(0).min(MAX_ENTRIES) {
            let at = Gva(self.kernel().slid(table).0.wrapping_add(number.saturating_mul(8)));
            let Some(handler) = found.ok(what, at, self.pointer(at)) else { continue };
            let symbol = symbols.exactly(self.kernel().unslid(handler)).map(|symbol| symbol.name.to_owned());
            found.items.push(Syscall { number: u32::try_from(number).unwrap_or(u32::MAX), handler, symbol });
        }
        // Between the table's end and the next symbol lies padding.
        let used = found.items.iter().rposition(|entry| !entry.handler.is_null());
        found.items.truncate(used.map_or(0, |last| last.saturating_add(1)));
        found
    }
}
