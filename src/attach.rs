//! From what the admin typed to a guest that can be looked at.

use crate::cli::LookArgs;
use anyhow::{Context, Result};
use lynceus_introspect::backend::fake::Fake;
use lynceus_introspect::find::{self, Candidate, Evidence, Source};
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::observe::Options;
use lynceus_scanners::Finding;
use std::sync::Arc;
use std::time::Duration;

/// An attached guest, and how to look at it.
pub(crate) struct Guest {
    /// What the admin called it.
    pub(crate) name: String,
    /// How its memory is reached.
    pub(crate) backend: String,
    pub(crate) linux: LinuxGuest,
    pub(crate) options: Options,
    pub(crate) source: Source,
    pub(crate) evidence: Evidence,
    pub(crate) rejected: Vec<Candidate>,
    pub(crate) attach_time: Duration,
}

impl Guest {
    /// Finds the target, and its kernel.
    pub(crate) fn attach(target: &str, look: &LookArgs) -> Result<Guest> {
        let memory = Arc::new(Fake::from_file(std::path::Path::new(target))?);
        let attached = find::attach(memory).with_context(|| target.to_owned())?;
        Ok(Guest {
            name: target.to_owned(),
            backend: "raw".to_owned(),
            linux: attached.guest,
            options: Options {
                tries: look.tries.max(1),
                max_pause: Duration::from_millis(look.pause_ms),
                ..Options::default()
            },
            source: attached.source,
            evidence: attached.evidence,
            rejected: attached.rejected,
            attach_time: attached.timings.total,
        })
    }

    /// What the guest's memory says of its kernel and the trusted profile does not, or the other way round.
    pub(crate) fn disagreements(&self) -> Vec<Finding> {
        Vec::new()
    }
}
