//! Kernel profiles: what a kernel build calls its symbols and how it lays out its types.
//!
//! A [`Profile`] is built from any of several sources (BTF and kallsyms found in guest memory, Volatility 3 ISF
//! JSON, System.map, DWARF), merged into one compact form, and kept in a store keyed by build id.
//!
//! *Trusts*: nothing. Every source is hostile input with limits and typed errors.
//! *Never*: touches guest memory; bytes come in as slices, profiles go out as values.

mod block;
pub mod btf;
mod build_id;
pub mod compare;
pub mod dwarf;
pub mod isf;
pub mod kallsyms;
pub mod kernel_file;
pub mod module_file;
mod profile;
mod shared;
pub mod store;
mod symbols;
pub mod system_map;
mod types;

pub use block::Block;
pub use profile::{BuildId, Identity, Profile, ProfileError};
pub use shared::{Packed, Shared, Table};
pub use symbols::{Symbol, Symbols, SymbolsBuilder};
pub use types::{Field, FieldKind, Type, TypeId, Types, TypesBuilder};
