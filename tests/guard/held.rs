//! Packets that wait until it is known whose they are, on a kernel that holds them: the right process's pass, and the wrong one's do not.
//!
//! The host is the guest of [`crate::bridge`]. A guest within that one would take minutes to boot; it is recorded outside, with its
//! connections begun, and a process that stands for its QEMU has its RAM. Packets are real ones, of a namespace with the guest's addresses.

use crate::enforcer::{Enforcer, soon};
use crate::processes::{Desk, OUTSIDE, behind};
use crate::world::{MEMBERS, Probe, World, results, script};
use anyhow::{Context, Result, bail, ensure};
use lynceus_lab::{KernelVersion, until_so};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The name of the recording, and the variable that says where it is.
pub(crate) const RECORDED: &str = "RECORDED";
const A: &str = MEMBERS[0].3[0];
const RAM_BYTES: u64 = 256 << 20;
const PAGE_BYTES: usize = 4096;

/// Records a guest with `a`'s address in which two programs that differ in their path alone have begun to connect, from the ports 40001
/// and 40002, and listen, on 1002 and 1003. Of its RAM all pages that are not empty, each behind its address.
pub(crate) fn record(path: &Path) -> Result<()> {
    let world = World::new()?;
    let desk = Desk::boot(&world, KernelVersion::V6_1)?;
    crate::world::run(&format!("ip -n {} route add blackhole {OUTSIDE}/32", world.ns("h")))?;
    desk.guest
        .run(&format!("ip addr add {A}/32 dev eth0 && ip route replace {OUTSIDE} via 10.0.8.1 src {A}"))?;
    for (program, from, listens) in [("good", 40001, 1002), ("bad", 40002, 1003)] {
        // nc does not choose the port from which it connects: the kernel has one to choose from, until it is taken.
        desk.guest.run(&format!(
            "echo {from} {from} > /proc/sys/net/ipv4/ip_local_port_range; \
             /opt/{program}/busybox nc {OUTSIDE} 1000 </dev/null >/dev/null 2>&1 & \
             /opt/{program}/busybox nc -ll -p {listens} -e /bin/cat </dev/null >/dev/null 2>&1 &"
        ))?;
        until_so("the guest's connections", Duration::from_secs(60), || {
            let sockets = desk.guest.run("cat /proc/net/tcp /proc/net/tcp6")?;
            let has = |port: u16, state: &str| {
                let is_it = |line: &&str| line.contains(&format!(":{port:04X} ")) && line.contains(state);
                sockets.lines().any(|line| is_it(&line))
            };
            // SYN_SENT, and LISTEN.
            Ok(has(from, ":03E8 02 ") && has(listens, ":0000 0A "))
        })?;
    }
    desk.guest.stop()?;
    let mut ram = BufReader::new(fs::File::open(desk.guest.ram_file())?);
    let mut out = std::io::BufWriter::new(fs::File::create(path)?);
    let mut page = [0; PAGE_BYTES];
    for at in (0..RAM_BYTES).step_by(PAGE_BYTES) {
        ram.read_exact(&mut page)?;
        if page.iter().any(|byte| *byte != 0) {
            out.write_all(&at.to_le_bytes())?;
            out.write_all(&page)?;
        }
    }
    Ok(out.flush()?)
}

/// A process with the recorded RAM, whose program and command line are QEMU's.
struct Recorded(Child);

