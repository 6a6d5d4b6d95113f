//! Sockets to which the kernel sends what rules tell of (NFLOG), and packets that wait (NFQUEUE).
//!
//! *Trusts*: the kernel. What it sends is taken apart by `lynceus_firewall::flows` and `queue`.

use anyhow::{Context, Result, bail};
use lynceus_firewall::flows::{self, FlowEvent, Told};
use lynceus_firewall::queue::{self, Waiting};
use lynceus_policy::Verdict;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// Room for what comes in a burst.
const BUFFER_BYTES: usize = 4 << 20;

/// The only listener of a group.
pub(crate) struct Listener(Socket);

impl Listener {
    /// Listens to a group; `at_once` to every packet by itself, which costs more and takes no second.
    pub(crate) fn of(group: u32, at_once: bool) -> Result<Listener> {
        let socket = bound()?;
        let group = u16::try_from(group).context("the group's number")?;
        let requests = flows::requests(group).into_iter().chain(at_once.then(|| flows::at_once(group)));
        let answer = |told| match told {
            Told::Answer(error) => Some(error),
            Told::Flow(_) => None,
        };
        ask(&socket, requests, |datagram| flows::parse(datagram).into_iter().find_map(answer))?;
        Ok(Listener(socket))
    }

    /// Waits for the next packets; none where some were lost.
    pub(crate) fn next(&self) -> Result<Option<Vec<FlowEvent>>> {
        let (datagram, _) = match self.0.recv_from_full() {
            Ok(received) => received,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
            Err(error) => return Err(error).context("the flow log"),
        };
        let flow = |told| match told {
            Told::Flow(event) => Some(*event),
            Told::Answer(_) => None,
        };
        Ok(Some(flows::parse(&datagram).into_iter().filter_map(flow).collect()))
    }
}

/// The only reader of the queues.
pub(crate) struct Queues(Socket);

impl Queues {
    /// Reads all queues from now on.
    pub(crate) fn open() -> Result<Queues> {
        let socket = bound()?;
        let answer = |told| match told {
            queue::Told::Answer(error) => Some(error),
            queue::Told::Waits(..) => None,
        };
        ask(&socket, queue::requests(), |datagram| queue::parse(datagram).into_iter().find_map(answer))?;
        Ok(Queues(socket))
    }

    /// Waits for the next packets.
    pub(crate) fn next(&self) -> Result<Vec<(Waiting, FlowEvent)>> {
        let (datagram, _) = self.0.recv_from_full().context("the queue")?;
        let packet = |told| match told {
            queue::Told::Waits(waiting, event) => Some((waiting, *event)),
            queue::Told::Answer(_) => None,
        };
        Ok(queue::parse(&datagram).into_iter().filter_map(packet).collect())
    }

    /// Says what becomes of one.
    pub(crate) fn answer(&self, waiting: &Waiting, generation: u32, verdict: Verdict) -> Result<()> {
        let message = queue::verdict(waiting, generation, verdict);
        self.0.send_to(&message, &SocketAddr::new(0, 0), 0).context("the queue")?;
        Ok(())
    }
}

fn bound() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER).context("netlink")?;
    socket.bind(&SocketAddr::new(0, 0)).context("netlink")?;
    socket.set_rx_buf_sz(BUFFER_BYTES).context("netlink")?;
    Ok(socket)
}

/// Sends requests, each when the one before was granted.
fn ask(
    socket: &Socket,
    requests: impl IntoIterator<Item = Vec<u8>>,
    answer: impl Fn(&[u8]) -> Option<i32>,
) -> Result<()> {
    for request in requests {
        socket.send_to(&request, &SocketAddr::new(0, 0), 0).context("netlink")?;
        let (datagram, _) = socket.recv_from_full().context("netlink")?;
        granted(answer(&datagram))?;
    }
    Ok(())
}

fn granted(answer: Option<i32>) -> Result<()> {
    match answer {
        Some(0) => Ok(()),
        // The kernel says EPERM also to a second listener (`nfulnl_recv_config`).
        Some(error) if [libc::EBUSY, libc::EPERM].contains(&-error) => {
            bail!("another program reads the flow log already, or this one may not (CAP_NET_ADMIN)")
        }
        Some(error) => bail!("the flow log: {}", std::io::Error::from_raw_os_error(-error)),
        None => bail!("the flow log: the kernel's answer cannot be understood"),
    }
}
