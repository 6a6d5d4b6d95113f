//! Sockets that come and go, and some that nobody holds for a while.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::sys;

/// Short connections, which leave their ends waiting behind.
pub(super) fn connections() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    for _ in 0..8 {
        let mut client = TcpStream::connect(at)?;
        let (mut server, _) = listener.accept()?;
        client.write_all(b"ping")?;
        server.read_exact(&mut [0; 4])?;
    }
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    udp.send_to(b"x", udp.local_addr()?)?;
    Ok(())
}

/// A listening socket on its way from one process to another: between the two nobody has it open.
pub(super) fn in_flight() -> io::Result<()> {
    let (ours, theirs) = UnixDatagram::pair()?;
    {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        sys::send_descriptor(&ours, listener.as_raw_fd())?;
    }
    std::thread::sleep(Duration::from_millis(1500));
    drop(theirs);
    Ok(())
}
