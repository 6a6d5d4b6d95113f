//! Packets from one VM to another through the host's rules, and back.

use super::site::Site;
use super::{median, tell};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Round trips of one connection, and connections of one round trip.
const TRIPS: usize = 20_000;
const CONNECTIONS: u16 = 2000;
/// Rounds of them; the median counts.
const ROUNDS: usize = 5;

/// A VM that asks, and one that answers.
pub(crate) struct Ways<'a> {
    site: &'a Site,
}

impl<'a> Ways<'a> {
    pub(crate) fn new(site: &'a Site) -> Ways<'a> {
        let server = site.within_of("1", || UdpSocket::bind("10.1.0.2:2000").expect("a socket"));
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((len, from)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..len], from);
            }
        });
        Ways { site }
    }

    /// The time of a round trip on a connection that is known, and of one that is new.
    pub(crate) fn measure(&self, name: &str) {
        let (known, new) = self.site.within_of("0", || {
            let one = socket(20_000);
            trip(&one);
            let known = || {
                let started = Instant::now();
                (0..TRIPS).for_each(|_| trip(&one));
                started.elapsed() / TRIPS as u32
            };
            let known = median((0..ROUNDS).map(|_| known()).collect());
            let new = |round: usize| {
                let first = 21_000 + CONNECTIONS * round as u16;
                let sockets: Vec<UdpSocket> = (first..first + CONNECTIONS).map(socket).collect();
                let started = Instant::now();
                sockets.iter().for_each(trip);
                started.elapsed() / u32::from(CONNECTIONS)
            };
            (known, median((0..ROUNDS).map(new).collect()))
        });
        tell(&format!("round trip, known connection: {name}"), known);
        tell(&format!("round trip, new connection: {name}"), new);
    }
}

fn socket(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(("10.0.0.1", port)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    socket.connect("10.1.0.2:2000").expect("a way");
    socket
}

fn trip(socket: &UdpSocket) {
    socket.send(b"?").expect("it is sent");
    socket.recv(&mut [0; 8]).expect("it is answered");
}
