//! Development only: builds and boots real guests with a known ground truth.
//!
//! [`kernels`] downloads Debian's kernels, [`initramfs`] packs the guest's own PID 1 with them, [`guest`] boots and asks it,
//! [`images`] keeps frozen guests for tests. In the guest runs `lab/guest`; what it plants is in [`scenery`], what it can be made
//! to suffer in [`attacks`].
//!
//! *Never*: part of the product; it may panic and may trust its own guest.

mod answer;
pub mod attacks;
pub mod busy;
pub mod deb;
mod debian;
pub mod folder;
pub mod guest;
pub mod images;
pub mod initramfs;
pub mod kernels;
pub mod luggage;
pub mod module;
pub mod packages;
mod patience;
mod qmp;
pub mod scenery;
pub mod siem;
pub mod truth;
pub mod volatility;
pub mod xen;

pub use guest::{Guest, NotReady, Paging, Spec};
pub use kernels::KernelVersion;
pub use patience::{until, until_so};
pub use scenery::Scenery;
