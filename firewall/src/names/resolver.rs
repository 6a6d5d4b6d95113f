//! This host's way to a name's addresses: its `hosts` file, then the servers of its `resolv.conf`.
//!
//! *Does*: asks one server after the other, within a deadline; over UDP, and over TCP what does not fit. *Trusts*: both files. *Never*: asks
//! through nsswitch or a search list (a policy's names are whole), or believes a datagram that is not from the server and an answer to the
//! question: each is asked from a port and with a number of its own, made by chance.

use super::message::{self, Answer, Reply};
use super::{LOOK_UP, Question, address};
use lynceus_policy::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};
use thiserror::Error;

/// More of either file is not read.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// `MAXNS` of resolv.h: more servers are not asked.
const MAX_SERVERS: usize = 3;
/// How long each server has for an answer, and how often all are asked.
const TRY: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// How long what stands in the `hosts` file is taken for true.
const FILE_TTL_S: u32 = 60;

/// Why a name could not be looked up.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Failure {
    /// No server answered in time.
    #[error("no server answers")]
    NoAnswer,
    /// A server says that it cannot.
    #[error("the server {0} cannot tell (code {1})")]
    Refused(IpAddr, u16),
    /// A server's answer cannot be read.
    #[error("what the server {0} answers is damaged")]
    Damaged(IpAddr),
    /// A socket failed.
    #[error("the server {0}: {1}")]
    Io(IpAddr, ErrorKind),
}

/// What a look-up takes.
#[derive(Clone, Debug)]
pub struct Resolver {
    hosts: BTreeMap<String, BTreeSet<IpAddr>>,
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// As the host's files have it now. One that cannot be read is empty.
    pub fn of_host() -> Resolver {
        let servers = servers(&read(Path::new("/etc/resolv.conf")));
        Resolver::new(&read(Path::new("/etc/hosts")), servers)
    }

    /// With a `hosts` file's text and these servers.
    pub fn new(hosts: &str, servers: Vec<SocketAddr>) -> Resolver {
        let mut known = BTreeMap::<String, BTreeSet<IpAddr>>::new();
        for line in hosts.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
            words.for_each(|name| {
                known.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default().insert(address);
            });
        }
        Resolver { hosts: known, servers }
    }

    /// Looks a name's addresses up.
    pub fn look_up(&self, question: &Question) -> Result<Answer, Failure> {
        if let Some(known) = self.hosts.get(&question.name) {
            let of_family = known.iter().filter(|address| Family::of(**address) == question.family);
            let (out, addresses): (BTreeSet<IpAddr>, _) =
                of_family.copied().partition(|known| address::is_nobodys(*known));
            return Ok(Answer { addresses, ttl_s: FILE_TTL_S, left_out: out.len() });
        }
        let deadline = Instant::now() + LOOK_UP;
        let mut failure = Failure::NoAnswer;
        for server in std::iter::repeat_n(&self.servers, ROUNDS).flatten() {
            let until = deadline.min(Instant::now() + TRY);
            match ask(*server, question, until) {
                Ok(answer) => return Ok(answer),
                // What a server says tells more than that another one is silent.
                Err(Failure::NoAnswer) => {}
                Err(other) => failure = other,
            }
        }
        Err(failure)
    }
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
    read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The servers that a resolv.conf(5) names; without any it is this host.
fn servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        Some(SocketAddr::new(address.parse().ok()?, 53))
    };
    let named: Vec<SocketAddr> = text.lines().filter_map(server).take(MAX_SERVERS).collect();
    if named.is_empty() { vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53)] } else { named }
}

fn ask(server: SocketAddr, question: &Question, until: Instant) -> Result<Answer, Failure> {
    let io = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::NoAnswer,
        kind => Failure::Io(server.ip(), kind),
    };
    let mut id = [0; 2];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut id)).map_err(io)?;
    let id = u16::from_ne_bytes(id);
    let reply = match by_udp(server, id, question, until).map_err(io)? {
        Ok(Reply::Cut) => by_tcp(server, id, question, until).map_err(io)?,
        reply => reply,
    };
    match reply {
        Ok(Reply::Answer(answer)) => Ok(answer),
        Ok(Reply::Refused(code)) => Err(Failure::Refused(server.ip(), code)),
        // Over TCP nothing needs to be cut.
        Ok(Reply::Cut) | Err(_) => Err(Failure::Damaged(server.ip())),
    }
}

type Replied = std::io::Result<Result<Reply, message::Wrong>>;

