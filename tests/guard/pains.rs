//! What users of other firewalls suffer from, one test a pain.

use crate::world::{GATEWAYS, MEMBERS, Probe, World, run};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const A: [&str; 2] = MEMBERS[0].3;
const B: [&str; 2] = MEMBERS[1].3;
const OUTSIDE: [&str; 2] = MEMBERS[3].3;

const OPEN: &str = "[policy.open]\nselect='all()'\ndefault={in='allow',out='allow'}\n";

/// More rounds than a machine needs on which applies end before they are killed.
const MAX_ROUNDS: u64 = 20_000;

/// Everything is open but what `a` may not reach.
fn without(service: &str) -> String {
    format!(
        "{OPEN}[policy.no]\ntier='platform'\nvms=['a']\n[[policy.no.rule]]\ndirection='out'\naction='deny'\nservices=['{service}','udp/1999']\n"
    )
}

fn tcp(source: &'static str, target: &'static str, port: u16) -> Probe {
    Probe { proto: "tcp", source, target, port }
}

/// QubesOS/qubes-issues#4141: a policy change leaves open connections alive. And cilium#20650: one cuts those that are allowed.
#[test]
fn packets_of_open_connections_are_judged_again_after_a_change() -> Result<()> {
    let world = World::new()?;
    world.apply(OPEN)?;
    for family in [0, 1] {
        let mut forbidden = world.hold("a", A[family], OUTSIDE[family], "1000")?;
        let mut allowed = world.hold("a", A[family], OUTSIDE[family], "1001")?;
        let mut others = world.hold("b", B[family], OUTSIDE[family], "1000")?;
        ensure!(forbidden.ask("2")? == "alive" && allowed.ask("2")? == "alive");
        world.apply(&without("tcp/1000"))?;
        ensure!(forbidden.ask("0.5")? == "dead", "a connection that is forbidden now is alive");
        ensure!(allowed.ask("2")? == "alive", "a connection that is still allowed is dead");
        ensure!(others.ask("2")? == "alive", "another VM's connection is dead");
        world.apply(OPEN)?;
    }
    Ok(())
}