impl Recorded {
    fn start(world: &World, name: &str) -> Result<Recorded> {
        let at = |name: &str| world.folder.path().join(name);
        fs::copy("/usr/bin/python3", at("qemu-system-x86_64"))?;
        let (pages, ram) = (std::env::var(RECORDED)?, at("ram").display().to_string());
        let backend = format!("memory-backend-file,id=m,size=256M,mem-path={ram},share=on");
        let mut child = Command::new(at("qemu-system-x86_64"))
            .arg(script())
            .args(["remember", &pages, &ram, &RAM_BYTES.to_string(), "-name", name, "-m", "256M"])
            .args(["-object", &backend, "-machine", "q35,memory-backend=m"])
            .env("PYTHONHOME", "/usr")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "the recording says {line:?}");
        Ok(Recorded(child))
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next flow that is told of with both.
fn told_of(enforcer: &mut Enforcer, one: &str, other: &str) -> Result<Value> {
    loop {
        let line = enforcer.until(one)?;
        if line.contains(other) {
            return Ok(serde_json::from_str(&line)?);
        }
    }
}

#[test]
#[ignore = "runs inside the guest of packets_on_a_bridge_of_debians_kernel"]
fn of_a_known_process() -> Result<()> {
    let world = World::bridged()?;
    let _recorded = Recorded::start(&world, "a")?;
    world.apply(
        "[policy.rest]\nvms=['b','c']\ndefault={in='allow',out='allow'}\n\
         [policy.p]\nvms=['a']\ndefault={in='deny',out='deny'}\n\
         [[policy.p.rule]]\nname='good'\ndirection='out'\naction='allow'\nservices=['tcp/1000']\nprocess={exe='/opt/good/busybox',uid=0}\n\
         [[policy.p.rule]]\nname='served'\ndirection='in'\naction='allow'\nservices=['tcp/1002-1003']\nprocess={exe='/opt/good/busybox'}\n",
    )?;
    let rules = world.host("nft list table bridge lynceus")?;
    ensure!(rules.contains("queue") && !rules.contains("log prefix \"lynceus ask"), "{rules}");
    let connect = |port: u16| world.hold("a", &format!("{A}#{port}"), OUTSIDE, "1000");
    ensure!(connect(40001).is_err(), "a packet passes a queue that nobody reads");
    let mut enforcer = Enforcer::start_with(&world, &["--json"])?;
    // Until the guest is looked into, nobody is let out.
    let mut open = None;
    soon("the process that is meant is let out", || {
        open = connect(40001).ok();
        Ok(open.is_some())
    })?;
    let mut open = open.context("no connection")?;
    ensure!(open.ask("5")? == "alive");
    let told = told_of(&mut enforcer, "\"allow\"", "40001")?;
    ensure!(behind(&told)? == ("allow", "/opt/good/busybox") && told["rule"] == "p/good", "{told}");
    println!("held for a look of {} us", told["looked_us"]);
    // Emulated twice, a look may come to its end too late, and is another answer then.
    let stopped = |enforcer: &mut Enforcer, port: u16, who: &str| -> Result<Value> {
        for _ in 0..10 {
            ensure!(connect(port).is_err(), "the connection from {port} is let out");
            let told = told_of(enforcer, "\"deny\"", &port.to_string())?;
            if told["who"] == who {
                return Ok(told);
            }
        }
        bail!("nobody tells that who connects from {port} is {who}")
    };
    let told = stopped(&mut enforcer, 40002, "known")?;
    ensure!(behind(&told)? == ("deny", "/opt/bad/busybox"), "{told}");
    stopped(&mut enforcer, 40003, "unknown")?;

    let into = |port| Probe { proto: "tcp", source: OUTSIDE, target: A, port };
    soon("who listens decides", || {
        let came = results(world.start_probes("o", &[into(1002), into(1003)], "2")?)?;
        ensure!(came[1] == "timeout", "the wrong listener is reached: {came:?}");
        Ok(came[0] == "open")
    })?;
    for (service, verdict, program) in
        [("tcp/1002", "allow", "/opt/good/busybox"), ("tcp/1003", "deny", "/opt/bad/busybox")]
    {
        let told = told_of(&mut enforcer, program, service)?;
        ensure!(behind(&told)? == (verdict, program), "{told}");
    }
    ensure!(open.ask("5")? == "alive", "what was let out is cut off");
    Ok(())
}
