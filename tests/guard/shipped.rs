//! Truth tables of the policies that are shipped, by real packets: for every VM each kind of packet that its rules distinguish.
//!
//! One namespace per VM of the policy, and one that stands for the rest of the world and answers from every address.

use crate::world::{run, script};
use anyhow::{Context, Result, ensure};
use lynceus_firewall::cells::{Cell, Grid};
use lynceus_firewall::host::{Host, Port, State, Transit, forward};
use lynceus_firewall::{Flow, Moment};
use lynceus_policy::{Direction, Family, IpRange, Lane, Policy, Timestamp, Verdict, VmPolicy};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// The namespaces of one policy. Gone with it.
struct Site {
    prefix: String,
    /// The namespaces by number; 0 is the world's, the VMs' follow in order. And the host's port of each VM.
    ports: Vec<String>,
    servers: Vec<Child>,
}

impl Site {
    fn ns(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn new(label: &str, vms: &[&VmPolicy]) -> Result<Site> {
        let prefix = format!("lyn{}{label}", std::process::id());
        let mut site = Site { prefix, ports: Vec::new(), servers: Vec::new() };
        let (h, o) = (site.ns("h"), site.ns("0"));
        run(&format!(
            "ip netns add {h}; ip netns add {o}
             ip -n {h} link set lo up; ip -n {o} link set lo up
             ip netns exec {h} sh -c 'cd /proc/sys/net; echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding
               echo 0 > ipv4/icmp_ratemask; echo > ipv6/icmp/ratemask'
             ip -n {h} link add eth0 type veth peer name eth0 netns {o}
             ip -n {h} link set eth0 up; ip -n {o} link set eth0 up
             ip -n {h} addr add 198.18.0.1/30 dev eth0; ip -n {o} addr add 198.18.0.2/30 dev eth0
             ip -n {h} addr add 2001:2::1/64 dev eth0 nodad; ip -n {o} addr add 2001:2::2/64 dev eth0 nodad
             ip -n {h} route add default via 198.18.0.2; ip -n {h} -6 route add default via 2001:2::2
             ip -n {o} route add 198.18.0.1 dev eth0 table local; ip -n {o} -6 route add 2001:2::1 dev eth0 table local
             ip -n {o} route add local default dev lo table local; ip -n {o} -6 route add local default dev lo table local"
        ))?;
        for (number, vm) in vms.iter().enumerate() {
            site.add(number + 1, vm)?;
        }
        Ok(site)
    }

    fn add(&mut self, number: usize, policy: &VmPolicy) -> Result<()> {
        let (h, o, ns) = (self.ns("h"), self.ns("0"), self.ns(&number.to_string()));
        let card = policy.vm.interfaces.first().context("no card")?;
        let port = card.port.clone().unwrap_or_else(|| format!("vnet{number}"));
        let mut host_mac = card.mac;
        // As libvirt does it; the card is found by that.
        host_mac.0[0] = 0xfe;
        run(&format!(
            "ip netns add {ns}; ip -n {ns} link set lo up
             ip -n {h} link add {port} address {host_mac} type veth peer name eth0 netns {ns} address {}
             ip -n {h} link set {port} up; ip -n {ns} link set eth0 up
             ip -n {h} addr add 169.254.1.1/32 dev {port}; ip -n {h} addr add fe80::1/64 dev {port} nodad
             ip -n {ns} route add 169.254.1.1 dev eth0",
            card.mac
        ))?;
        for address in &card.addresses {
            let (family, length, via, world) = match Family::of(*address) {
                Family::V4 => ("-4", 32, "169.254.1.1", "198.18.0.1"),
                Family::V6 => ("-6", 128, "fe80::1", "2001:2::1"),
            };
            run(&format!(
                "ip -n {ns} addr add {address}/{length} dev eth0 nodad 2>/dev/null || ip -n {ns} addr add {address}/{length} dev eth0
                 ip -n {ns} {family} route add default via {via} dev eth0 onlink src {address}
                 ip -n {h} {family} route add {address}/{length} dev {port}
                 ip -n {o} {family} route add {address}/{length} via {world} dev eth0 table local"
            ))?;
        }
        self.ports.push(port);
        Ok(())
    }

    fn python(&self, ns: &str, args: &[String]) -> Result<Child> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns(ns), "python3"]).arg(script()).args(args);
        Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
    }

    fn serve(&mut self, ports: &BTreeSet<u16>) -> Result<()> {
        let args: Vec<String> =
            ["serve".to_owned()].into_iter().chain(ports.iter().map(u16::to_string)).collect();
        for number in 0..=self.ports.len() {
            let mut child = self.python(&number.to_string(), &args)?;
            let mut line = String::new();
            BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
            self.servers.push(child);
            ensure!(line == "ready\n", "the server says {line:?}");
        }
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        for name in ["h".to_owned()].into_iter().chain((0..=self.ports.len() + 1).map(|n| n.to_string())) {
            let _ = Command::new("ip").args(["netns", "del", &self.ns(&name)]).output();
        }
    }
}

/// An address of the range that packets can be sent to and from.
fn usable(range: &IpRange) -> Option<IpAddr> {
    let is_usable = |address: &IpAddr| match address {
        IpAddr::V4(a) => {
            let [first, ..] = a.octets();
            (1..224).contains(&first) && first != 127 && !a.is_link_local()
        }
        IpAddr::V6(a) => {
            let is_odd =
                a.is_multicast() || a.is_loopback() || a.is_unspecified() || a.segments()[..6] == [0; 6];
            !is_odd && (a.segments()[0] & 0xffc0) != 0xfe80 && a.to_ipv4_mapped().is_none()
        }
    };
    let inside =
        "2001:db8:ffff::77".parse::<Ipv6Addr>().map(IpAddr::from).ok().filter(|a| range.contains(*a));
    let known = "203.0.113.77".parse().ok().filter(|a| range.contains(*a));
    [Some(range.first()), Some(range.last()), inside, known].into_iter().flatten().find(is_usable)
}

