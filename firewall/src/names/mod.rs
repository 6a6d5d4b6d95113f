//! What DNS names stand for, and for how long.
//!
//! *Does*: looks names up beside everything else ([`Lookups`]), by this host's servers ([`resolver`]), and keeps a [`Book`] of what they
//! answered: until when it holds, when to ask again, what is still allowed because a server fails or a connection is open. *Trusts*: the
//! servers, within limits: how many addresses, for how long, and never this host's own. *Never*: has anybody wait for a server without a
//! deadline.

pub mod address;
pub mod message;
pub mod resolver;

mod book;
mod lookups;

pub use book::Book;
pub use lookups::{Found, Lookups};

use lynceus_policy::Family;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Of one answer so many addresses are taken.
pub const MAX_ADDRESSES: usize = 64;
/// So many are allowed for a name and family, with those that it stood for before.
pub const MAX_KEPT: usize = 128;
/// A TTL below is taken for this: whoever answers 0 has neither us ask all the time nor the kernel's rules change all the time.
pub const MIN_TTL_S: i64 = 5;
/// A TTL above is taken for this: what was once answered wrongly ends.
pub const MAX_TTL_S: i64 = 3600;
/// How long after its TTL an address that a name no longer stands for is still allowed: guests were told of it as late as we were.
pub const LINGER_S: i64 = 10;
/// And so long while a connection to it is open: it is not cut because a name moved.
pub const IN_USE_S: i64 = 3600;
/// How long after its TTL an address is allowed while no server tells what the name stands for now.
pub const KEEP_S: i64 = 86_400;
/// After a failure it is asked again after so long, and then after twice as long each time, up to [`RETRY_MAX_S`].
pub const RETRY_S: i64 = 5;
/// The longest time between two questions that fail.
pub const RETRY_MAX_S: i64 = 60;
/// No look-up takes longer.
pub const LOOK_UP: Duration = Duration::from_secs(5);

/// A name's addresses of one family.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Question {
    /// The name: whole, in lower case, without a dot at its end.
    pub name: String,
    /// Of which family.
    pub family: Family,
}
