//! `lynceus firewall flows`: what the rules tell of, while it happens.
//!
//! The kernel sends it to one listener at a time, and no more than fifty a second of a rule. What it writes with `--json` is what
//! `lynceus policy plan --flows` reads.

use crate::cli::FlowsArgs;
use crate::output::{Outcome, Output, escape};
use anyhow::{Context, Result, bail};
use lynceus_firewall::flows::{self, FlowEvent, Told};
use lynceus_firewall::nft::LOG_GROUP;
use lynceus_firewall::ports;
use lynceus_firewall::state::Store;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Room for what comes in a burst.
const BUFFER_BYTES: usize = 4 << 20;

#[derive(Serialize)]
struct FlowRow {
    #[serde(flatten)]
    event: FlowEvent,
    /// The VM's port.
    port: String,
}

/// Prints flows until it is ended, or until so many were printed.
pub(super) fn run(output: Output, args: &FlowsArgs) -> Result<Outcome> {
    let socket = listen()?;
    let mut left = args.count.unwrap_or(u64::MAX);
    let store = Store::open(&args.state.state)?;
    while left > 0 {
        let (datagram, _) = match socket.recv_from_full() {
            Ok(received) => received,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                eprintln!("lynceus: more flows than could be read: some are lost");
                continue;
            }
            Err(error) => return Err(error).context("the flow log"),
        };
        let flows = flows::parse(&datagram).into_iter().filter_map(|told| match told {
            Told::Flow(event) => Some(*event),
            Told::Answer(_) => None,
        });
        for event in flows.take(usize::try_from(left).unwrap_or(usize::MAX)) {
            left -= 1;
            tell(output, row(event, &store))?;
        }
    }
    Ok(Outcome::Clean)
}

/// A socket to which the kernel sends what the rules tell of.
fn listen() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER).context("netlink")?;
    socket.bind(&SocketAddr::new(0, 0)).context("netlink")?;
    socket.set_rx_buf_sz(BUFFER_BYTES).context("netlink")?;
    let group = u16::try_from(LOG_GROUP).context("the group's number")?;
    for request in flows::requests(group) {
        socket.send_to(&request, &SocketAddr::new(0, 0), 0).context("netlink")?;
        let (answer, _) = socket.recv_from_full().context("netlink")?;
        match flows::parse(&answer).first() {
            Some(Told::Answer(0)) => {}
            // The kernel says EPERM also to a second listener (`nfulnl_recv_config`).
            Some(Told::Answer(error)) if [libc::EBUSY, libc::EPERM].contains(&-error) => {
                bail!("another program reads the flow log already, or this one may not (CAP_NET_ADMIN)")
            }
            Some(Told::Answer(error)) => bail!("the flow log: {}", std::io::Error::from_raw_os_error(-error)),
            other => bail!("the flow log: the kernel answered {other:?}"),
        }
    }
    Ok(socket)
}

/// An event with its port's name, and the VM behind it where the rule could not tell.
fn row(mut event: FlowEvent, store: &Store) -> FlowRow {
    let devices = ports::devices(Path::new("/sys/class/net")).unwrap_or_default();
    let names: BTreeMap<u32, String> =
        devices.into_iter().map(|device| (device.index, device.name)).collect();
    let bound = store.enforced().ok().flatten().map(|state| state.ports).unwrap_or_default();
    let (came, goes) = event.interfaces;
    let name = |index: Option<u32>| index.and_then(|index| names.get(&index)).cloned();
    let near = if event.direction == "in" { name(goes).or(name(came)) } else { name(came).or(name(goes)) };
    let port = near.unwrap_or_default();
    if event.vm.is_empty() {
        event.vm = bound.get(&port).map(|binding| binding.vm.clone()).unwrap_or_default();
    }
    FlowRow { event, port }
}

fn tell(output: Output, row: FlowRow) -> Result<()> {
    if output.is_json() {
        return output.json_line(&row);
    }
    let FlowRow { event, port } = &row;
    let text = |address: Option<IpAddr>| address.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(event.time_ms));
    let time = at.map_or_else(String::new, |at| humantime::format_rfc3339_millis(at).to_string());
    println!(
        "{time:<24}  {:<10}  {:<16}  {:<3}  {} → {}  {}  {}  {}",
        escape(&event.verdict),
        escape(&event.vm),
        escape(&event.direction),
        text(event.source),
        text(event.destination),
        event.service.as_deref().unwrap_or("-"),
        escape(port),
        escape(&event.rule)
    );
    Ok(())
}
