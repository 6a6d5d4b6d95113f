//! Places where code asks the kernel to be called: probes, traced functions, packet hooks, notifiers, line disciplines.
//!
//! *Trusts*: nothing: a handler may lie anywhere; it is listed as it is found, for others to judge.
//! *Never*: takes a handler for the kernel's own because it is registered.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod netfilter;
mod notifiers;
mod probes;
mod terminals;
mod trampolines;

pub use netfilter::NetfilterLayout;
pub use notifiers::NotifiersLayout;
pub use probes::{Probe, ProbesLayout};
pub use terminals::TerminalsLayout;
pub use trampolines::{Trampoline, TrampolinesLayout};

use crate::Gva;

/// A function that the kernel was asked to call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Callback {
    /// What it is called for, in words: `probe at do_exit`, `packets, IPv4, input`.
    pub on: String,
    /// Where its address is kept.
    pub at: Gva,
    /// The function.
    pub handler: Gva,
}
