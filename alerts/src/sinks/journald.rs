//! systemd's journal, by its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! *Does*: one datagram for each alert, with fields to search for. Acknowledged means: the kernel has queued it for journald, which may
//! still drop it by its own rate limit (`RateLimitBurst=`).
//! *Never*: lets a value begin another field: each has its length before it.

use super::{Event, Rejected, Sink, SinkError};
use lynceus_scanners::Severity;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

const SOCKET: &str = "/run/systemd/journal/socket";
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Journald {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Journald {
    pub(super) fn new(path: Option<&str>) -> Journald {
        Journald { path: PathBuf::from(path.unwrap_or(SOCKET)), socket: None }
    }
    fn connect(&self) -> std::io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

impl Sink for Journald {
    fn deliver(&mut self, events: &[Event]) -> Result<Vec<Rejected>, SinkError> {
        let doing = format!("cannot write to {}", self.path.display());
        if self.socket.is_none() {
            self.socket = Some(self.connect().map_err(|error| SinkError::io(&doing, &error))?);
        }
        let mut rejected = Vec::new();
        let Some(socket) = &self.socket else { return Ok(rejected) };
        for event in events {
            match socket.send(&datagram(event)) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(90) => {
                    rejected.push(Rejected::of(event, error.to_string()))
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(SinkError::Later(format!("{doing}: journald reads nothing")));
                }
                Err(error) => return Err(SinkError::io(&doing, &error)),
            }
        }
        Ok(rejected)
    }
}

fn datagram(event: &Event) -> Vec<u8> {
    let alert = &event.alert;
    let priority = match alert.severity() {
        Severity::Low => "5",
        Severity::Medium => "4",
        Severity::High => "3",
        Severity::Critical => "2",
    };
    let sequence = alert.sequence.unwrap_or_default().to_string();
    let mut out = Vec::new();
    for (name, value) in [
        ("MESSAGE", alert.summary()),
        ("PRIORITY", priority),
        ("SYSLOG_IDENTIFIER", "lynceus"),
        ("LYNCEUS_ID", alert.id.as_str()),
        ("LYNCEUS_SEQUENCE", sequence.as_str()),
        ("LYNCEUS_KIND", alert.kind()),
        ("LYNCEUS_VM", alert.vm.as_deref().unwrap_or_default()),
        ("LYNCEUS_ALERT", event.text.as_str()),
    ] {
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    }
    out
}
