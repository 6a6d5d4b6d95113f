//! Alerts as others read them.
//!
//! *Does*: turns an alert into one line in the format of a sink.
//! *Trusts*: no string in an alert: each format escapes what it must, and bounds what it cannot hold.
//! *Never*: reads or writes anything: the same alert of the same origin is always the same line.

mod cef;
mod ecs;
mod fields;
mod ocsf;
mod syslog;

use crate::alert::Alert;
use crate::config::Format;

/// Who tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Name of this host.
    pub hostname: String,
    /// Process id.
    pub pid: u32,
    /// Version of Lynceus.
    pub version: &'static str,
}

impl Origin {
    /// This process on this host.
    pub fn here() -> Origin {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Origin {
            hostname: hostname.trim().to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// The alert as one line in `format`, with no line break in it.
pub fn line(alert: &Alert, format: Format, origin: &Origin) -> String {
    match format {
        // Strings and numbers: this cannot fail.
        Format::Json => plain(&serde_json::to_string(alert).unwrap_or_default()),
        Format::Ecs => plain(&ecs::document(alert, origin).to_string()),
        Format::Ocsf => plain(&ocsf::event(alert, origin).to_string()),
        Format::Cef => cef::line(alert, origin),
    }
}

/// The alert as a message of RFC 5424, which carries its line in `format`.
pub fn syslog_message(alert: &Alert, format: Format, origin: &Origin) -> String {
    syslog::message(alert, &line(alert, format, origin), origin)
}

/// The message with its length before it, as RFC 5425 and RFC 6587 frame it on TCP and TLS.
pub fn syslog_frame(message: &str) -> Vec<u8> {
    format!("{} {message}", message.len()).into_bytes()
}

/// JSON without characters that do something to a terminal or to the direction of text: they can only be in strings, where they may be
/// escaped.
fn plain(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if acts(character) {
            out.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            out.push(character);
        }
    }
    out
}

/// Control characters, separators of lines and paragraphs, and what turns the direction of text.
fn acts(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
