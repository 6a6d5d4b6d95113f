//! Messages of RFC 5424.
//!
//! *Does*: header and structured data around a line in another format.
//! *Never*: writes anything but printable ASCII into the header, or lets a value end its structured data.
//!
//! There is no byte order mark before the text: receivers that parse it as JSON or CEF would stumble over it, and RFC 5424 allows it without.

use super::{Origin, acts};
use crate::alert::Alert;
use crate::limits::prefix;
use humantime::format_rfc3339_millis;
use lynceus_scanners::Severity;
use std::time::{Duration, UNIX_EPOCH};

/// `local0`.
const FACILITY: u8 = 16;
/// The number that RFC 5612 keeps for documentation: Lynceus has none of its own.
const STRUCTURED_DATA: &str = "lynceus@32473";

/// A message that carries `text`.
pub(super) fn message(alert: &Alert, text: &str, origin: &Origin) -> String {
    let priority = FACILITY * 8 + number(alert.severity());
    // Beyond the year 9999 there is no timestamp.
    let time = UNIX_EPOCH + Duration::from_millis(alert.time_ms.min(253_402_300_799_999));
    let mut data = format!("[{STRUCTURED_DATA} id=\"{}\"", value(&alert.id));
    for (name, field) in
        [("sequence", alert.sequence.map(|sequence| sequence.to_string())), ("vm", alert.vm.clone())]
    {
        if let Some(field) = field {
            data.push_str(&format!(" {name}=\"{}\"", value(&field)));
        }
    }
    format!(
        "<{priority}>1 {} {} lynceus {} {} {data}] {text}",
        format_rfc3339_millis(time),
        header(&origin.hostname, 255),
        origin.pid,
        header(alert.kind(), 32),
    )
}

/// A field of the header: printable ASCII without spaces, or `-`.
fn header(text: &str, max: usize) -> String {
    let kept: String = text.chars().filter(char::is_ascii_graphic).take(max).collect();
    if kept.is_empty() { "-".to_owned() } else { kept }
}

/// A value of structured data.
fn value(text: &str) -> String {
    let mut out = String::new();
    for character in prefix(text, 1024).chars() {
        match character {
            '"' | '\\' | ']' => out.extend(['\\', character]),
            other if acts(other) => out.push('?'),
            other => out.push(other),
        }
    }
    out
}

fn number(severity: Severity) -> u8 {
    match severity {
        Severity::Low => 5,
        Severity::Medium => 4,
        Severity::High => 3,
        Severity::Critical => 2,
    }
}
