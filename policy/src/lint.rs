//! What is no error, and still worth a look.

use crate::place::Place;
use serde::Serialize;

/// How much it matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing.
    Note,
    /// Most likely not what was meant.
    Warning,
    /// Written, but not done by this version: the policy would protect less than it says.
    Error,
}

impl Level {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// Something worth a look.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct Lint {
    /// Which kind: stable, for programs.
    pub code: &'static str,
    /// How much it matters.
    pub level: Level,
    /// Where.
    pub place: Place,
    /// What.
    pub message: String,
}
