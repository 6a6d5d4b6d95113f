//! A connection, as its first packet tells it.

use lynceus_policy::{Direction, Family, Lane};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// Who connects to whom, and what for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// Who connects.
    pub source: IpAddr,
    /// To whom; of the same family.
    pub destination: IpAddr,
    /// The protocol.
    pub lane: Lane,
    /// The lane's number: destination port, ICMP `type << 8 | code`, or the protocol's number.
    pub number: u16,
}

impl Flow {
    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// The other end, for a VM that this connection goes into or comes out of.
    pub fn peer(&self, direction: Direction) -> IpAddr {
        match direction {
            Direction::In => self.source,
            Direction::Out => self.destination,
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = lynceus_policy::ServiceRange { lane: self.lane, first: self.number, last: self.number };
        write!(f, "{} → {} {service}", self.source, self.destination)
    }
}
