//! The site: its policy, and a namespace with a device for each VM, two of which lead to namespaces of their own.

use lynceus_firewall::nft::Path;
use lynceus_firewall::state::{Binding, State, Vm};
use lynceus_policy::{Folder, Policy, Timestamp};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// What the rules are about, of which every fifth denies.
#[derive(Clone, Copy)]
pub(crate) enum Rules {
    /// TCP, each with ports of its own: a datagram is none of theirs.
    Tcp,
    /// UDP, each with ports of its own.
    Udp,
    /// UDP, each with some of the ports and peers of those before.
    Overlapping,
}

impl Rules {
    /// The services and peers of a rule.
    fn about(self, rule: usize, port: usize) -> String {
        let (net, part) = (16 + rule % 16, rule / 16 % 256);
        let (lane, ports, peers) = match self {
            Rules::Tcp => ("tcp", port.to_string(), format!("172.{net}.{part}.0/24")),
            Rules::Udp => ("udp", port.to_string(), format!("172.{net}.{part}.0/24")),
            Rules::Overlapping if rule.is_multiple_of(3) => {
                ("udp", port.to_string(), "172.16.0.0/12".to_owned())
            }
            Rules::Overlapping => ("udp", format!("{}-{port}", port - 40), format!("172.{net}.0.0/16")),
        };
        format!("services=['{lane}/{ports}']\npeer={{addresses=['{peers}']}}\n")
    }
}

/// VMs with rules of their own; one of them may have changed. VM 0 may send everything, and VM 1 answers at port 2000, which is its last rule.
pub(crate) fn policy(vms: usize, rules: usize, of: Rules, changed: bool) -> Policy {
    let mut text = String::new();
    for vm in 0..vms {
        let (high, low) = (vm / 250, vm % 250 + 1);
        let _ = write!(
            text,
            "[vm.v{vm}]\n[[vm.v{vm}.interface]]\nport='vif{vm}.0'\nmac='52:54:00:00:{high:02x}:{low:02x}'\naddresses=['10.{}.{high}.{low}']\n[policy.p{vm}]\nvms=['v{vm}']\ndefault={{out='allow'}}\n",
            vm.min(2)
        );
        for rule in 0..rules {
            let is_changed = changed && vm == vms / 2 && rule == 7;
            let port = 10_000 + rule + usize::from(is_changed) * rules;
            let action = if rule % 5 == 4 { "deny" } else { "allow" };
            let _ = write!(
                text,
                "[[policy.p{vm}.rule]]\ndirection='in'\naction='{action}'\n{}",
                of.about(rule, port)
            );
        }
        let _ =
            write!(text, "[[policy.p{vm}.rule]]\ndirection='in'\naction='allow'\nservices=['udp/2000']\n");
    }
    let folder = Folder::parse(vec![("p.toml".to_owned(), text)]).expect("a policy");
    Policy::of(&folder).expect("a policy")
}

/// What is enforced of it.
pub(crate) fn state(policy: &Policy) -> State {
    let mut state = State { at: Timestamp(1_780_272_000), ..State::default() };
    for (name, of) in &policy.vms {
        let vm = Vm { isolation: Arc::new(policy.isolated(of)), policy: Arc::new(of.clone()) };
        state.vms.insert(name.clone(), vm);
        for (number, port) in of.vm.interfaces.iter().filter_map(|card| card.port.as_ref()).enumerate() {
            let (vm, path) = (name.clone(), Some(Path::Routed));
            let binding = Binding { vm, interface: number, path, index: 1, addresses: Vec::new() };
            state.ports.insert(port.clone(), binding);
        }
    }
    state
}

/// The host's namespace, and two VMs'. All of it is gone with it.
pub(crate) struct Site(String);

impl Site {
    pub(crate) fn new(vms: usize) -> Site {
        let site = Site(format!("gb{}", std::process::id()));
        let host = site.name("h");
        run(&format!("ip netns add {host}; ip -n {host} link set lo up"));
        for vm in 0..2 {
            let ns = site.name(&vm.to_string());
            run(&format!(
                "ip netns add {ns}
                 ip -n {host} link add vif{vm}.0 type veth peer name eth0 netns {ns} address 52:54:00:00:00:{:02x}
                 ip -n {host} addr add 10.{vm}.0.254/24 dev vif{vm}.0; ip -n {host} link set vif{vm}.0 up
                 ip -n {ns} addr add 10.{vm}.0.{}/24 dev eth0; ip -n {ns} link set eth0 up; ip -n {ns} link set lo up
                 ip -n {ns} route add default via 10.{vm}.0.254",
                vm + 1,
                vm + 1
            ));
        }
        run(&format!("ip netns exec {host} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'"));
        let mut ip = Command::new("ip")
            .args(["-n", &host, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("ip is there");
        let mut input = ip.stdin.take().expect("a pipe");
        (2..vms).for_each(|vm| writeln!(input, "tuntap add vif{vm}.0 mode tap").expect("ip listens"));
        drop(input);
        assert!(ip.wait().expect("ip ends").success());
        site
    }

    fn name(&self, of: &str) -> String {
        format!("{}{of}", self.0)
    }

    /// Does something in the host's namespace.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.within_of("h", work)
    }

    /// Does something in a namespace, on a thread of its own.
    pub(crate) fn within_of<T: Send>(&self, of: &str, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name(of))).expect("the namespace is there");
        std::thread::scope(|scope| {
            let inside = move || {
                let to = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(file.as_fd(), to).expect("namespaces need root");
                work()
            };
            scope.spawn(inside).join().expect("it ends well")
        })
    }
}

fn run(command: &str) {
    assert!(Command::new("sh").args(["-ec", command]).status().expect("a shell").success(), "{command}");
}

impl Drop for Site {
    fn drop(&mut self) {
        for of in ["h", "0", "1"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(of)]).status();
        }
    }
}
