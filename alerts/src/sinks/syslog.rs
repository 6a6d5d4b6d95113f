//! Syslog: RFC 5424 messages by UDP (RFC 5426), TCP (RFC 6587, octet counting) or TLS (RFC 5425).
//!
//! *Does*: one datagram for each message, or one connection for each batch. Acknowledged means: by TCP and TLS, the receiver has read the
//! batch to its end ([`super::tcp`]); by UDP, only that the kernel has sent it.
//! *Never*: sends a message of which the receiver could not know where it ends.

use super::tcp::Target;
use super::{Event, Rejected, Sink, SinkError, tls};
use crate::config::{Format, SinkConfig};
use crate::encode::{self, Origin};
use rustls::pki_types::ServerName;
use std::net::{ToSocketAddrs, UdpSocket};
use std::time::Duration;

/// Each batch costs a connection: small ones wait for each other.
const PACE: Duration = Duration::from_secs(1);
const EMSGSIZE: i32 = 90;

pub(super) struct Syslog {
    format: Format,
    origin: Origin,
    way: Way,
}

enum Way {
    Udp { address: String, socket: Option<UdpSocket> },
    Stream(Box<Target>),
}

/// `scheme://host:port`.
pub(crate) fn parts(address: &str) -> Result<(&str, &str, &str), String> {
    let (scheme, rest) = address.split_once("://").ok_or("must be udp://, tcp:// or tls:// HOST:PORT")?;
    let (host, port) = rest.rsplit_once(':').ok_or("the port is missing")?;
    if !matches!(scheme, "udp" | "tcp" | "tls") {
        return Err(format!("{scheme}:// is none of udp://, tcp://, tls://"));
    }
    if port.parse::<u16>().is_err() || host.is_empty() {
        return Err(format!("{rest} is no HOST:PORT"));
    }
    Ok((scheme, host.trim_start_matches('[').trim_end_matches(']'), rest))
}

impl Syslog {
    pub(super) fn open(config: &SinkConfig, origin: &Origin) -> Result<Syslog, SinkError> {
        let address = config.address.as_deref().unwrap_or_default();
        let (scheme, host, rest) = parts(address).map_err(SinkError::Refused)?;
        let way = match scheme {
            "udp" => Way::Udp { address: rest.to_owned(), socket: None },
            "tls" => {
                let client =
                    tls::client(&config.tls).map_err(|error| SinkError::Refused(error.to_string()))?;
                let name = ServerName::try_from(host.to_owned());
                let name = name.map_err(|error| SinkError::Refused(format!("{host}: {error}")))?;
                Way::Stream(Box::new(Target { address: rest.to_owned(), tls: Some((client, name)) }))
            }
            _ => Way::Stream(Box::new(Target { address: rest.to_owned(), tls: None })),
        };
        Ok(Syslog { format: config.format, origin: origin.clone(), way })
    }
}

impl Sink for Syslog {
    fn deliver(&mut self, events: &[Event]) -> Result<Vec<Rejected>, SinkError> {
        let (format, origin) = (self.format, &self.origin);
        let message = |event: &Event| encode::syslog_message(&event.alert, format, origin);
        match &mut self.way {
            Way::Stream(target) => {
                let frames: Vec<u8> =
                    events.iter().flat_map(|event| encode::syslog_frame(&message(event))).collect();
                target.send(&frames).map(|()| Vec::new())
            }
            Way::Udp { address, socket } => {
                let doing = format!("cannot send to {address}");
                if socket.is_none() {
                    *socket = Some(datagrams(address).map_err(|error| SinkError::io(&doing, &error))?);
                }
                let mut rejected = Vec::new();
                let Some(socket) = socket else { return Ok(rejected) };
                for event in events {
                    match socket.send(message(event).as_bytes()) {
                        Ok(_) => {}
                        Err(error) if error.raw_os_error() == Some(EMSGSIZE) => {
                            rejected.push(Rejected::of(event, "it is longer than a datagram may be"));
                        }
                        Err(error) => return Err(SinkError::io(&doing, &error)),
                    }
                }
                Ok(rejected)
            }
        }
    }
    fn pace(&self) -> Duration {
        match self.way {
            Way::Udp { .. } => Duration::ZERO,
            Way::Stream(_) => PACE,
        }
    }
}

fn datagrams(address: &str) -> std::io::Result<UdpSocket> {
    let to = address.to_socket_addrs()?.next();
    let to = to.ok_or_else(|| std::io::Error::other("the name has no address"))?;
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    Ok(socket)
}