/// A download in which only the server speaks goes on after a change, or ends: its packets are replies, and are judged as the connection.
#[test]
fn packets_of_replies_are_judged_as_their_connection() -> Result<()> {
    let world = World::new()?;
    world.apply(OPEN)?;
    let mut server = world.pusher("o", "2000")?;
    let mut client = world.hold("a", A[0], OUTSIDE[0], "2000")?;
    // The host counts what it sends on to the VM.
    let sent = || -> Result<u64> {
        Ok(world.host("cat /sys/class/net/vif1.0/statistics/tx_bytes")?.trim().parse()?)
    };
    // What is pushed is 1,200 bytes; the host's own questions about neighbours are less.
    let push = |server: &mut crate::world::Held, patience: Duration| -> Result<bool> {
        let before = sent()?;
        ensure!(server.ask("push")? == "sent");
        let started = Instant::now();
        loop {
            let is_there = sent()? - before >= 1200;
            if is_there || started.elapsed() > patience {
                return Ok(is_there);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let (long, short) = (Duration::from_secs(30), Duration::from_millis(200));
    ensure!(push(&mut server, long)?);
    world.apply(&without("tcp/1"))?;
    ensure!(
        push(&mut server, long)?,
        "the server's packets of an allowed connection are dropped after a change"
    );
    world.apply(&without("tcp/2000"))?;
    ensure!(!push(&mut server, short)?, "the server's packets of a forbidden connection pass after a change");
    drop(client.ask("0.1"));
    Ok(())
}

/// xen-orchestra#6153: a guest gets round its rules by changing its MAC, or its address.
#[test]
fn packets_from_another_mac_or_address_pass_no_rule() -> Result<()> {
    let world = World::new()?;
    world.apply(OPEN)?;
    ensure!(world.probe(tcp(A[0], OUTSIDE[0], 1000))? == "open");
    let ns = world.ns("a");
    run(&format!("ip -n {ns} link set eth0 address 52:54:00:00:00:77"))?;
    ensure!(world.probe(tcp(A[0], OUTSIDE[0], 1000))? != "open", "another MAC passes");
    run(&format!(
        "ip -n {ns} link set eth0 address {}; ip -n {ns} addr add 10.0.1.99/24 dev eth0",
        MEMBERS[0].2
    ))?;
    let other = world.start_probes("a", &[tcp("10.0.1.99", OUTSIDE[0], 1000)], "0.4")?;
    ensure!(crate::world::results(other)? == ["timeout"], "another address passes");
    Ok(())
}

/// proxmox: a VM is open until the firewall has seen it. Here a port without a policy is closed.
#[test]
fn packets_of_a_port_without_a_policy_do_not_pass() -> Result<()> {
    let world = World::new()?;
    world.apply(&OPEN.replace("all()", "name != \"x\""))?;
    let (host, ns) = (world.ns("h"), world.ns("c"));
    run(&format!(
        "ip -n {host} link add vif7.0 type veth peer name eth1 netns {ns}
         ip -n {ns} link set eth1 up; ip -n {host} link set vif7.0 up
         ip -n {host} addr add 10.0.7.1/24 dev vif7.0; ip -n {ns} addr add 10.0.7.2/24 dev eth1
         ip -n {ns} route add 192.0.2.0/24 via 10.0.7.1"
    ))?;
    for target in [OUTSIDE[0], "10.0.7.1"] {
        let probe = world.start_probes("c", &[tcp("10.0.7.2", target, 1000)], "0.4")?;
        ensure!(crate::world::results(probe)? == ["timeout"], "a port without a policy reaches {target}");
    }
    let said = world.expect(&["firewall", "status"], 3)?;
    ensure!(said.contains("vif7.0") && said.contains("no policy: closed"), "{said}");
    Ok(())
}

/// A VM that is isolated loses its open connections too, and gets its policy back; and stays isolated over an apply.
#[test]
fn packets_of_an_isolated_vm_stop_and_come_back() -> Result<()> {
    let world = World::new()?;
    let forensics = "[policy.isolate]\n[[policy.isolate.rule]]\ndirection='in'\naction='allow'\nservices=['tcp/1003']\npeer={addresses=['192.0.2.1']}";
    world.apply(&format!("{OPEN}{forensics}"))?;
    let mut open = world.hold("a", A[0], OUTSIDE[0], "1000")?;
    world.expect(&["isolate", "a"], 0)?;
    ensure!(open.ask("0.5")? == "dead", "an open connection outlives isolation");
    ensure!(world.probe(tcp(A[0], B[0], 1000))? == "timeout");
    ensure!(world.probe(tcp(OUTSIDE[0], A[0], 1003))? == "open", "forensics cannot look");
    ensure!(world.probe(tcp(OUTSIDE[0], A[0], 1002))? == "timeout");
    ensure!(world.probe(tcp(B[0], OUTSIDE[0], 1000))? == "open", "another VM is cut off");
    world.expect(&["policy", "apply"], 0)?;
    ensure!(world.probe(tcp(A[0], B[0], 1000))? == "timeout", "an apply ends isolation");
    world.expect(&["release", "a"], 0)?;
    ensure!(world.probe(tcp(A[0], B[0], 1000))? == "open");
    world.expect(&["isolate", "nobody"], 2)?;
    Ok(())
}

/// A policy that locks its author out goes away by itself, also when the program that applied it is dead.
#[test]
fn packets_pass_again_when_nobody_confirms() -> Result<()> {
    let world = World::new()?;
    world.apply(OPEN)?;
    world.write("[policy.closed]\nselect='all()'")?;
    let said = world.expect(&["policy", "apply", "--confirm", "2s"], 0)?;
    ensure!(said.contains("policy confirm"), "{said}");
    ensure!(world.probe(tcp(A[0], B[0], 1000))? == "timeout");
    let started = Instant::now();
    while world.probe(tcp(A[0], B[0], 1000))? != "open" {
        ensure!(started.elapsed() < Duration::from_secs(10), "the old rules never came back");
    }
    world.expect(&["policy", "apply", "--confirm", "1h"], 0)?;
    world.expect(&["policy", "confirm"], 0)?;
    world.expect(&["policy", "confirm"], 2)?;
    ensure!(world.probe(tcp(A[0], B[0], 1000))? == "timeout");
    // A change that was never confirmed does not survive a crash.
    world.write(OPEN)?;
    world.expect(&["policy", "apply", "--confirm", "1h"], 0)?;
    ensure!(world.probe(tcp(A[0], B[0], 1000))? == "open");
    world.host("nft flush ruleset")?;
    world.expect(&["firewall", "restore"], 0)?;
    ensure!(world.probe(tcp(A[0], B[0], 1000))? == "timeout");
    Ok(())
}

/// xen-orchestra#10440: rules vanish. Here it is told, and repaired; and a bad policy changes nothing.
#[test]
fn packets_meet_the_last_good_rules_whatever_goes_wrong() -> Result<()> {
    let world = World::new()?;
    world.apply(&without("tcp/1000"))?;
    let is_as_before = |why: &str| -> Result<()> {
        ensure!(world.probe(tcp(A[0], B[0], 1000))? == "timeout", "{why}: what is denied passes");
        ensure!(world.probe(tcp(A[0], B[0], 1001))? == "open", "{why}: what is allowed is dropped");
        Ok(())
    };
    is_as_before("at first")?;
    for bad in ["[policy.a]\nselct='all()'", "[policy.a]\nselect='role =='", "garbage"] {
        world.write(bad)?;
        let said = world.expect(&["policy", "apply"], 2)?;
        ensure!(said.contains("policy.toml:"), "{said}");
    }
    let failing = format!("{OPEN}[[test]]\nfrom='a'\nto='b'\nservice='tcp/1'\nexpect='deny'");
    world.write(&failing)?;
    ensure!(world.expect(&["policy", "apply"], 2)?.contains("1 of 1 tests failed"));
    world.write(&format!(
        "{OPEN}[[policy.open.rule]]\ndirection='out'\naction='allow'\nprocess={{uid=0}}\nrate='1/second'"
    ))?;
    ensure!(world.expect(&["policy", "apply"], 2)?.contains("cannot have a rate"));
    is_as_before("bad policies")?;

    // The time of day in a rule: nft has to write it.
    let until = "[[policy.open.rule]]\ndirection='out'\naction='allow'\nexpires=2099-01-01T00:00:00Z\n";
    world.write(&format!("{OPEN}{until}"))?;
    let empty = world.folder.path().join("empty");
    std::fs::create_dir(&empty)?;
    let program = env!("CARGO_BIN_EXE_lynceus");
    let without_nft = format!(
        "LYNCEUS_POLICY={} LYNCEUS_STATE={} PATH={} {program} policy apply 2>&1 || true",
        world.policy().display(),
        world.folder.path().join("state").display(),
        empty.display()
    );
    let said = world.host(&without_nft)?;
    ensure!(said.contains("package `nftables`"), "{said}");
    // An nft that dies half-way: the kernel has taken nothing.
    let broken = empty.join("nft");
    std::fs::write(&broken, "#!/bin/sh\nhead -c 100 > /dev/null\nkill -9 $$\n")?;
    run(&format!("chmod +x {}", broken.display()))?;
    let said = world.host(
        &without_nft
            .replace(&format!("PATH={}", empty.display()), &format!("PATH={}:$PATH", empty.display())),
    )?;
    ensure!(said.contains("nft"), "{said}");
    is_as_before("nft missing or dying")?;

    world.write(&without("tcp/1000"))?;
    world.expect(&["firewall", "status"], 0)?;
    world.host("nft flush chain inet lynceus vm-a-out")?;
    let said = world.expect(&["firewall", "status"], 1)?;
    ensure!(said.contains("not as it was left"), "{said}");
    world.expect(&["firewall", "restore"], 0)?;
    world.expect(&["firewall", "status"], 0)?;
    is_as_before("a table edited by hand")?;
    world.host("nft delete table inet lynceus")?;
    world.expect(&["policy", "apply"], 0)?;
    is_as_before("a table deleted by hand")?;
    Ok(())
}

/// QubesOS/qubes-issues#5269: one bad DNS name blocks a whole VM.
#[test]
fn packets_pass_whatever_becomes_of_a_name() -> Result<()> {
    let world = World::new()?;
    let policy = "[policy.a]\nvms=['a']\n[[policy.a.rule]]\ndirection='out'\naction='allow'\npeer={names=['name.invalid'],addresses=['192.0.2.1']}\n";
    world.write(policy)?;
    let said = world.expect(&["policy", "apply"], 3)?;
    ensure!(said.contains("name.invalid"), "{said}");
    ensure!(world.probe(tcp(A[0], OUTSIDE[0], 1000))? == "open");
    ensure!(world.probe(tcp(A[0], GATEWAYS[3][0], 1000))? == "timeout");
    Ok(())
}

/// Counters keep their hits over a change; and a change of one VM leaves the others' alone.
#[test]
fn packets_stay_counted_over_a_change() -> Result<()> {
    let world = World::new()?;
    let policy = |extra: &str| {
        format!(
            "[policy.a]\nselect='all()'\ndefault={{out='allow'}}\n[[policy.a.rule]]\nname='serve'\ndirection='in'\naction='allow'\nservices=['tcp/1000'{extra}]\n"
        )
    };
    world.apply(&policy(""))?;
    let hits = || -> Result<u64> {
        let output = world.lynceus(&["--json", "firewall", "rules"])?;
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().find(|line| line.contains("\"b-in/a/serve\"")).context("no counter")?;
        serde_json::from_str::<serde_json::Value>(line)?["packets"].as_u64().context("no count")
    };
    for _ in 0..3 {
        ensure!(world.probe(tcp(A[0], B[0], 1000))? == "open");
    }
    ensure!(hits()? == 3, "{} hits", hits()?);
    let said = world.apply(&policy(",'tcp/1001'"))?;
    ensure!(said.contains("changed in place"), "{said}");
    ensure!(hits()? == 3, "{} hits after a change", hits()?);
    ensure!(world.probe(tcp(A[0], B[0], 1001))? == "open");
    ensure!(hits()? == 4);
    Ok(())
}

/// The kernel takes rules into force before what is in their sets: put there together, they let pass for some microseconds what they deny,
/// and what belongs to it from then on. Nothing passes, however much comes.
#[test]
fn packets_do_not_slip_through_while_everything_is_put_there_anew() -> Result<()> {
    let world = World::new()?;
    world.apply(&without("tcp/1000"))?;
    let mut counter = world.counter("o", "1999")?;
    let mut flood = world.flood("a", A[0], OUTSIDE[0], "1999", "0")?;
    let mut allowed = world.hold("a", A[0], OUTSIDE[0], "1001")?;
    for _ in 0..10 {
        // Somebody else changes something, without which nothing is to be done.
        world.host("nft add chain inet lynceus stranger")?;
        let said = world.expect(&["firewall", "restore"], 0)?;
        ensure!(!said.contains("as they were left"), "{said}");
    }
    let said = world.expect(&["firewall", "restore"], 0)?;
    ensure!(said.contains("as they were left"), "{said}");
    let sent: u64 = flood.ask("?")?.parse()?;
    let came = settled(&mut counter, 0)?;
    println!("of {sent} forbidden packets {came} passed");
    ensure!(came == 0, "of {sent} forbidden packets {came} passed");
    ensure!(allowed.ask("5")? == "alive", "an allowed connection broke");
    // They are of those that come when they may.
    world.apply(OPEN)?;
    ensure!(settled(&mut counter, 0)? > 0, "nothing comes even when it may");
    Ok(())
}

/// A change, again and again and killed in the middle, under connections that come all the time: what no version allows never passes, and
/// an allowed connection never breaks.
#[test]
fn packets_are_judged_by_one_version_or_the_other_while_applies_are_killed() -> Result<()> {
    let (applied, killed) = under_kills(|applied, killed| applied < 12 || killed < 4)?;
    ensure!(applied > 10 && killed > 3, "{applied} applies, {killed} killed");
    Ok(())
}

/// The same for as many applies as are asked for: `LYNCEUS_APPLIES=1000 cargo test --test guard -- --ignored --nocapture a_thousand`.
#[test]
#[ignore = "takes minutes; docs/policy.md has its figures"]
fn packets_are_judged_by_one_version_or_the_other_while_a_thousand_applies_are_killed() -> Result<()> {
    let applies = std::env::var("LYNCEUS_APPLIES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    under_kills(|applied, killed| applied + killed < applies).map(drop)
}

/// How many datagrams came that have the number `first` or a higher one, when no more comes, or when more has come for a second.
fn settled(counter: &mut crate::world::Held, first: u64) -> Result<u64> {
    let mut last = None;
    for _ in 0..20 {
        let now = counter.ask(&first.to_string())?.parse()?;
        if last.replace(now) == Some(now) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    last.context("not asked")
}

/// Applies and kills them as long as `goes_on` by how many ended well and how many were killed before they ended; how many there were.
fn under_kills(goes_on: impl Fn(usize, usize) -> bool) -> Result<(usize, usize)> {
    let world = World::new()?;
    world.apply(OPEN)?;
    let mut counter = world.counter("o", "1999")?;
    let mut flood = world.flood("a", A[0], OUTSIDE[0], "1999", "0.001")?;
    while settled(&mut counter, 0)? == 0 {}
    world.apply(&without("tcp/1000"))?;
    // What is sent to this port from here on is let pass by no version; what was sent before may still be on its way.
    let first = flood.ask("?")?.parse()?;
    let mut allowed = world.hold("a", A[0], OUTSIDE[0], "1001")?;
    let started = Instant::now();
    let (mut applied, mut killed) = (0, 0);
    for round in 0u64.. {
        if !goes_on(applied, killed) {
            break;
        }
        ensure!(round < MAX_ROUNDS, "{applied} applies, {killed} killed");
        // 1000 is denied by both versions, 1001 allowed by both.
        world.write(&if round % 2 == 0 { without("tcp/999-1000") } else { without("tcp/1000") })?;
        let mut child = world.command(&["policy", "apply"]).stdout(std::process::Stdio::null()).spawn()?;
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_millis(round * 7 % 60));
            let _ = child.kill();
        }
        let forbidden =
            world.start_probes("a", &[tcp(A[0], OUTSIDE[0], 1000), tcp(A[1], OUTSIDE[1], 1000)], "0.15")?;
        ensure!(
            crate::world::results(forbidden)? == ["timeout", "timeout"],
            "round {round}: what no version allows passes"
        );
        ensure!(allowed.ask("2")? == "alive", "round {round}: an allowed connection broke");
        let is_done = child.wait()?.success();
        applied += usize::from(is_done);
        if !is_done {
            // What was in force before, or what was to be: whole, and the same in the kernel and on disk.
            world.expect(&["firewall", "restore"], 0)?;
            world.expect(&["firewall", "status"], 0)?;
            killed += 1;
        }
    }
    let sent = flood.ask("?")?.parse::<u64>()? - first;
    let came = settled(&mut counter, first)?;
    println!(
        "{applied} applies ended, {killed} were killed, in {} s; of {sent} forbidden packets {came} passed",
        started.elapsed().as_secs()
    );
    ensure!(came == 0, "of {sent} forbidden packets {came} passed");
    world.expect(&["policy", "apply"], 0)?;
    world.expect(&["firewall", "status"], 0)?;
    Ok((applied, killed))
}
