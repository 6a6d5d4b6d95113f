//! A host with three routed VMs and somebody outside, each in a network namespace of its own.

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The ports on which everybody answers, TCP and UDP.
pub(crate) const PORTS: [&str; 4] = ["1000", "1001", "1002", "1003"];

/// The namespace's name, its interface's name in the host, its MAC, its addresses.
type Member = (&'static str, &'static str, &'static str, [&'static str; 2]);

/// Who there is: the namespace's name, its interface's name in the host, its MAC, its addresses.
pub(crate) const MEMBERS: [Member; 4] = [
    ("a", "vif1.0", "52:54:00:00:00:01", ["10.0.1.2", "fd00:1::2"]),
    ("b", "vif2.0", "52:54:00:00:00:02", ["10.0.2.2", "fd00:2::2"]),
    ("c", "tap3", "52:54:00:00:00:03", ["10.0.3.2", "fd00:3::2"]),
    ("o", "eth0", "52:54:00:00:00:09", ["192.0.2.1", "2001:db8::1"]),
];

/// The host's addresses on the way to each.
pub(crate) const GATEWAYS: [[&str; 2]; 4] = [
    ["10.0.1.1", "fd00:1::1"],
    ["10.0.2.1", "fd00:2::1"],
    ["10.0.3.1", "fd00:3::1"],
    ["192.0.2.254", "2001:db8::254"],
];

/// Namespaces, what answers in them, and a folder for policy and state. All of it is gone with it.
pub(crate) struct World {
    prefix: String,
    pub(crate) folder: tempfile::TempDir,
    servers: Vec<Child>,
}

/// One connection to try.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Probe {
    pub(crate) proto: &'static str,
    pub(crate) source: &'static str,
    pub(crate) target: &'static str,
    pub(crate) port: u16,
}

/// A connection that is held open.
pub(crate) struct Held {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

pub(crate) fn run(command: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", command]).output()?;
    ensure!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

pub(crate) fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guard/probe.py")
}

/// What the tests need of the machine.
fn ensure_machine() -> Result<()> {
    for (program, package) in [("nft", "nftables"), ("ip", "iproute2"), ("python3", "python3-minimal")] {
        let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?;
        ensure!(
            there.status.success(),
            "{program} is missing: apt-get install {package}, or run `cargo xtask test`"
        );
    }
    Ok(())
}

impl World {
    /// Makes it; needs root.
    pub(crate) fn new() -> Result<World> {
        World::with(World::add)
    }

    /// The same four on one bridge, which has no address: they reach each other directly.
    pub(crate) fn bridged() -> Result<World> {
        World::with(World::plug)
    }

    fn with(add: fn(&World, &Member, [&str; 2]) -> Result<()>) -> Result<World> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ensure_machine()?;
        let prefix = format!("lyn{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut world = World { prefix, folder: tempfile::tempdir()?, servers: Vec::new() };
        std::fs::create_dir(world.policy())?;
        let host = world.ns("h");
        run(&format!("ip netns add {host}; ip -n {host} link set lo up")).context("namespaces need root")?;
        // No kind of ICMP message is limited, by its receiver or over all: a rejection that is not sent looks like a packet that was dropped.
        let knobs = "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratemask=0 \
                     net.ipv6.icmp.ratemask= net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0";
        for knob in knobs.split_whitespace() {
            let (name, value) = knob.split_once('=').context("a knob")?;
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            run(&format!("ip netns exec {host} sh -c 'echo {value} > {path}'"))?;
        }
        for (member, gateways) in MEMBERS.iter().zip(GATEWAYS) {
            add(&world, member, gateways)?;
        }
        for name in ["a", "b", "c", "o", "h"] {
            let server = world.python(name, &[&["serve"], &PORTS[..]].concat())?;
            world.servers.push(server);
        }
        Ok(world)
    }

    fn plug(&self, (name, port, mac, [v4, v6]): &Member, _: [&str; 2]) -> Result<()> {
        let (host, ns) = (self.ns("h"), self.ns(name));
        run(&format!(
            "ip netns add {ns}
             ip -n {host} link show br0 >/dev/null 2>&1 || ip -n {host} link add br0 type bridge
             ip -n {host} link set br0 up
             ip -n {host} link add {port} type veth peer name eth0 netns {ns} address {mac}
             ip -n {host} link set {port} master br0
             ip -n {host} link set {port} up
             ip -n {ns} link set lo up
             ip -n {ns} link set eth0 up
             ip -n {ns} addr add {v4}/32 dev eth0
             ip -n {ns} addr add {v6}/128 dev eth0 nodad
             ip -n {ns} route add default dev eth0 src {v4}
             ip -n {ns} -6 route add default dev eth0 src {v6}"
        ))
    }

    fn add(&self, member: &Member, [gate4, gate6]: [&str; 2]) -> Result<()> {
        let (name, port, mac, [v4, v6]) = member;
        let (host, ns) = (self.ns("h"), self.ns(name));
        run(&format!(
            "ip netns add {ns}
             ip -n {host} link add {port} type veth peer name eth0 netns {ns} address {mac}
             ip -n {ns} link set lo up
             ip -n {ns} link set eth0 up
             ip -n {host} link set {port} up
             ip -n {host} addr add {gate4}/24 dev {port}
             ip -n {host} addr add {gate6}/64 dev {port} nodad
             ip -n {ns} addr add {v4}/24 dev eth0
             ip -n {ns} addr add {v6}/64 dev eth0 nodad
             ip -n {ns} route add default via {gate4}
             ip -n {ns} -6 route add default via {gate6}"
        ))
    }

