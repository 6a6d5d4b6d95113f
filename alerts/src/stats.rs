//! How the pipeline is, for people and for metrics.

use serde::{Deserialize, Serialize};
use std::time::SystemTime;

/// How the pipeline is.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes of the spool on disk.
    pub spool_bytes: u64,
    /// Alerts that were written since the pipeline was opened.
    pub written: u64,
    /// Raised.
    pub raised: u64,
    /// Repeats of what had been told.
    pub repeated: u64,
    /// Counted and not told because there were too many.
    pub suppressed: u64,
    /// Could not be kept: the spool or the disk was full.
    pub refused: u64,
    /// Each sink.
    pub sinks: Vec<SinkStats>,
}

/// How a sink is.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SinkStats {
    /// Its name.
    pub name: String,
    /// Whether it takes alerts.
    pub state: SinkState,
    /// Alerts that it took.
    pub delivered: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Alerts that it will never take.
    pub rejected: u64,
    /// Numbers between the newest alert and what the sink has: an upper bound of what is left to send.
    pub lag: u64,
    /// The last error, even if it works again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it last took something.
    #[serde(skip)]
    pub last_success: Option<SystemTime>,
}

impl SinkStats {
    /// Whether alerts wait because the sink does not take them.
    pub fn is_down(&self) -> bool {
        matches!(self.state, SinkState::Down | SinkState::Refused)
    }
}

/// Whether a sink takes alerts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkState {
    /// There was nothing to send yet.
    #[default]
    Idle,
    /// It does.
    Up,
    /// It does not; it is tried again.
    Down,
    /// It does not, and will not before an admin acts.
    Refused,
    /// It was told to end.
    Stopped,
}
