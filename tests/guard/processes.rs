//! Rules about processes, with a real guest behind a tap: one program is let out and another is not, on the same port.

use crate::enforcer::{Enforcer, soon};
use crate::world::{Probe, World, results};
use anyhow::{Context, Result, ensure};
use lynceus_lab::guest::Card;
use lynceus_lab::luggage::Luggage;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use serde_json::Value;
use std::fs;

const MAC: &str = "52:54:00:00:00:08";
pub(crate) const OUTSIDE: &str = "192.0.2.1";

/// A guest behind `tap8`, 10.0.8.2, with two programs that differ in nothing but their path.
pub(crate) struct Desk {
    pub(crate) guest: Guest,
    pub(crate) name: String,
}

impl Desk {
    pub(crate) fn boot(world: &World, kernel: KernelVersion) -> Result<Desk> {
        Desk::boot_with(world, kernel, None)
    }

    /// The same with something in its luggage.
    pub(crate) fn boot_with(world: &World, kernel: KernelVersion, luggage: Option<Luggage>) -> Result<Desk> {
        let host = world.ns("h");
        crate::world::run(&format!(
            "ip netns exec {host} ip tuntap add tap8 mode tap
             ip -n {host} link set tap8 up
             ip -n {host} addr add 10.0.8.1/24 dev tap8
             ip -n {host} addr add fd00:8::1/64 dev tap8 nodad
             ip netns exec {host} sysctl -qw net.netfilter.nf_conntrack_acct=1"
        ))?;
        let name = world.ns("desk");
        let card = Card { tap: "tap8".to_owned(), namespace: host, mac: MAC.to_owned() };
        let spec =
            Spec { name: name.clone(), card: Some(card), luggage, ..Spec::everyday(kernel, Paging::Four) };
        let guest = Guest::boot(&spec)?;
        guest.run(
            "ip link set eth0 up && ip addr add 10.0.8.2/24 dev eth0 && ip route add 192.0.2.1 via 10.0.8.1 && \
             ip -6 addr add fd00:8::2/64 dev eth0 && ip -6 route add 2001:db8::1 via fd00:8::1 && \
             mkdir -p /opt/good /opt/bad && cp /bin/busybox /opt/good/ && cp /bin/busybox /opt/bad/",
        )?;
        Ok(Desk { guest, name })
    }

    pub(crate) fn inventory(&self) -> String {
        format!(
            "[vm.'{}']\n[[vm.'{}'.interface]]\nport='tap8'\nmac='{MAC}'\naddresses=['10.0.8.2', 'fd00:8::2']\n",
            self.name, self.name
        )
    }

    /// Whether a program gets an answer.
    pub(crate) fn reaches(&self, program: &str, target: &str, port: u16) -> Result<bool> {
        let said = self.guest.run(&format!(
            "echo hello | /opt/{program}/busybox nc -w 6 {target} {port} && echo REACHED || true"
        ))?;
        Ok(said.contains("REACHED"))
    }
}

/// Who enforces reads no guest. A process that may do nothing else does, and when it dies the next one answers in its place.
fn a_worker_is_locked_down_and_replaced(desk: &Desk, enforcer: &Enforcer) -> Result<()> {
    let ram = fs::canonicalize(desk.guest.ram_file())?.display().to_string();
    let of = |pid: &str, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let own = enforcer.pid().to_string();
    ensure!(!of(&own, "maps").contains(&ram), "the enforcer has mapped the guest's memory");
    let all = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut workers = all.filter(|pid| of(pid, "status").contains(&format!("\nPPid:\t{own}\n")));
    let worker = workers.find(|pid| of(pid, "maps").contains(&ram)).context("nobody reads the guest")?;
    let status = of(&worker, "status");
    for layer in ["\nSeccomp:\t2\n", "\nNoNewPrivs:\t1\n", "\nCapEff:\t0000000000000000\n"] {
        ensure!(status.contains(layer), "{layer:?} is not in {status}");
    }
    crate::world::run(&format!("kill -KILL {worker}"))?;
    // The first packet finds nobody, and the next one has to attach first.
    soon("another one takes over", || desk.reaches("good", OUTSIDE, 1000))
}

