//! Why a hypervisor could not be asked for something.

use serde::{Deserialize, Serialize};

/// Why a guest could not be paused, not be resumed, or its processors not be asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlError {
    /// The control channel is not to be had: none was set up, or another client holds it.
    #[error("no control channel: {0}")]
    Unavailable(String),
    /// The hypervisor refused.
    #[error("the hypervisor refused: {0}")]
    Refused(String),
    /// The hypervisor gave no answer in time.
    #[error("the hypervisor did not answer in time")]
    Timeout,
}
