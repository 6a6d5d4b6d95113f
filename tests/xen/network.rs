//! Domains' network cards, guarded in the service domain: real packets between two domains and dom0, over a real bridge with connection tracking.
//!
//! The toolstack's own script plugs each card into the bridge; what may pass is up to `lynceus`.

use crate::checks::Follower;
use crate::guest::Guest;
use crate::toolstack::{run, until, uptime, xl};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

const FOLDER: &str = "/tmp/network";
const BRIDGE: &str = "xenbr0";
/// dom0's address on it.
const DOM0: &str = "10.9.0.1";
const POLICY: &str = r#"
[vm.net-a]
[[vm.net-a.interface]]
mac = "00:16:3e:00:00:0a"
addresses = ["10.9.0.2"]
[vm.net-b]
[[vm.net-b.interface]]
mac = "00:16:3e:00:00:0b"
addresses = [] # The toolstack has them.
[policy.net]
select = "all()"
default = { in = "deny", out = "allow" }
[[policy.net.rule]]
direction = "in"
action = "allow"
services = ["tcp/1000"]
[[policy.net.rule]]
direction = "out"
action = "deny"
services = ["tcp/1002"]
"#;
/// On these everybody answers.
const PORTS: [u16; 3] = [1000, 1001, 1002];

/// Ends with what started it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All of it.
pub(crate) fn is_guarded(follower: &mut Follower) -> Result<()> {
    fs::create_dir_all(format!("{FOLDER}/policy"))?;
    fs::write(format!("{FOLDER}/policy/policy.toml"), POLICY)?;
    shell(&format!(
        "ip link set lo up; ip link add {BRIDGE} type bridge; ip addr add {DOM0}/24 dev {BRIDGE}; ip link set {BRIDGE} up"
    ))?;
    let _servers: Vec<Running> = PORTS.into_iter().map(server).collect::<Result<_>>()?;
    lynceus(&["policy", "apply"], 0)?;
    let a = plugged("net-a", "6.1", "0a", "10.9.0.2")?;
    follower.created(&a);
    a_new_card_is_closed(&a)?;
    let enforcer = enforcer()?;
    guarded(&a)?;
    let b = plugged("net-b", "5.10", "0b", "10.9.0.3")?;
    follower.created(&b);
    guarded(&b)?;
    the_policy_holds(&a, &b)?;
    an_isolated_domain_is_cut_off(&a, &b)?;
    drop(enforcer);
    let b = another_incarnation_is_closed(&a, b)?;
    let _enforcer = self::enforcer()?;
    guarded(&b)?;
    passes(Some(&a), "10.9.0.3", 1000, true)?;
    passes(Some(&a), "10.9.0.3", 1001, false)?;
    passes(Some(&b), DOM0, 1001, true)?;
    passes(Some(&b), DOM0, 1002, false)?;
    for guest in [a, b] {
        xl(&["destroy", &guest.name])?;
    }
    println!("LAB network: over at {} s", uptime());
    Ok(())
}

fn shell(line: &str) -> Result<String> {
    run(&["/bin/busybox", "sh", "-ec", line])
}

fn lynceus(args: &[&str], code: i32) -> Result<String> {
    let output = command().args(args).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.code() == Some(code), "lynceus {}: {}: {said}", args.join(" "), output.status);
    Ok(said)
}

fn command() -> Command {
    let mut command = Command::new("/bin/lynceus");
    command
        .env("LYNCEUS_POLICY", format!("{FOLDER}/policy"))
        .env("LYNCEUS_STATE", format!("{FOLDER}/state"))
        .stdin(Stdio::null());
    command
}

/// Answers on a port of dom0's.
fn server(port: u16) -> Result<Running> {
    let port = port.to_string();
    Ok(Running(Command::new("/bin/busybox").args(["nc", "-ll", "-p", &port, "-e", "/bin/cat"]).spawn()?))
}

fn enforcer() -> Result<Running> {
    let log = File::create(format!("{FOLDER}/told"))?;
    Ok(Running(command().args(["firewall", "run"]).stdout(log.try_clone()?).stderr(log).spawn()?))
}

/// A domain with a card on the bridge, an address, and servers.
fn plugged(name: &str, kernel: &str, mac: &str, address: &str) -> Result<Guest> {
    let vif = format!("vif = [\"bridge={BRIDGE},mac=00:16:3e:00:00:{mac},ip={address}\"]\n");
    let guest = Guest::create_with(name, "pv", kernel, "everyday", &vif)?;
    bring_up(&guest, address)?;
    Ok(guest)
}

fn bring_up(guest: &Guest, address: &str) -> Result<()> {
    until("the card", || guest.ask("RUN test -e /sys/class/net/eth0").ok())?;
    guest.ask(&format!("RUN ip addr add {address}/24 dev eth0 && ip link set eth0 up"))?;
    for port in PORTS {
        guest.ask(&format!("RUN nc -ll -p {port} -e /bin/cat > /dev/null 2>&1 &"))?;
    }
    Ok(())
}

fn port_of(guest: &Guest) -> String {
    format!("vif{}.0", guest.id)
}

