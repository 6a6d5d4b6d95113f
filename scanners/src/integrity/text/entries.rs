//! Functions that begin with a way out of the kernel: what can be told of its text with nothing to compare it with.

use super::super::judge::Owners;
use super::{Change, MAX_FINDINGS, PAGE, explain};
use lynceus_introspect::linux::View;
use lynceus_introspect::{GapReason, Gva, Partial};

/// Bytes of a function that are looked at.
const ENTRY_BYTES: usize = 24;

/// Functions of the kernel that begin by leaving it for code that is nobody's, or a module's.
pub(super) fn redirected(view: &View<'_>, owners: &Owners) -> Partial<Change> {
    let what = "kernel text";
    let (start, end) = match view.kernel_text() {
        Ok(bounds) => bounds,
        Err(why) => return Partial::unavailable(what, why),
    };
    let kernel = view.kernel();
    // What runs at start only is called from what stays, and unmapped afterwards: the whole image counts as the kernel's.
    let image = (kernel.symbol("_text").unwrap_or(start), kernel.symbol("_end").unwrap_or(end));
    let mut changes = Partial::default();
    let (mut page, mut page_at) = ([0; PAGE + ENTRY_BYTES], None);
    for symbol in kernel.profile.symbols.iter().filter(|symbol| matches!(symbol.kind, b't' | b'T')) {
        let at = kernel.slid(symbol.address);
        if at < start || at >= end || changes.items.last().is_some_and(|last: &Change| last.at == at) {
            continue;
        }
        let base = Gva(at.0 - at.page_offset());
        if page_at != Some(base) {
            page_at = Some(base);
            page = [0; PAGE + ENTRY_BYTES];
            // The page after the last may not be there.
            let (first, rest) = page.split_at_mut(PAGE);
            if changes.ok(what, base, view.space().read(base, first)).is_none() {
                page_at = None;
                continue;
            }
            let _ = view.space().read(Gva(base.0.wrapping_add(PAGE as u64)), rest);
        }
        let from = at.page_offset() as usize;
        // Not into the next function: some begin behind a run of empty instructions with a name of its own.
        let next = kernel.profile.symbols.next_after(symbol.address).unwrap_or(u64::MAX);
        let len = usize::try_from(next - symbol.address).unwrap_or(ENTRY_BYTES).min(ENTRY_BYTES);
        let code = &page[from..from + len];
        let leaves = explain::destination(code, at.0).filter(|to| *to < image.0.0 || *to >= image.1.0);
        if leaves.is_some_and(|to| !owners.is_trampoline(Gva(to))) {
            let len = explain::entry_len(code, at.0);
            changes.items.push(Change { at, expected: Vec::new(), found: code[..len].to_vec() });
        }
        if changes.items.len() >= MAX_FINDINGS {
            changes.gap(what, at, GapReason::Limit(MAX_FINDINGS as u64));
            break;
        }
    }
    changes
}
