//! Places where alerts go.
//!
//! *Does*: opens what is configured; each place takes a batch of encoded alerts and returns when it has them.
//! *Trusts*: what its module says of "has them": a file is synced, an HTTP receiver answered, a syslog server read to the end.
//! *Never*: retries or waits by itself: that is the worker's part ([`crate::worker`]).

mod file;
mod http;
mod http_replies;
mod journald;
pub(crate) mod syslog;
mod tcp;
pub(crate) mod tls;

use crate::alert::Alert;
use crate::config::{SinkConfig, SinkKind};
use crate::encode::Origin;
use std::io;
use std::time::Duration;

/// An encoded alert.
pub(crate) struct Event {
    /// The alert, with its number.
    pub(crate) alert: Alert,
    /// One line in the sink's format, without its end.
    pub(crate) text: String,
}

/// An alert that a receiver will never take.
#[derive(Debug)]
pub(crate) struct Rejected {
    /// Its number in the spool.
    pub(crate) sequence: u64,
    /// What the receiver says.
    pub(crate) reason: String,
}

impl Rejected {
    fn of(event: &Event, reason: impl Into<String>) -> Rejected {
        Rejected { sequence: event.alert.sequence.unwrap_or_default(), reason: reason.into() }
    }
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SinkError {
    /// It may work later.
    #[error("{0}")]
    Later(String),
    /// It will not work before an admin acts: certificates, tokens, rights.
    #[error("{0}")]
    Refused(String),
}

impl SinkError {
    pub(crate) fn io(doing: impl std::fmt::Display, error: &io::Error) -> SinkError {
        let text = format!("{doing}: {error}");
        if error.kind() == io::ErrorKind::PermissionDenied {
            SinkError::Refused(text)
        } else {
            SinkError::Later(text)
        }
    }
}

/// A place where alerts go.
pub(crate) trait Sink: Send {
    /// Sends a batch, in order. On success the place has all of it but for what it rejected; on an error the whole batch is sent again.
    fn deliver(&mut self, events: &[Event]) -> Result<Vec<Rejected>, SinkError>;
    /// How long small batches are apart, where each costs a connection.
    fn pace(&self) -> Duration {
        Duration::ZERO
    }
}

/// Opens a place. Connections are made by the first delivery.
pub(crate) fn open(config: &SinkConfig, origin: &Origin) -> Result<Box<dyn Sink>, SinkError> {
    let address = config.address.clone().unwrap_or_default();
    Ok(match config.kind {
        SinkKind::Stdout => Box::new(file::Stdout),
        SinkKind::File => Box::new(file::RotatedFile::new(address, config.rotate_bytes, config.keep_files)),
        SinkKind::Syslog => Box::new(syslog::Syslog::open(config, origin)?),
        SinkKind::Http => Box::new(http::Http::open(config, origin)?),
        SinkKind::Journald => Box::new(journald::Journald::new(config.address.as_deref())),
    })
}
