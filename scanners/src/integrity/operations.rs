//! Operation tables: the constant tables of functions by which files, directories and listings of /proc are served.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{Allow, Hook, judged};
use crate::{Detector, Finding, Limits};
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "operation_table",
    technique: "T1014",
    about: "constant tables of functions of the kernel that lead out of its image",
    limits: Limits {
        sees: "a function of a constant table of the kernel's image that was replaced: to hide files (iterate_shared), sockets (show of /proc/net/tcp), or to answer reads",
        evaded_by: "a table of the attacker's own that an object is made to use, a change of the function's own code",
        false_positives: "none known: constant tables of the image hold functions of the image",
    },
    next: "compare lynceus files, sockets and ps with what the guest's own tools show: the difference is what is hidden",
    run: operation_tables,
};

/// How the kernel calls its tables of functions.
const ENDINGS: [&str; 9] = [
    "_operations",
    "_fops",
    "_iops",
    "_file_ops",
    "_seq_ops",
    "_sops",
    "_proc_ops",
    "_dentry_ops",
    "_super_ops",
];
/// Longest table that is read, in bytes; `struct file_operations` has some 300.
const MAX_TABLE_BYTES: u64 = 512;

/// Functions that lie elsewhere.
pub fn operation_tables(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut hooks = Partial::default();
    let kernel = view.kernel();
    let symbols = &kernel.profile.symbols;
    let place = |name| kernel.profile.symbol(name);
    let (start, end) = match (place("__start_rodata"), place("__end_rodata")) {
        (Ok(start), Ok(end)) => (start, end),
        (Err(missing), _) | (_, Err(missing)) => return Partial::unavailable("operation tables", missing),
    };
    for symbol in symbols.iter().filter(|symbol| (start..end).contains(&symbol.address)) {
        // Entries of the tables of exported symbols carry the names of what they export.
        let is_export = symbol.name.starts_with("__");
        if is_export || !ENDINGS.iter().any(|ending| symbol.name.ends_with(ending)) {
            continue;
        }
        let len = symbols.next_after(symbol.address).map_or(0, |next| next - symbol.address);
        for offset in (0..len.min(MAX_TABLE_BYTES)).step_by(8) {
            let at = Gva(kernel.slid(symbol.address).0.wrapping_add(offset));
            let Some(handler) = hooks.ok("operation table", at, view.pointer(at)) else { break };
            // Between functions lie flags, sizes, and pointers to data of the image: only code elsewhere counts.
            if !handler.is_kernel() || in_image(view, handler) {
                continue;
            }
            hooks.items.push(Hook {
                what: format!("a function of {}", symbol.name),
                symbol: format!("{}+{offset:#x}", symbol.name),
                at,
                handler,
            });
        }
    }
    judged(view, &DETECTOR, Allow::Kernel, hooks)
}

fn in_image(view: &View<'_>, at: Gva) -> bool {
    let place = |name| view.kernel().symbol(name);
    matches!((place("_text"), place("_end")), (Ok(start), Ok(end)) if at >= start && at < end)
}
