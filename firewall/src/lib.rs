//! From a resolved policy to the rules on a VM's interface: a pure compiler, a reference evaluator, and the one
//! place that talks to nftables.
//!
//! [`evaluate`] says what a policy means: it is the reference, and as plain as can be. [`compile`] turns the same policy into
//! [`ir`], and [`nft`] turns that into nftables' JSON. Property tests hold the three against each other and against the kernel.
//!
//! *Trusts*: the resolved policy. *Never*: keys a rule on what the guest claims (its MAC, its IP, its hostname).

mod arrange;
pub mod cells;
pub mod compile;
pub mod conntrack;
mod cover;
pub mod enforce;
pub mod evaluate;
pub mod flows;
pub mod host;
pub mod ipfix;
pub mod ir;
pub mod lint;
pub mod names;
mod netlink;
pub mod nft;
pub mod packet;
pub mod ports;
pub mod process;
pub mod queue;
pub mod state;
pub mod suite;
pub mod sums;
pub mod tiers;

pub use compile::compile;
pub use evaluate::{By, Decision, Mismatch, Moment, Names, Outcome, Step, asks, judge, named, withheld};
pub use host::{Host, Port};
pub use packet::Flow;
pub use process::{Process, Who};
