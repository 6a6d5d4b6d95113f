//! `lynceus firewall owners`: which process is behind each connection of a VM, as this host tracks it.
//!
//! *Trusts*: the host's own connection tracking. *Never*: calls a flow a process's because of its address alone: its socket must be in the
//! VM's memory, and the process must hold it.

use super::alerts;
use crate::attach::Prepared;
use crate::cli::OwnersArgs;
use crate::output::{Column, Outcome, Output, Row};
use anyhow::{Context, Result, bail};
use lynceus_firewall::conntrack::{self, Tracked, Way};
use lynceus_firewall::state;
use lynceus_introspect::linux::{Connection, Protocol};
use lynceus_policy::Lane;
use lynceus_scanners::flows::{self, OwnedFlow, SeenFlow};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// States of TCP in which the socket is gone, or about to be.
const CLOSING: [&str; 5] = ["FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"];

#[derive(Serialize)]
struct OwnerRow {
    proto: &'static str,
    local: String,
    remote: String,
    accepted: bool,
    sent: u64,
    pid: Option<u32>,
    comm: Option<String>,
}

impl Row for OwnerRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("PROTO"),
        Column::left("LOCAL"),
        Column::left("REMOTE"),
        Column::right("SENT"),
        Column::right("PID"),
        Column::left("COMM"),
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.proto.to_owned(),
            self.local.clone(),
            self.remote.clone(),
            self.sent.to_string(),
            self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            self.comm.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

/// Lists the flows with their processes. Exit code 1 where one has no socket.
pub(super) fn run(output: Output, args: &OwnersArgs) -> Result<Outcome> {
    let state = state::peek(&args.state.state)?;
    let Some(vm) = state.as_ref().and_then(|state| state.vms.get(&args.vm)) else {
        bail!("no VM {:?} is guarded here", args.vm);
    };
    let addresses: BTreeSet<IpAddr> = vm.policy.vm.addresses().collect();
    let counts = std::fs::read_to_string(conntrack::COUNTS).context(conntrack::COUNTS)?;
    if counts.trim() != "1" {
        bail!(
            "the kernel does not count packets, and who has sent is not to be known: sysctl net.netfilter.nf_conntrack_acct=1"
        );
    }
    seen(&addresses)?;
    let guest = Prepared::open(&args.vm, &args.look)?.attach()?;
    let joined = flows::join(guest.linux(), &guest.options, || seen(&addresses).unwrap_or_default());
    let rows: Vec<OwnerRow> = joined.flows.iter().map(row).collect();
    output.rows(&rows)?;
    let closing = format!("{} flows", rows.len());
    alerts::tell(output, &args.vm, joined.findings, &closing)
}

/// The VM's open flows.
fn seen(addresses: &BTreeSet<IpAddr>) -> Result<Vec<SeenFlow>> {
    let listing = std::fs::read_to_string(conntrack::LIST).context(conntrack::LIST)?;
    let of_vm = |tracked: &Tracked| -> Option<SeenFlow> {
        let protocol = if tracked.lane == Lane::Tcp { Protocol::Tcp } else { Protocol::Udp };
        let flow = |way: &Way, is_accepted| SeenFlow {
            connection: Connection { protocol, local: way.source, remote: way.destination, is_accepted },
            sent: way.packets.unwrap_or(0),
        };
        let is_own = |end: &SocketAddr| addresses.contains(&end.ip());
        match (&tracked.original, &tracked.reply) {
            (out, _) if is_own(&out.source) => Some(flow(out, false)),
            (_, into) if is_own(&into.source) => Some(flow(into, true)),
            _ => None,
        }
    };
    let all = conntrack::parse(&listing);
    Ok(all.iter().filter(|tracked| !CLOSING.contains(&tracked.state.as_str())).filter_map(of_vm).collect())
}

fn row(owned: &OwnedFlow) -> OwnerRow {
    let Connection { protocol, local, remote, is_accepted } = owned.flow.connection;
    let owner = owned.owners.first();
    OwnerRow {
        proto: protocol.name(),
        local: local.to_string(),
        remote: remote.to_string(),
        accepted: is_accepted,
        sent: owned.flow.sent,
        pid: owner.map(|owner| owner.pid),
        comm: owner.map(|owner| owner.comm.clone()),
    }
}