    /// The full name of a namespace: `a`, `b`, `c`, `o` outside, `h` the host.
    pub(crate) fn ns(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The policy folder.
    pub(crate) fn policy(&self) -> PathBuf {
        self.folder.path().join("policy")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Runs `lynceus` on the host.
    pub(crate) fn lynceus(&self, args: &[&str]) -> Result<Output> {
        Ok(self.command(args).output()?)
    }

    /// `lynceus` on the host, to be started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        // A benchmark has another one built.
        let program = std::env::var("LYNCEUS_BENCH_PROGRAM");
        command
            .args(["netns", "exec", &self.ns("h")])
            .arg(program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_lynceus")))
            .args(args)
            .env("LYNCEUS_POLICY", self.policy())
            .env("LYNCEUS_STATE", self.state());
        command
    }

    /// Runs `lynceus` on the host and holds it to its exit code; what it said.
    pub(crate) fn expect(&self, args: &[&str], code: i32) -> Result<String> {
        let output = self.lynceus(args)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(
            output.status.code() == Some(code),
            "lynceus {args:?}: {}, not {code}:\n{said}",
            output.status
        );
        Ok(said)
    }

    /// Writes the inventory and this policy, and applies it.
    pub(crate) fn apply(&self, policy: &str) -> Result<String> {
        self.write(policy)?;
        self.expect(&["policy", "apply"], 0)
    }

    /// Writes the inventory and this policy.
    pub(crate) fn write(&self, policy: &str) -> Result<()> {
        std::fs::write(self.policy().join("inventory.toml"), super::random::INVENTORY)?;
        Ok(std::fs::write(self.policy().join("policy.toml"), policy)?)
    }

    /// Runs a command on the host.
    pub(crate) fn host(&self, command: &str) -> Result<String> {
        let output =
            Command::new("ip").args(["netns", "exec", &self.ns("h"), "sh", "-ec", command]).output()?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn python(&self, name: &str, args: &[&str]) -> Result<Child> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.ns(name), "python3"])
            .arg(script())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if args.first() == Some(&"serve") {
            let mut line = String::new();
            BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
            ensure!(line == "ready\n", "the server in {name} says {line:?}");
        }
        Ok(child)
    }

    /// Tries connections out of one namespace; for each `open`, `refused` or `timeout`.
    pub(crate) fn start_probes(&self, from: &str, probes: &[Probe], seconds: &str) -> Result<Child> {
        let mut child = self.python(from, &["try", seconds])?;
        let mut input = child.stdin.take().context("no input")?;
        input.write_all(&serde_json::to_vec(probes)?)?;
        Ok(child)
    }

    /// Tries one connection.
    pub(crate) fn probe(&self, probe: Probe) -> Result<String> {
        let from =
            MEMBERS.iter().find(|member| member.3.contains(&probe.source)).map_or("h", |member| member.0);
        let results = results(self.start_probes(from, &[probe], "0.4")?)?;
        results.into_iter().next().context("no result")
    }

    /// Opens a TCP connection and holds it.
    pub(crate) fn hold(&self, from: &str, source: &str, target: &str, port: &str) -> Result<Held> {
        Held::of(self.python(from, &["hold", source, target, port])?, "held")
    }

    /// A server that sends when it is told to, and whose client needs never speak.
    pub(crate) fn pusher(&self, at: &str, port: &str) -> Result<Held> {
        Held::of(self.python(at, &["push", port])?, "ready")
    }

    /// Counts the datagrams of a flood that come to a port; asked with a number, it says how many of that number and of higher ones came.
    pub(crate) fn counter(&self, at: &str, port: &str) -> Result<Held> {
        Held::of(self.python(at, &["count", port])?, "ready")
    }

    /// Sends datagrams to a port all the time, numbered from 0, with a pause between them; asked for, it says how many.
    pub(crate) fn flood(
        &self,
        from: &str,
        source: &str,
        target: &str,
        port: &str,
        pause_s: &str,
    ) -> Result<Held> {
        Held::of(self.python(from, &["flood", source, target, port, pause_s])?, "ready")
    }

    /// Sends a frame of the probe's list out of a namespace's card.
    pub(crate) fn send(&self, from: &str, name: &str) -> Result<()> {
        let output = self.python(from, &["send", "eth0", name])?.wait_with_output()?;
        ensure!(output.stdout == b"sent\n" && output.status.success(), "{name} was not sent");
        Ok(())
    }
}

/// What became of the probes.
pub(crate) fn results(child: Child) -> Result<Vec<String>> {
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the probe failed: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Held {
    fn started(mut child: Child) -> Result<Held> {
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Held { child, input, output })
    }

    fn of(child: Child, first: &str) -> Result<Held> {
        let mut held = Held::started(child)?;
        let line = held.line()?;
        if line != first {
            bail!("the connection says {line:?}, not {first:?}");
        }
        Ok(held)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Sends a line to it, and what it answers.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        self.line()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        for name in ["a", "b", "c", "o", "h"] {
            let _ = Command::new("ip").args(["netns", "del", &self.ns(name)]).output();
        }
    }
}
