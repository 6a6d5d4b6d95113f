//! Kernel integrity: what a rootkit changes in the kernel to see and decide what others see.

pub(crate) mod bpf;
pub(crate) mod constants;
pub(crate) mod credentials;
pub(crate) mod helpers;
pub(crate) mod interrupts;
mod judge;
pub(crate) mod notifiers;
pub(crate) mod operations;
pub(crate) mod orphans;
pub(crate) mod packets;
pub(crate) mod probes;
pub(crate) mod processors;
pub(crate) mod syscalls;
pub(crate) mod terminals;
pub(crate) mod text;
pub(crate) mod traces;

pub use bpf::bpf_helpers;
pub use constants::kernel_constants;
pub use credentials::shared_credentials;
pub use helpers::helper_programs;
pub use interrupts::interrupt_handlers;
pub use notifiers::notifiers;
pub use operations::operation_tables;
pub use orphans::bpf_orphans;
pub use packets::packet_hooks;
pub use probes::probe_handlers;
pub use processors::processor_states;
pub use syscalls::syscall_handlers;
pub use terminals::terminal_inputs;
pub use text::kernel_text;
pub use text::modules::module_text;
pub use traces::trace_handlers;

use judge::{Allow, Hook, judged};
