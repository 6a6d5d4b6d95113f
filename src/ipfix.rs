//! Flows to a collector, as IPFIX over UDP.
//!
//! *Does*: sums packets to flows, and sends those that are over. *Never*: waits for a collector, or stops because there is none: UDP has no answer, and
//! what is not heard is lost.

use crate::commands::flows::FlowRow;
use anyhow::{Context, Result};
use lynceus_firewall::ipfix::Exporter;
use lynceus_firewall::sums::{Sum, Sums};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often it is looked for flows that are over.
const TICK: Duration = Duration::from_secs(1);

/// The way to one collector.
#[derive(Clone)]
pub(crate) struct Collector(Arc<Mutex<Stream>>);

struct Stream {
    socket: UdpSocket,
    exporter: Exporter,
    sums: Sums,
    started: Instant,
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
        let (exporter, sums, started) = (Exporter::default(), Sums::default(), Instant::now());
        let stream = Arc::new(Mutex::new(Stream { socket, exporter, sums, started }));
        let of_thread = Arc::downgrade(&stream);
        let work = move || {
            while let Some(stream) = of_thread.upgrade() {
                locked(&stream).send_due();
                drop(stream);
                std::thread::sleep(TICK);
            }
        };
        std::thread::Builder::new().name("ipfix".to_owned()).spawn(work).context("no thread for flows")?;
        Ok(Collector(stream))
    }

    /// Adds packets, each with the port that it was seen at, to their flows.
    pub(crate) fn add(&self, rows: &[FlowRow]) {
        let mut stream = locked(&self.0);
        let now = stream.now();
        let gone: Vec<Sum> =
            rows.iter().filter_map(|row| stream.sums.add(&row.event, &row.port, now)).collect();
        stream.send(&gone);
    }

    /// Sends the flows that are not over as well.
    pub(crate) fn finish(&self) {
        let mut stream = locked(&self.0);
        let all = stream.sums.all();
        stream.send(&all);
    }
}

fn locked(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn send_due(&mut self) {
        let due = self.sums.due(self.now());
        self.send(&due);
    }

    fn send(&mut self, flows: &[Sum]) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_s = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        for message in self.exporter.messages(flows, now_s) {
            // A refusal is that of an earlier datagram, and says nothing about this one.
            if self.socket.send(&message).is_err() {
                let _ = self.socket.send(&message);
            }
        }
    }
}