/// Waits until the card is guarded, which the enforcer sees to.
fn guarded(guest: &Guest) -> Result<()> {
    let port = port_of(guest);
    let row = || {
        let ports = lynceus(&["firewall", "status"], 0).ok()?;
        ports.lines().find(|line| line.starts_with(&port) && line.contains(&guest.name)).map(str::to_owned)
    };
    let told = || fs::read_to_string(format!("{FOLDER}/told")).unwrap_or_default();
    let row = until("a guarded card", row).with_context(told)?;
    ensure!(row.contains("bridged") && row.contains("enforced"), "{row}");
    println!("LAB {}: {row} at {} s", guest.name, uptime());
    Ok(())
}

/// Whether somebody answers; asked from a domain, or from dom0.
fn answers(from: Option<&Guest>, address: &str, port: u16) -> Result<bool> {
    let line = format!("echo heard | nc -w 1 {address} {port} 2>&1 || true");
    let said = match from {
        Some(guest) => String::from_utf8_lossy(&guest.ask(&format!("RUN {line}"))?).into_owned(),
        None => shell(&line)?,
    };
    Ok(said.contains("heard"))
}

/// What is allowed passes, soon on a machine that is busy; what is denied does not.
fn passes(from: Option<&Guest>, address: &str, port: u16, wanted: bool) -> Result<()> {
    let name = from.map_or("dom0", |guest| guest.name.as_str());
    if wanted {
        let heard = || answers(from, address, port).ok().filter(|heard| *heard);
        until("an answer", heard).with_context(|| format!("{name} to {address}:{port}"))?;
    } else {
        ensure!(!answers(from, address, port)?, "{name} reaches {address}:{port}");
    }
    Ok(())
}

/// Nobody guards it, its frontend is connected, and nothing passes, in no direction.
fn a_new_card_is_closed(guest: &Guest) -> Result<()> {
    let ports = lynceus(&["firewall", "status"], 3)?;
    ensure!(ports.contains(&port_of(guest)) && ports.contains("no policy: closed"), "{ports}");
    passes(Some(guest), DOM0, 1000, false)?;
    passes(None, "10.9.0.2", 1000, false)?;
    println!("LAB {}: a card that nobody knows is closed, {} packets dropped", guest.name, dropped()?);
    Ok(())
}

/// How many packets of unknown ports were dropped: nothing came through because of the rules, and not because nothing was sent.
fn dropped() -> Result<u64> {
    let rules = lynceus(&["firewall", "rules"], 0)?;
    let line = rules.lines().find(|line| line.ends_with("(bridge: closed)")).context(rules.clone())?;
    let count: u64 = line.split_whitespace().next().context("a counter")?.parse()?;
    ensure!(count > 0, "no packet was dropped: {rules}");
    Ok(count)
}

fn the_policy_holds(a: &Guest, b: &Guest) -> Result<()> {
    for (from, address) in
        [(Some(a), "10.9.0.3"), (Some(b), "10.9.0.2"), (None, "10.9.0.2"), (None, "10.9.0.3")]
    {
        passes(from, address, 1000, true)?;
        passes(from, address, 1001, false)?;
    }
    for guest in [a, b] {
        passes(Some(guest), DOM0, 1001, true)?;
        passes(Some(guest), DOM0, 1002, false)?;
    }
    println!("LAB network: the policy holds in 12 connections at {} s", uptime());
    Ok(())
}

/// Its open connection dies, it reaches nobody and nobody reaches it; released, all is as before.
fn an_isolated_domain_is_cut_off(a: &Guest, b: &Guest) -> Result<()> {
    a.ask("RUN (while :; do echo x; sleep 0.3; done | nc 10.9.0.3 1000 > /tmp/held) > /dev/null 2>&1 &")?;
    let echoed = || -> Result<usize> { Ok(a.ask("RUN cat /tmp/held")?.len()) };
    let more_than = |count: usize| move |now: usize| now > count;
    let lives = |count| until("an echo", || echoed().ok().filter(|now| more_than(count)(*now)));
    lives(lives(0)?)?;
    lynceus(&["isolate", "net-b"], 0)?;
    let before = echoed()?;
    passes(Some(a), "10.9.0.3", 1000, false)?;
    passes(None, "10.9.0.3", 1000, false)?;
    passes(Some(b), DOM0, 1001, false)?;
    passes(Some(b), "10.9.0.2", 1000, false)?;
    passes(Some(a), DOM0, 1001, true)?;
    // An echo may have been under way.
    ensure!(echoed()? <= before + 4, "an open connection outlives the isolation");
    a.ask("RUN pkill -f 'nc 10.9.0.3'; true")?;
    lynceus(&["release", "net-b"], 0)?;
    passes(Some(a), "10.9.0.3", 1000, true)?;
    println!("LAB net-b: isolated, its open connection too, and released, at {} s", uptime());
    Ok(())
}

/// A domain that rebooted has another number, and its card another name: closed until somebody guards it.
fn another_incarnation_is_closed(a: &Guest, b: Guest) -> Result<Guest> {
    let before = b.id;
    xl(&["reboot", "-F", &b.name])?;
    until("another domain", || {
        let id: u16 = xl(&["domid", &b.name]).ok()?.trim().parse().ok()?;
        (id != before).then_some(())
    })?;
    let b = b.again()?;
    b.wait_ready()?;
    bring_up(&b, "10.9.0.3")?;
    passes(Some(&b), DOM0, 1001, false)?;
    passes(Some(a), "10.9.0.3", 1000, false)?;
    println!("LAB net-b: {} after a reboot, and closed, at {} s", port_of(&b), uptime());
    Ok(b)
}
