//! What a SIEM is made of, for tests: a real rsyslog, and certificates for it.

mod certificates;
mod rsyslog;

pub use certificates::{Authority, Pair};
pub use rsyslog::Rsyslog;
