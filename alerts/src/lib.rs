//! Alerts: facts sent to people.
//!
//! *Does*: turns a finding, a violation or a failure into an [`Alert`] that says which VM, when, and under which id it can be recognised
//! again; keeps it on disk until every sink has it ([`Pipeline`]).
//! *Trusts*: no string in an alert: most of them are the guest's.
//! *Never*: passes a guest's bytes on unescaped, or an alert on that is not on disk yet.

mod alert;
mod config;
pub mod encode;
pub mod funnel;
mod health;
mod id;
mod limits;
mod pipeline;
mod sinks;
pub mod spool;
mod stats;
#[cfg(test)]
mod tests;
mod worker;

pub use alert::{About, Alert, FlowProcess, FlowViolation, Health, PolicyViolation, Response};
pub use config::{Config, ConfigError, Format, FunnelConfig, Shape, SinkConfig, SinkKind, TlsConfig};
pub use id::id;
pub use limits::MAX_ALERT_BYTES;
pub use pipeline::{Pipeline, PipelineError};
pub use stats::{SinkState, SinkStats, Stats};
