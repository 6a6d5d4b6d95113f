//! Looks into a running virtual machine, or a dump of one, from outside it.
//!
//! From bottom to top: a *backend* copies guest RAM out ([`GuestMemory`]); an [`AddressSpace`] adds a page-table root;
//! [`find`] locates the kernel with no symbols and yields a [`linux::Kernel`]; a [`linux::View`] rebuilds kernel objects.
//! [`observe`] makes a look at a running guest consistent.
//!
//! *Trusts*: the hypervisor and the admin's own profile files. Nothing that the guest wrote.
//! *Never*: writes to a guest, lends a slice over its live memory, follows an unbounded loop.

pub mod addr;
pub mod backend;
pub mod control;
pub mod find;
pub mod linux;
pub mod memory;
pub mod observe;
pub mod paging;
pub mod partial;
pub mod pause;
pub mod processors;
pub mod space;
pub mod target;

pub use addr::{Gfn, Gpa, GpaRange, Gva};
pub use control::ControlError;
pub use memory::{GuestMemory, ReadError, SharedMemory, Stability};
pub use partial::{Gap, GapReason, Partial};
pub use pause::{Pause, Paused};
pub use processors::{Processor, Processors};
pub use space::{AccessError, AddressSpace};
pub use target::{Target, TargetError};
