//! nftables: its JSON, the table that guards every port, and the program that puts it into the kernel.
//!
//! *Does*: writes commands and runs `nft`. *Trusts*: the compiled rules. *Never*: leaves half of a change in the kernel.

pub mod antispoof;
pub mod ask;
pub mod change;
pub mod closing;
mod elements;
mod labels;
pub mod model;
mod probes;
pub mod run;
pub mod table;
pub mod vm;
mod wire;

pub use change::{Change, install, update};
pub use run::{Error, Nft};
pub use table::{Path, Tables};

/// The name of our table in every family.
pub const TABLE: &str = "lynceus";
/// The NFLOG group that gets what is logged.
pub const LOG_GROUP: u32 = 76;
