//! Ways to reach a guest's RAM. The only folder of this crate with `unsafe` code: mapping and ioctls.

pub mod dump;
pub mod fake;
pub mod map;
pub mod qemu;
pub mod sealed;
mod watchdog;
pub mod xen;
