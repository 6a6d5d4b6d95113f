//! What rules tell of comes out of the kernel as flows, and goes into a plan again.

use crate::world::{Probe, World};
use anyhow::{Context, Result, ensure};
use lynceus_lab::until_so;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const POLICY: &str = "[policy.web]\nselect='all()'\ndefault={in='deny',out='allow'}\n\
    [[policy.web.rule]]\nname='known'\naction='allow'\ndirection='in'\npeer={addresses=['10.0.1.0/24']}\nservices=['tcp/1000']\nlog=true\n\
    [[policy.web.rule]]\nname='knock'\naction='deny'\ndirection='in'\nservices=['tcp/1001']\nlog=true\n";

const PATIENCE: Duration = Duration::from_secs(30);

/// Whether somebody hears what rules tell of: NFLOG's group 76.
fn is_heard(world: &World) -> Result<bool> {
    let groups = world.host("cat /proc/net/netfilter/nfnetlink_log")?;
    Ok(groups.lines().any(|line| line.split_whitespace().next() == Some("76")))
}

#[test]
fn packets_that_rules_tell_of_are_flows() -> Result<()> {
    let world = World::new()?;
    world.apply(POLICY)?;
    let collector = Collector::start(&world)?;
    let to = format!("127.0.0.1:{}", collector.port);
    let mut child = world
        .command(&["--json", "firewall", "flows", "--count", "3", "--ipfix", &to])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    until_so("a listener", PATIENCE, || {
        ensure!(child.try_wait()?.is_none(), "nobody listens");
        is_heard(&world)
    })?;
    let second = world.command(&["firewall", "flows", "--count", "0"]).output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(said.contains("another program reads the flow log"), "{said}");
    let probe = |port| Probe { proto: "tcp", source: "10.0.1.2", target: "10.0.2.2", port };
    ensure!(world.probe(probe(1000))? == "open");
    ensure!(world.probe(probe(1001))? == "timeout");
    world.send("a", "arp-address")?;
    let mut flows: Vec<serde_json::Value> = Vec::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        flows.push(serde_json::from_str(&line?)?);
    }
    ensure!(child.wait()?.success() && flows.len() == 3, "{flows:#?}");
    let has = |verdict: &str, key: &str, value: &str| {
        flows.iter().any(|flow| {
            flow["verdict"] == verdict && flow[key].as_str().is_some_and(|text| text.contains(value))
        })
    };
    ensure!(has("allow", "rule", "known") && has("allow", "service", "tcp/1000"), "{flows:#?}");
    ensure!(has("deny", "rule", "knock") && has("deny", "service", "tcp/1001"), "{flows:#?}");
    ensure!(has("deny", "source", "10.0.1.2") && has("deny", "destination", "10.0.2.2"), "{flows:#?}");
    ensure!(has("spoofed", "rule", "arp") && has("spoofed", "port", "vif1.0"), "{flows:#?}");

    // A real collector has those with addresses.
    let collected = collector.end(&world)?;
    let is_there = |port: u16| {
        let mut all = collected.iter();
        all.any(|flow| {
            let ends = (flow["src4_addr"].as_str(), flow["dst4_addr"].as_str());
            ends == (Some("10.0.1.2"), Some("10.0.2.2"))
                && (flow["proto"].as_u64(), flow["dst_port"].as_u64()) == (Some(6), Some(port.into()))
                && (flow["in_packets"].as_u64(), flow["in_bytes"].as_u64()) == (Some(1), Some(60))
        })
    };
    ensure!(is_there(1000) && is_there(1001) && collected.len() >= 2, "{collected:#?}");

    // What was seen is judged again by a policy that forbids it.
    let recorded = world.folder.path().join("flows.jsonl");
    let lines: Vec<String> =
        flows.iter().filter(|flow| flow["service"].is_string()).map(ToString::to_string).collect();
    std::fs::write(&recorded, lines.join("\n"))?;
    world.write("[policy.none]\nselect='all()'\ndefault={in='deny',out='allow'}")?;
    let told = world.expect(&["policy", "plan", "--flows", &recorded.display().to_string()], 1)?;
    ensure!(told.contains("2 recorded flows, 1 would newly be dropped"), "{told}");
    Ok(())
}

#[test]
fn packets_by_the_second_are_shown_by_vm_and_by_rule() -> Result<()> {
    let world = World::new()?;
    world.apply(POLICY)?;
    let mut top =
        world.command(&["--json", "firewall", "top", "--every", "3s"]).stdout(Stdio::piped()).spawn()?;
    let probe = |port| Probe { proto: "tcp", source: "10.0.1.2", target: "10.0.2.2", port };
    // As long as it looks, and once before and behind.
    while top.try_wait()?.is_none() {
        ensure!(world.probe(probe(1000))? == "open");
        ensure!(world.probe(probe(1001))? == "timeout");
    }
    let rows: Vec<serde_json::Value> = BufReader::new(top.stdout.take().context("no output")?)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect::<Result<_>>()?;
    let of = |vm: &str, key: &str| {
        let row = rows.iter().find(|row| row["vm"] == vm && row[key].is_number());
        row.and_then(|row| row[key].as_f64()).unwrap_or(-1.0)
    };
    ensure!(of("a", "out_packets") > 0.0 && of("b", "in_bytes") > 0.0, "{rows:#?}");
    ensure!(of("b", "denied") > 0.0 && of("a", "denied") == 0.0, "{rows:#?}");
    let rule = |name: &str| rows.iter().find(|row| row["rule"] == name && row["vm"] == "b");
    let knock = rule("in web/knock").with_context(|| format!("{rows:#?}"))?;
    ensure!(knock["denies"] == true && knock["hits"].as_f64() > Some(0.0), "{rows:#?}");
    ensure!(rule("in web/known").is_some_and(|row| row["denies"] == false), "{rows:#?}");
    let table = world.expect(&["firewall", "top", "--every", "10ms"], 0)?;
    ensure!(table.contains("DENIED/s") && table.contains("HITS/s"), "{table}");
    Ok(())
}

