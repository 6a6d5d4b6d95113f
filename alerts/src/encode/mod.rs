//! Alerts as others read them.
//!
//! *Does*: turns an alert into one line in the format of a sink.
//! *Trusts*: no string in an alert: each format escapes what it must.
//! *Never*: reads or writes anything: the same alert is always the same line.

use crate::alert::Alert;
use crate::config::{Format, SinkConfig};
use crate::sinks::Event;

/// The line of an alert for a sink.
pub(crate) fn event(alert: &Alert, sink: &SinkConfig) -> Event {
    let text = match sink.format {
        Format::Json => serde_json::to_string(alert).unwrap_or_default(),
    };
    Event { text }
}