/// What is left of the time; that it is over is an error.
fn left(until: Instant) -> std::io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn by_udp(server: SocketAddr, id: u16, question: &Question, until: Instant) -> Replied {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // The kernel picks the port, and drops what others send to it once it is connected.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(&message::question(id, question))?;
    let mut buffer = [0; 4096];
    loop {
        socket.set_read_timeout(Some(left(until)?))?;
        let len = socket.recv(&mut buffer)?;
        match message::read(id, question, buffer.get(..len).unwrap_or_default()) {
            Err(message::Wrong::NotOurs) => {}
            reply => return Ok(reply),
        }
    }
}

fn by_tcp(server: SocketAddr, id: u16, question: &Question, until: Instant) -> Replied {
    let mut stream = TcpStream::connect_timeout(&server, left(until)?)?;
    stream.set_write_timeout(Some(left(until)?))?;
    let asked = message::question(id, question);
    let len = u16::try_from(asked.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&len.to_be_bytes()[..], &asked].concat())?;
    let mut len = [0; 2];
    read_until(&mut stream, &mut len, until)?;
    let mut reply = vec![0; u16::from_be_bytes(len).into()];
    read_until(&mut stream, &mut reply, until)?;
    Ok(message::read(id, question, &reply))
}

/// Fills a buffer: who sends a byte a second has no more time than others.
fn read_until(stream: &mut TcpStream, mut buffer: &mut [u8], until: Instant) -> std::io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            len => buffer = buffer.get_mut(len..).unwrap_or_default(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn v4(name: &str) -> Question {
        Question { name: name.to_owned(), family: Family::V4 }
    }

    #[test]
    fn files_are_read() {
        let servers =
            servers("# x\nnameserver 192.0.2.1\nsearch a b\noptions ndots:2\nnameserver ::1\nnameserver x\n");
        assert_eq!(servers, ["192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert_eq!(super::servers(""), ["127.0.0.1:53".parse().unwrap()]);
        let resolver =
            Resolver::new("192.0.2.7 Db.corp db # the base\n127.0.0.1 db\n::1 localhost\nx y\n", Vec::new());
        let found = resolver.look_up(&v4("db")).unwrap();
        assert_eq!(found.addresses, ["192.0.2.7".parse().unwrap()].into());
        assert_eq!(found.left_out, 1);
        assert_eq!(resolver.look_up(&v4("db.corp")).unwrap().addresses.len(), 1);
        assert_eq!(resolver.look_up(&v4("elsewhere")), Err(Failure::NoAnswer));
    }

    /// A server for one question by UDP and, where the answer is cut, one by TCP: `make` gets the question and whether it came by TCP.
    fn server(make: fn(&[u8], bool) -> Vec<Vec<u8>>) -> SocketAddr {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (len, from) = udp.recv_from(&mut buffer).unwrap();
            make(&buffer[..len], false).iter().for_each(|reply| drop(udp.send_to(reply, from)));
            let (mut stream, _) = tcp.accept().unwrap();
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut asked = vec![0; u16::from_be_bytes(len).into()];
            stream.read_exact(&mut asked).unwrap();
            for reply in make(&asked, true) {
                stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&reply).unwrap();
            }
        });
        address
    }

    /// The question with other flags, and an address as its answer.
    fn answer(asked: &[u8], flags: u16) -> Vec<u8> {
        let mut reply = asked.to_vec();
        reply[2..4].copy_from_slice(&flags.to_be_bytes());
        reply[7] = 1;
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
        reply
    }

    #[test]
    fn what_is_forged_is_passed_over_and_what_is_cut_comes_by_tcp() {
        let at = server(|asked, by_tcp| {
            let mut forged = answer(asked, 0x8180);
            forged[0] ^= 1;
            let cut = answer(asked, 0x8380);
            if by_tcp { vec![answer(asked, 0x8180)] } else { vec![forged, vec![1], cut] }
        });
        let found = Resolver::new("", vec![at]).look_up(&v4("a.example")).unwrap();
        assert_eq!((found.addresses, found.ttl_s), (["192.0.2.1".parse().unwrap()].into(), 9));
    }

    #[test]
    fn the_next_server_is_asked_where_one_cannot_tell() {
        let bad = server(|asked, _| vec![answer(asked, 0x8182)]);
        let good = server(|asked, _| vec![answer(asked, 0x8180)]);
        let found = Resolver::new("", vec![bad, good]).look_up(&v4("a.example")).unwrap();
        assert_eq!(found.addresses.len(), 1);
        let bad = server(|asked, _| vec![answer(asked, 0x8182)]);
        let gone = "127.0.0.1:1".parse().unwrap();
        let failed = Resolver::new("", vec![gone, bad]).look_up(&v4("a.example")).unwrap_err();
        // The second time nobody listens there.
        assert!(matches!(failed, Failure::Refused(..) | Failure::Io(..)), "{failed:?}");
    }
}
