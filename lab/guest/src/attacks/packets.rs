//! Waiting for a packet below the firewall, as backdoors without a port do.

use std::io;

use super::again;
use crate::actors::Held;
use crate::sys;

/// From a program that any user may have put there.
pub(super) fn from_anywhere(second: bool) -> io::Result<Held> {
    if second {
        return Ok(Box::new(sys::packet_filter()?));
    }
    again("/tmp/attack-waiting", "attack-waiting")
}

/// From a program that is known to nobody.
pub(super) fn from_a_stranger() -> io::Result<Held> {
    Ok(Box::new(sys::packet_filter()?))
}
