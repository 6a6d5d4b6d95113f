//! Packet sockets: programs that see what comes in below the firewall and below any port.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{each, is_from_anywhere, places, subject};
use crate::{Detector, Finding, Limits, Severity};
use lynceus_introspect::linux::{LinuxGuest, Mm, Protocol, Socket, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Partial};

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "packet_socket",
    technique: "T1205.002",
    about: "programs that wait for packets of their own choice below the firewall, and have no business to",
    limits: Limits {
        sees: "a packet or raw IP socket in a process whose program was deleted, never had a file, or lies where any user may write; a packet socket with a BPF filter in any program that is not known to need one: how backdoors without a port wait for their packet",
        evaded_by: "a program called like a DHCP client or a sniffer in a system folder; XDP and traffic-control programs, which lynceus bpf lists; a netfilter hook, which packet_hook sees",
        false_positives: "programs that capture packets and are not on the list, such as scripts with scapy",
    },
    next: "lynceus files --pid and maps --pid; the filter says which packet it waits for; the flows at the VM's interface",
    run: packet_sockets,
};

/// Programs that are known to take packets by a filter: DHCP, capture, intrusion detection, link-layer protocols.
const KNOWN: &[&str] = &[
    "NetworkManager",
    "arp-scan",
    "arping",
    "arpwatch",
    "avahi-autoipd",
    "busybox",
    "charon",
    "connmand",
    "dhclient",
    "dhcpcd",
    "dhcpd",
    "dhcrelay",
    "dnsmasq",
    "dumpcap",
    "hostapd",
    "isisd",
    "iwd",
    "kea-dhcp4",
    "keepalived",
    "lldpad",
    "lldpd",
    "ndppd",
    "nmap",
    "ntopng",
    "ovs-vswitchd",
    "pppd",
    "pppoe",
    "ptp4l",
    "snort",
    "suricata",
    "systemd-networkd",
    "systemd-resolved",
    "tcpdump",
    "teamd",
    "tshark",
    "udhcpc",
    "udhcpd",
    "vrrpd",
    "wicked",
    "wickedd-dhcp4",
    "wireshark",
    "wpa_supplicant",
    "zeek",
];

/// Processes that have such sockets.
pub fn packet_sockets(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    each(guest, options, look)
}

fn look(view: &View<'_>, task: &Task, mm: &Mm) -> Partial<Finding> {
    let mut found = Partial::default();
    let sockets = view.sockets_held(task);
    let mut sockets = found.absorb(sockets);
    sockets.retain(|socket| matches!(socket.protocol, Protocol::Packet | Protocol::Raw));
    // Of several the one that says most.
    let Some(socket) = sockets.iter().max_by_key(|socket| (socket.protocol, socket.filter)) else {
        return found;
    };
    let judged = judge(view, task, mm, socket);
    let judged = found.ok("executable", mm.exe_file, judged).flatten();
    found.items.extend(judged);
    found
}

fn judge(view: &View<'_>, task: &Task, mm: &Mm, socket: &Socket) -> Result<Option<Finding>, GapReason> {
    let path = view.exe(mm)?.unwrap_or_default();
    let is_filtered = socket.protocol == Protocol::Packet && socket.filter.is_some();
    let severity = match (is_from_anywhere(view, mm, &path)?, is_filtered && !is_known(&path)) {
        (true, _) => Severity::High,
        (false, true) => Severity::Medium,
        (false, false) => return Ok(None),
    };
    let filter = match socket.filter {
        Some(instructions) => format!("by a filter of {instructions} BPF instructions"),
        None => "all of a kind".to_owned(),
    };
    let summary = format!(
        "process {} ({}) takes packets before the firewall sees them, {filter}, and is no program known to need it: {path}",
        task.pid, task.comm
    );
    let finding = DETECTOR.finding(severity, summary, subject(task));
    // Without a filter it listens to what others are told.
    let technique = if socket.filter.is_some() { "T1205.002" } else { "T1040" };
    Ok(Some(Finding { technique: technique.into(), ..finding }))
}

/// A program that is known to take packets, from where packages are.
fn is_known(path: &str) -> bool {
    places::is_installed(path) && KNOWN.contains(&places::file_name(path))
}

#[cfg(test)]
mod tests {
    use super::is_known;

    #[test]
    fn a_known_name_counts_only_where_packages_are() {
        for path in ["/usr/sbin/dhclient", "/sbin/udhcpc", "/usr/lib/systemd/systemd-networkd"] {
            assert!(is_known(path), "{path}");
        }
        for path in ["/tmp/dhclient", "/home/user/tcpdump", "/usr/bin/dhclient2", "/dhclient", ""] {
            assert!(!is_known(path), "{path}");
        }
    }
}
