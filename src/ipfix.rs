//! Flows to a collector, as IPFIX over UDP.
//!
//! *Does*: sends. *Never*: waits for a collector, or stops because there is none: UDP has no answer, and what is not heard is lost.

use crate::commands::flows::FlowRow;
use anyhow::{Context, Result};
use lynceus_firewall::ipfix::Exporter;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::SystemTime;

/// The way to one collector.
pub(crate) struct Collector {
    socket: UdpSocket,
    exporter: Exporter,
}

impl Collector {
    /// Looks the name up, once.
    pub(crate) fn named(name: &str) -> Result<Collector> {
        let mut all = name.to_socket_addrs().with_context(|| format!("the collector {name}"))?;
        Collector::at(all.next().with_context(|| format!("the collector {name} has no address"))?)
    }

    pub(crate) fn at(address: SocketAddr) -> Result<Collector> {
        let any: SocketAddr =
            if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).context("a socket for the collector")?;
        socket.connect(address).with_context(|| format!("the collector {address}"))?;
        socket.set_nonblocking(true).context("a socket for the collector")?;
        Ok(Collector { socket, exporter: Exporter::default() })
    }

    /// Sends flows, each with the port that it was seen at.
    pub(crate) fn send(&mut self, rows: &[FlowRow]) {
        let flows: Vec<_> = rows.iter().map(|row| (&row.event, &*row.port)).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_s = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        for message in self.exporter.messages(&flows, now_s) {
            // A refusal is that of an earlier datagram, and says nothing about this one.
            if self.socket.send(&message).is_err() {
                let _ = self.socket.send(&message);
            }
        }
    }
}