/// A number that can be tried: any port, or ping.
fn tried(cell: &Cell) -> Option<(&'static str, u16)> {
    let ping = |number| cell.numbers.contains(cell.numbers.lane, number).then_some(("icmp", number));
    match cell.numbers.lane {
        Lane::Tcp => Some(("tcp", cell.numbers.first.max(1))),
        Lane::Udp => Some(("udp", cell.numbers.first.max(1))),
        Lane::Icmp4 => ping(8 << 8),
        Lane::Icmp6 => ping(128 << 8),
        Lane::Sctp | Lane::Other => None,
    }
}

struct Try {
    from: usize,
    to: usize,
    flow: Flow,
    proto: &'static str,
}

/// Every cell of every VM, both directions; one between two VMs is tried from the one that connects.
fn tries(vms: &[&VmPolicy]) -> Vec<Try> {
    let owner = |address: IpAddr| vms.iter().position(|vm| vm.vm.addresses().any(|own| own == address));
    let mut tries = Vec::new();
    for (number, vm) in vms.iter().enumerate() {
        for direction in Direction::ALL {
            let grid = Grid::of(vm.chain(direction).rules().map(AsRef::as_ref), &Default::default());
            for cell in grid.cells() {
                let own = vm.vm.addresses().find(|own| Family::of(*own) == cell.peers.family());
                let (Some(own), Some(peer), Some((proto, port))) = (own, usable(&cell.peers), tried(&cell))
                else {
                    continue;
                };
                let other = owner(peer).map_or(0, |other| other + 1);
                if own == peer {
                    continue;
                }
                let (from, to, source, destination) = match direction {
                    Direction::Out => (number + 1, other, own, peer),
                    Direction::In => (other, number + 1, peer, own),
                };
                tries.push(Try {
                    from,
                    to,
                    flow: Flow { source, destination, lane: cell.numbers.lane, number: port },
                    proto,
                });
            }
        }
    }
    tries
}

fn truth_table(label: &str) -> Result<usize> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/policies").join(label);
    let policy = Policy::load(&folder)?;
    let vms: Vec<&VmPolicy> = policy.vms.values().collect();
    let tries = tries(&vms);
    let mut site = Site::new(&label[..1], &vms)?;
    let ports = tries.iter().filter(|one| one.proto != "icmp").map(|one| one.flow.number).collect();
    site.serve(&ports)?;
    let state = tempfile::tempdir()?;
    let output = Command::new("ip")
        .args(["netns", "exec", &site.ns("h"), env!("CARGO_BIN_EXE_lynceus"), "policy", "apply", "--policy"])
        .arg(&folder)
        .env("LYNCEUS_STATE", state.path())
        .output()?;
    ensure!(output.status.success(), "{label}: {}", String::from_utf8_lossy(&output.stderr));
    let bound = site.ports.iter().zip(&vms).map(|(port, vm)| {
        (port.clone(), Port { policy: Arc::new((*vm).clone()), interface: vm.vm.interfaces[0].clone() })
    });
    let host = Host { ports: bound.collect::<BTreeMap<_, _>>(), ..Host::default() };
    let name = |number: usize| number.checked_sub(1).map_or("eth0", |number| site.ports[number].as_str());
    for number in 0..=vms.len() {
        let mine: Vec<&Try> = tries.iter().filter(|one| one.from == number).collect();
        let probes: Vec<Value> = mine
            .iter()
            .map(|one| {
                let Flow { source, destination, number, .. } = one.flow;
                json!({ "proto": one.proto, "source": source, "target": destination, "port": number })
            })
            .collect();
        let try_all = |probes: &[Value], seconds: &str| -> Result<Vec<String>> {
            let mut child = site.python(&number.to_string(), &["try".to_owned(), seconds.to_owned()])?;
            child.stdin.take().context("no input")?.write_all(&serde_json::to_vec(probes)?)?;
            crate::world::results(child)
        };
        let seen = try_all(&probes, "1.0")?;
        ensure!(seen.len() == mine.len());
        for ((one, probe), mut seen) in mine.iter().zip(&probes).zip(seen) {
            let packet = Transit {
                from: Some(name(one.from)),
                to: Some(name(one.to)),
                flow: one.flow,
                is_reply: false,
                state: State::New,
            };
            let verdict = forward(&host, &packet, &Moment::at(Timestamp::now()));
            // Among a thousand at once, on a machine with other work, one that may pass may be late. None that may not, passes.
            if verdict == Verdict::Allow && seen != "open" {
                seen = try_all(std::slice::from_ref(probe), "8.0")?.swap_remove(0);
            }
            ensure!(
                (verdict == Verdict::Allow) == (seen == "open"),
                "{label}: {}: {verdict:?}, and the kernel: {seen}",
                one.flow
            );
        }
    }
    Ok(tries.len())
}

#[test]
fn packets_of_the_desktops_truth_table() -> Result<()> {
    println!("{} kinds of connections", truth_table("desktop")?);
    Ok(())
}

#[test]
fn packets_of_the_sites_truth_table() -> Result<()> {
    println!("{} kinds of connections", truth_table("site")?);
    Ok(())
}
