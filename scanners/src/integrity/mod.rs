//! Kernel integrity: what a rootkit changes in the kernel to see and decide what others see.

pub(crate) mod credentials;
pub(crate) mod helpers;
pub(crate) mod interrupts;
pub(crate) mod operations;
pub(crate) mod syscalls;

pub use credentials::shared_credentials;
pub use helpers::helper_programs;
pub use interrupts::interrupt_handlers;
pub use operations::operation_tables;
pub use syscalls::syscall_handlers;

use crate::{Detector, Finding, Severity, Subject};
use lynceus_introspect::linux::{Code, View};
use lynceus_introspect::{Gva, Partial};

/// A pointer to code in a place where only the kernel's own belongs.
struct Hook {
    /// What may be hooked, for people.
    what: String,
    /// The symbol that stands for it, with an index or offset.
    symbol: String,
    at: Gva,
    handler: Gva,
}

/// A finding for each handler that is not the kernel's own.
fn judged(view: &View<'_>, detector: &Detector, hooks: Partial<Hook>) -> Partial<Finding> {
    let mut found = Partial::default();
    let modules = view.modules_in_tree();
    let modules = found.absorb(modules);
    for hook in found.absorb(hooks) {
        let whose = match view.code_at(hook.handler, &modules) {
            Code::Kernel => continue,
            Code::Module(name) => format!("module {name}"),
            Code::Unknown => "no known module".to_owned(),
        };
        let summary = format!("{} leads to {}, the code of {whose}", hook.what, hook.handler);
        let value = format!("{:#x}", hook.handler.0);
        let subject = Subject::Kernel { symbol: hook.symbol, address: hook.at.0, value };
        found.items.push(detector.finding(Severity::Critical, summary, subject));
    }
    found
}
