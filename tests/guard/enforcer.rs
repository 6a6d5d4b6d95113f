//! The enforcer: what comes and goes, and what others do, while it runs and when it is dead.

use crate::world::{MEMBERS, Probe, World, run};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

const OUTSIDE: &str = MEMBERS[3].3[0];

pub(crate) struct Enforcer {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Enforcer {
    pub(crate) fn start(world: &World) -> Result<Enforcer> {
        Enforcer::start_with(world, &[])
    }

    /// With options of `lynceus` itself.
    pub(crate) fn start_with(world: &World, options: &[&str]) -> Result<Enforcer> {
        let args = [options, &["firewall", "run"]].concat();
        let mut child = world.command(&args).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let mut enforcer = Enforcer { child, output };
        enforcer.until("running")?;
        Ok(enforcer)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads until it tells of something.
    pub(crate) fn until(&mut self, event: &str) -> Result<String> {
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "the enforcer ended before it told of {event:?}");
            if line.contains(event) {
                return Ok(line);
            }
        }
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A card behind `tap7`, 10.0.7.2, in the namespace of `c`.
pub(crate) const EXTRA: &str =
    "[vm.extra]\n[[vm.extra.interface]]\nport='tap7'\nmac='52:54:00:00:00:07'\naddresses=['10.0.7.2']\n";

pub(crate) fn plug(world: &World) -> Result<()> {
    let (host, ns) = (world.ns("h"), world.ns("c"));
    run(&format!(
        "ip -n {host} link add tap7 type veth peer name eth7 netns {ns} address 52:54:00:00:00:07
         ip -n {ns} addr add 10.0.7.2/24 dev eth7; ip -n {host} addr add 10.0.7.1/24 dev tap7
         ip -n {ns} link set eth7 up; ip -n {host} link set tap7 up
         ip -n {ns} route replace {OUTSIDE} via 10.0.7.1"
    ))
}

pub(crate) fn reaches(world: &World, port: u16) -> Result<bool> {
    let probe = Probe { proto: "tcp", source: "10.0.7.2", target: OUTSIDE, port };
    let results = crate::world::results(world.start_probes("c", &[probe], "0.4")?)?;
    Ok(results == ["open"])
}

/// What is so after a while.
pub(crate) fn soon(what: &str, is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    lynceus_lab::until_so(what, Duration::from_secs(30), is_so)
}

#[test]
fn packets_of_ports_that_come_and_go_are_guarded() -> Result<()> {
    let world = World::new()?;
    let policy = "[policy.open]\nselect='all()'\ndefault={in='allow',out='allow'}\n[[policy.open.rule]]\ndirection='out'\naction='deny'\nservices=['tcp/1000']\n";
    world.apply(&format!("{EXTRA}{policy}"))?;
    let mut enforcer = Enforcer::start(&world)?;
    for _ in 0..3 {
        plug(&world)?;
        ensure!(enforcer.until("guarded")?.contains("tap7"));
        ensure!(!reaches(&world, 1000)?, "what is denied passes");
        soon("what is allowed passes", || reaches(&world, 1001))?;
        run(&format!("ip -n {} link del tap7", world.ns("h")))?;
        enforcer.until("gone")?;
    }
    plug(&world)?;
    enforcer.until("guarded")?;
    // Somebody flushes everything: it is back before long.
    world.host("nft flush ruleset")?;
    enforcer.until("repaired")?;
    ensure!(!reaches(&world, 1000)?, "what is denied passes after a repair");
    ensure!(reaches(&world, 1001)?, "what is allowed does not pass after a repair");
    // Killed, it leaves the rules where they are; and a port that comes then is closed.
    drop(enforcer);
    ensure!(!reaches(&world, 1000)? && reaches(&world, 1001)?, "the rules went with the enforcer");
    run(&format!("ip -n {} link del tap7", world.ns("h")))?;
    world.expect(&["policy", "apply"], 0)?;
    plug(&world)?;
    ensure!(!reaches(&world, 1001)?, "a port that came while nobody looked is open");
    let _enforcer = Enforcer::start(&world)?;
    soon("what is allowed passes again", || reaches(&world, 1001))
}

/// An open connection ends when the hours of its rule do.
#[test]
fn packets_stop_when_a_rule_expires() -> Result<()> {
    let world = World::new()?;
    let end = std::time::SystemTime::now() + Duration::from_secs(6);
    let end = humantime::format_rfc3339_seconds(end);
    let policy = format!(
        "[policy.a]\nselect='all()'\ndefault={{in='allow'}}\n[[policy.a.rule]]\ndirection='out'\naction='allow'\nexpires={end}\n"
    );
    world.apply(&policy)?;
    let mut enforcer = Enforcer::start(&world)?;
    let mut open = world.hold("a", MEMBERS[0].3[0], OUTSIDE, "1001")?;
    ensure!(open.ask("1")? == "alive");
    enforcer.until("hours")?;
    ensure!(open.ask("0.5")? == "dead", "an open connection outlives its rule");
    Ok(())
}