/// The appliance sends what its rules stop as sums; and a server that answers for no name holds up neither its start nor its reload.
#[test]
fn packets_that_the_appliance_stops_are_summed_for_a_collector() -> Result<()> {
    let world = World::new()?;
    let _silent = crate::names::Dns::start(&world, "")?;
    let collector = Collector::start(&world)?;
    let with_name = |name: &str| {
        format!(
            "{POLICY}[policy.named]\nvms=['c']\n[[policy.named.rule]]\ndirection='out'\naction='allow'\npeer={{names=['{name}.slow.example']}}\n"
        )
    };
    world.host(&format!(
        "nft add table inet seen; nft add chain inet seen in '{{ type filter hook input priority 0; }}'; nft add rule inet seen in udp dport {} counter",
        collector.port
    ))?;
    world.write(&with_name("one"))?;
    let at = |name: &str| world.folder.path().join(name).display().to_string();
    let config = format!(
        "state={:?}\npolicy={:?}\n[vms]\nonly=['nobody']\n[control]\nsocket={:?}\n[alerts]\nspool={:?}\n[guard]\nflow_alerts=false\nipfix='127.0.0.1:{}'\n",
        at("state"),
        at("policy"),
        at("socket"),
        at("spool"),
        collector.port
    );
    std::fs::write(at("lynceus.toml"), config)?;
    let log = std::fs::File::create(at("log"))?;
    let mut run = world.command(&["run", "--config", &at("lynceus.toml")]);
    let appliance = Killed(run.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
    until_so("the appliance hears", PATIENCE, || is_heard(&world))
        .with_context(|| std::fs::read_to_string(at("log")).unwrap_or_default())?;
    world.write(&with_name("two"))?;
    world.expect(&["reload", "--socket", &at("socket")], 0)?;
    // TCP sends its first packet again: one flow, of several packets.
    let probe = Probe { proto: "tcp", source: "10.0.1.2", target: "10.0.2.2", port: 1001 };
    let tried = crate::world::results(world.start_probes("a", &[probe], "4")?)?;
    ensure!(tried == ["timeout"], "{tried:?}");
    // A flow is over when nothing has come for ten seconds.
    until_so("a message", PATIENCE, || {
        Ok(!world.host("nft list chain inet seen in")?.contains("counter packets 0 "))
    })?;
    drop(appliance);
    let collected = collector.end(&world)?;
    let knock = collected.iter().find(|flow| flow["dst_port"] == 1001).context("no flow")?;
    let count = |key: &str| knock[key].as_u64().unwrap_or(0);
    ensure!(count("in_packets") > 1 && count("in_bytes") == 60 * count("in_packets"), "{knock:#}");
    ensure!(collected.iter().filter(|flow| flow["dst_port"] == 1001).count() == 1, "{collected:#?}");
    Ok(())
}

/// A process that ends with its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nfcapd, which writes what it is sent to a folder.
struct Collector {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Collector {
    fn start(world: &World) -> Result<Collector> {
        let (folder, port) = (tempfile::tempdir()?, 4739);
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &world.ns("h"),
                "nfcapd",
                "-b",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-w",
            ])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("apt-get install nfdump, or run `cargo xtask test`")?;
        // It listens when the kernel says so: port 4739, in hexadecimal.
        until_so("nfcapd", PATIENCE, || {
            Ok(world.host("cat /proc/net/udp")?.contains(&format!(":{port:04X} ")))
        })?;
        Ok(Collector { child, port, folder })
    }

    /// Ends it, and what it got.
    fn end(mut self, world: &World) -> Result<Vec<serde_json::Value>> {
        // It ends without reading what waits for it.
        until_so("nfcapd has read all", PATIENCE, || {
            let sockets = world.host("cat /proc/net/udp")?;
            let own = sockets.lines().find(|line| line.contains(&format!(":{:04X} ", self.port)));
            Ok(own.context("nfcapd has ended")?.split_whitespace().any(|word| word == "00000000:00000000"))
        })?;
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        ensure!(status.success() && self.child.wait()?.code().is_some(), "nfcapd does not end");
        let read =
            Command::new("nfdump").arg("-R").arg(self.folder.path()).args(["-o", "json", "-q"]).output()?;
        // Without the summary, nfdump writes objects with commas between them, and no list around them.
        let text = format!("[{}]", String::from_utf8_lossy(&read.stdout));
        serde_json::from_str(&text)
            .with_context(|| format!("{text}{}", String::from_utf8_lossy(&read.stderr)))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
