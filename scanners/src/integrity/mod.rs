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

use crate::{Finding, Severity, Subject};
use lynceus_introspect::Gva;
use lynceus_introspect::linux::{Code, Module, View};

/// A pointer to code in a place where only the kernel's own belongs.
struct Hook<'a> {
    detector: &'static str,
    technique: &'static str,
    /// What is hooked, for people.
    what: String,
    /// The symbol or name that stands for it.
    symbol: String,
    at: Gva,
    handler: Gva,
    modules: &'a [Module],
}

/// A finding where the handler is not the kernel's own.
fn judged(view: &View<'_>, hook: Hook<'_>) -> Option<Finding> {
    let whose = match view.code_at(hook.handler, hook.modules) {
        Code::Kernel => return None,
        Code::Module(name) => format!("module {name}"),
        Code::Unknown => "no known module".to_owned(),
    };
    Some(Finding {
        detector: hook.detector,
        technique: hook.technique.into(),
        severity: Severity::Critical,
        summary: format!("{} leads to {}, the code of {whose}", hook.what, hook.handler),
        subject: Subject::Kernel {
            symbol: hook.symbol,
            address: hook.at.0,
            value: format!("{:#x}", hook.handler.0),
        },
        seen_in: Vec::new(),
        missing_from: Vec::new(),
        rule: None,
    })
}
