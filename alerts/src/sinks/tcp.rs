//! TCP and TLS connections that end in a confirmation.
//!
//! *Does*: syslog has no acknowledgements of its own, so each batch has a connection of its own: it is sent, our end is closed, and the receiver
//! is waited for to close its end, which it does when it has read everything up to ours.
//! *Trusts*: that a receiver which closes in answer to the end has read what came before it. What it then does with it is its own affair.
//! *Never*: takes a receiver that closed on its own for one that has read: the end of its stream counts only after its kernel has
//! acknowledged the end of ours, and no reset came.

use super::{SinkError, tls};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);
/// A receiver that answers more than this is no syslog server.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// How long the kernel of a receiver may take to acknowledge the end of our stream after it has closed its own.
const LAST_ACK: Duration = Duration::from_secs(5);

/// Where to, and how.
pub(super) struct Target {
    pub(super) address: String,
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Target {
    /// Connects, sends, and returns when the receiver has read all of it.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), SinkError> {
        let tcp = self.connect()?;
        let sending = format!("cannot send to {}", self.address);
        match &self.tls {
            None => plain(tcp, bytes).map_err(|error| SinkError::io(&sending, &error)),
            Some((config, name)) => {
                let session = ClientConnection::new(config.clone(), name.clone())
                    .map_err(|error| tls::rejected(&sending, &error))?;
                encrypted(session, tcp, bytes).map_err(|error| tls::failed(&sending, &error))
            }
        }
    }
    fn connect(&self) -> Result<TcpStream, SinkError> {
        let doing = format!("cannot connect to {}", self.address);
        let addresses = self.address.to_socket_addrs().map_err(|error| SinkError::io(&doing, &error))?;
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_PATIENCE).and_then(prepared) {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = error,
            }
        }
        Err(SinkError::io(&doing, &last))
    }
}

fn prepared(tcp: TcpStream) -> io::Result<TcpStream> {
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

fn plain(mut tcp: TcpStream, bytes: &[u8]) -> io::Result<()> {
    tcp.write_all(bytes)?;
    tcp.shutdown(Shutdown::Write)?;
    until_end(&mut tcp)?;
    confirmed(&tcp)
}

fn encrypted(session: ClientConnection, tcp: TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut stream = StreamOwned::new(session, tcp);
    let sent = stream.write_all(bytes).and_then(|()| {
        stream.conn.send_close_notify();
        stream.flush()?;
        stream.sock.shutdown(Shutdown::Write)
    });
    // A receiver that refuses our certificate says why and resets: what it said is worth more than "broken pipe".
    match (sent, until_end(&mut stream)) {
        (_, Err(error)) => Err(error),
        (Err(error), Ok(())) => Err(error),
        (Ok(()), Ok(())) => confirmed(&stream.sock),
    }
}

/// Reads until the receiver closes. Not all say so in TLS before they close the connection below it.
fn until_end(stream: &mut impl Read) -> io::Result<()> {
    let mut buffer = [0; 1024];
    let mut answered = 0;
    let until = Instant::now() + PATIENCE;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) if answered + len <= MAX_ANSWER_BYTES && Instant::now() < until => answered += len,
            Ok(_) => return Err(io::Error::other("it answers instead of closing the connection")),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let text = format!("it did not close the connection within {} s", PATIENCE.as_secs());
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits until the kernel has nothing of this connection left to send, and sees that it did not end in a reset.
///
/// A receiver that closed before it had read makes its kernel answer what still comes with a reset, and never acknowledge our end.
fn confirmed(tcp: &TcpStream) -> io::Result<()> {
    let until = Instant::now() + LAST_ACK;
    while waits_for_acknowledgement(tcp)? {
        if Instant::now() > until {
            return Err(io::Error::new(ErrorKind::TimedOut, "it closed the connection before it had read"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    match tcp.take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Whether the kernel still lists the socket as a connection: when both ends are closed and acknowledged, only its shadow is left, which
/// has no inode. Layout: `tcp4_seq_show` in `net/ipv4/tcp_ipv4.c`, `tcp6_seq_show` in `net/ipv6/tcp_ipv6.c`, Linux 6.1.
fn waits_for_acknowledgement(tcp: &TcpStream) -> io::Result<bool> {
    let link = std::fs::read_link(format!("/proc/thread-self/fd/{}", tcp.as_raw_fd()))?;
    let link = link.to_string_lossy();
    let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
    let inode = inode.ok_or_else(|| io::Error::other("/proc does not tell which socket this is"))?;
    let table = if tcp.local_addr()?.is_ipv4() { "tcp" } else { "tcp6" };
    let table = std::fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
    Ok(table.lines().skip(1).any(|line| line.split_ascii_whitespace().nth(9) == Some(inode)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A receiver, and a target for it.
    fn receiver() -> (TcpListener, Target) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, Target { address, tls: None })
    }

    #[test]
    fn a_receiver_that_reads_to_the_end_confirms() {
        let (listener, target) = receiver();
        let reads = thread::spawn(move || {
            let mut all = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
            all
        });
        target.send(&[7; 300_000]).unwrap();
        assert_eq!(reads.join().unwrap(), vec![7; 300_000]);
    }

    #[test]
    fn a_receiver_that_closes_before_it_has_read_does_not_confirm() {
        for sent in [10, 3_000_000] {
            let (listener, target) = receiver();
            let closes = thread::spawn(move || drop(listener.accept().unwrap()));
            target.send(&vec![7; sent]).unwrap_err();
            closes.join().unwrap();
        }
    }

    /// What was sent after a receiver had closed looks, for a moment, as if it had been read: its end has come already.
    #[test]
    fn a_receiver_that_had_closed_before_anything_was_sent_does_not_confirm() {
        let (listener, target) = receiver();
        let tcp = target.connect().unwrap();
        drop(listener.accept().unwrap());
        let mut end = tcp.try_clone().unwrap();
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
        plain(tcp, b"lost").unwrap_err();
    }
}