/// The next flow for a service that the enforcer tells of, of a rule about a process.
fn flow(enforcer: &mut Enforcer, service: &str) -> Result<Value> {
    Ok(serde_json::from_str(&enforcer.until(&format!("\"service\":\"{service}\""))?)?)
}

/// What `firewall owners` says of the guest's flows.
fn owners(world: &World, desk: &Desk) -> Result<(Option<i32>, String)> {
    let output = world.lynceus(&["--json", "firewall", "owners", &desk.name])?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

pub(crate) fn behind(flow: &Value) -> Result<(&str, &str)> {
    let process = flow["processes"].get(0).with_context(|| format!("no process: {flow}"))?;
    Ok((flow["verdict"].as_str().unwrap_or_default(), process["exe"].as_str().unwrap_or_default()))
}

/// Prints a line that `cargo xtask bench --guard` reads: name, a tab, nanoseconds from the kernel's word about a packet to the verdict on it.
#[test]
#[ignore = "a measurement: cargo xtask bench --guard makes it, with a program that is built for it"]
fn how_long_a_verdict_takes_that_waits_for_a_process() -> Result<()> {
    // So many at once, so often: each is dropped once, and waits a second for its next packet.
    let (at_once, rounds) = (10, 11);
    let world = World::new()?;
    let desk = Desk::boot(&world, KernelVersion::V6_12)?;
    world.apply(&format!(
        "{}[policy.desk]\nvms=['{}']\n[[policy.desk.rule]]\ndirection='out'\naction='allow'\nservices=['tcp/1000']\n\
         process={{exe='/opt/good/busybox',uid=0}}\n",
        desk.inventory(),
        desk.name
    ))?;
    let mut enforcer = Enforcer::start_with(&world, &["--json"])?;
    enforcer.until("looked into:")?;
    let mut took = Vec::new();
    for _ in 0..rounds {
        desk.guest.run(&format!(
            "for i in $(seq {at_once}); do echo hello | /opt/good/busybox nc -w 9 {OUTSIDE} 1000 >/dev/null & done; wait"
        ))?;
        for _ in 0..at_once {
            let told = flow(&mut enforcer, "tcp/1000")?;
            ensure!(behind(&told)? == ("allow", "/opt/good/busybox"), "{told}");
            took.push(told["looked_us"].as_u64().context("no time")?);
        }
    }
    took.sort_unstable();
    println!("verdict on a connection of a known process\t{}", took[took.len() / 2] * 1000);
    Ok(())
}

#[test]
fn packets_of_one_program_pass_and_of_another_do_not() -> Result<()> {
    let world = World::new()?;
    let desk = Desk::boot(&world, KernelVersion::V6_1)?;
    let policy = "[policy.desk]\nvms=['desk']\ndefault={in='deny',out='deny'}\n\
        [[policy.desk.rule]]\nname='good'\ndirection='out'\naction='allow'\nservices=['tcp/1000']\n\
        process={exe='/opt/good/busybox',uid=0}\n\
        [[policy.desk.rule]]\nname='no-names'\ndirection='out'\naction='reject'\nservices=['udp/53']\n\
        process={exe='/opt/bad/busybox'}\n\
        [[policy.desk.rule]]\nname='served'\ndirection='in'\naction='allow'\nservices=['tcp/2000-2001']\n\
        process={exe='/opt/good/busybox'}\n\
        [[policy.desk.rule]]\nname='any'\ndirection='out'\naction='allow'\nservices=['tcp/1001', 'udp/6666']\n";
    let policy = policy.replace("'desk'", &format!("'{}'", desk.name));
    world.apply(&format!("{}{policy}", desk.inventory()))?;
    // Nobody answers: what is asked about is dropped, what is not passes.
    ensure!(!desk.reaches("good", OUTSIDE, 1000)?, "a connection passes that nobody has answered for");
    ensure!(desk.reaches("bad", OUTSIDE, 1001)?, "a rule about any process does not let out");

    let mut enforcer = Enforcer::start_with(&world, &["--json"])?;
    enforcer.until("looked into:")?;
    let is_let_out = desk.reaches("good", OUTSIDE, 1000)?;
    let told = flow(&mut enforcer, "tcp/1000")?;
    ensure!(is_let_out, "the program that is meant is not let out: {told}");
    ensure!(behind(&told)? == ("allow", "/opt/good/busybox"), "{told}");
    ensure!(told["rule"] == "desk/good" && told["service"] == "tcp/1000" && told["port"] == "tap8", "{told}");
    ensure!(!desk.reaches("bad", OUTSIDE, 1000)?, "another program is let out");
    let told = flow(&mut enforcer, "tcp/1000")?;
    ensure!(behind(&told)? == ("deny", "/opt/bad/busybox") && told["rule"] == "default", "{told}");
    ensure!(told["processes"][0]["comm"] == "busybox" && told["processes"][0]["uid"] == 0, "{told}");
    // UDP: the resolver's socket has said to whom; nobody answers there.
    desk.guest.run("/opt/bad/busybox nslookup a.test 192.0.2.1 || true")?;
    let told = flow(&mut enforcer, "udp/53")?;
    ensure!(behind(&told)? == ("reject", "/opt/bad/busybox"), "{told}");

    a_worker_is_locked_down_and_replaced(&desk, &enforcer)?;

    // Who listens decides about what comes in.
    for (program, port) in [("good", 2000), ("bad", 2001)] {
        desk.guest.run(&format!("/opt/{program}/busybox nc -ll -p {port} -e /bin/cat >/dev/null 2>&1 &"))?;
    }
    let into = |port| Probe { proto: "tcp", source: OUTSIDE, target: "10.0.8.2", port };
    let results = results(world.start_probes("o", &[into(2000), into(2001)], "5")?)?;
    ensure!(results == ["open", "timeout"], "{results:?}");
    let told = flow(&mut enforcer, "tcp/2000")?;
    ensure!(behind(&told)? == ("allow", "/opt/good/busybox"), "{told}");
    let told = flow(&mut enforcer, "tcp/2001")?;
    ensure!(behind(&told)? == ("deny", "/opt/bad/busybox"), "{told}");

    let owned = owners(&world, &desk)?;
    ensure!(owned.0 == Some(0), "flows without a socket: {owned:?}");
    // The kernel sends by itself: a flow, and no socket.
    desk.guest.run("test ! -e /modules/configfs.ko || insmod /modules/configfs.ko; insmod /modules/netconsole.ko netconsole=6665@10.0.8.2/eth0,6666@10.0.8.1/$(ip neigh show dev eth0 | grep ^10.0.8.1 | grep -o '..:..:..:..:..:..')")?;
    desk.guest.run("(for i in 1 2 3 4 5 6 7 8 9; do echo '<1>by hand' > /dev/kmsg; usleep 300000; done) >/dev/null 2>&1 &")?;
    let (code, said) = owners(&world, &desk)?;
    ensure!(
        code == Some(1) && said.contains("flow_without_socket") && said.contains("10.0.8.1:6666"),
        "{said}"
    );
    ensure!(said.contains("raw or packet sockets: ") && said.contains("(lab-net)"), "{said}");

    // A hidden process has no name that a rule could allow.
    desk.guest.run("/opt/good/busybox sh -c 'sleep 4; exec /opt/good/busybox nc -w 8 192.0.2.1 1000' </dev/null >/dev/null 2>&1 & echo $! > /tmp/hidden")?;
    let pid = desk.guest.run("cat /tmp/hidden")?;
    desk.guest.hide(&[("hide_pid", pid.trim())])?;
    let told = flow(&mut enforcer, "tcp/1000")?;
    ensure!(told["who"] == "unknown" && told["verdict"] == "deny", "{told}");
    Ok(())
}
