//! Ways to reach a guest's RAM. The only folder of this crate with `unsafe` code: mapping, ioctls, and
//! instructions of the processor that digest what was copied.

pub mod carryless;
pub mod dump;
pub mod fake;
pub mod map;
pub mod qemu;
pub mod sealed;
mod watchdog;
pub mod xen;
