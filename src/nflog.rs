//! Sockets to which the kernel sends what rules tell of (NFLOG).
//!
//! *Trusts*: the kernel. What it sends is taken apart by `lynceus_firewall::flows`.

use anyhow::{Context, Result, bail};
use lynceus_firewall::flows::{self, FlowEvent, Told};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// Room for what comes in a burst.
const BUFFER_BYTES: usize = 4 << 20;

/// The only listener of a group.
pub(crate) struct Listener(Socket);

impl Listener {
    /// Listens to a group; `at_once` to every packet by itself, which costs more and takes no second.
    pub(crate) fn of(group: u32, at_once: bool) -> Result<Listener> {
        let mut socket = Socket::new(NETLINK_NETFILTER).context("netlink")?;
        socket.bind(&SocketAddr::new(0, 0)).context("netlink")?;
        socket.set_rx_buf_sz(BUFFER_BYTES).context("netlink")?;
        let group = u16::try_from(group).context("the group's number")?;
        let requests = flows::requests(group).into_iter().chain(at_once.then(|| flows::at_once(group)));
        for request in requests {
            socket.send_to(&request, &SocketAddr::new(0, 0), 0).context("netlink")?;
            let (answer, _) = socket.recv_from_full().context("netlink")?;
            granted(flows::parse(&answer).first())?;
        }
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

fn granted(answer: Option<&Told>) -> Result<()> {
    match answer {
        Some(Told::Answer(0)) => Ok(()),
        // The kernel says EPERM also to a second listener (`nfulnl_recv_config`).
        Some(Told::Answer(error)) if [libc::EBUSY, libc::EPERM].contains(&-error) => {
            bail!("another program reads the flow log already, or this one may not (CAP_NET_ADMIN)")
        }
        Some(Told::Answer(error)) => bail!("the flow log: {}", std::io::Error::from_raw_os_error(-error)),
        other => bail!("the flow log: the kernel answered {other:?}"),
    }
}
