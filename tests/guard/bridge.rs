//! A bridge's ports, on a kernel that tracks connections on bridges: Debian's, in a guest. This machine's need not be one.
//!
//! The guest plays the host: it brings this very test program along, `lynceus`, nft and ip, and runs the test that is named here as ignored.

use crate::enforcer::{Enforcer, soon};
use crate::held::{RECORDED, record};
use crate::truth::{compare, probes};
use crate::world::{Probe, World, script};
use anyhow::{Result, ensure};
use lynceus_lab::luggage::{FIREWALL_MODULES, LOAD, Luggage};
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};

/// Beside what all rules need: namespaces' cards, packets that wait, connections that are listed.
const MODULES: &[&str] = &["veth", "nft_queue", "nfnetlink_queue", "nf_conntrack_netlink"];

#[test]
fn packets_on_a_bridge_of_debians_kernel() -> Result<()> {
    let test = std::env::current_exe()?;
    let program = |path: &str| path.into();
    let programs =
        [env!("CARGO_BIN_EXE_lynceus"), "/usr/sbin/nft", "/usr/sbin/ip", "/usr/bin/sh"].map(program);
    // In the guest something else is mounted on /tmp.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let recorded = folder.path().join(RECORDED);
    record(&recorded)?;
    let mut luggage = Luggage {
        programs: [&programs[..], std::slice::from_ref(&test)].concat(),
        // nft looks protocols up by name.
        files: vec![script(), "/etc/protocols".into(), recorded.clone()],
        modules: [FIREWALL_MODULES, MODULES].concat(),
    };
    luggage.python("json, mmap, os, select, socket, struct, sys, time")?;
    let name = format!("lyn{}bridge", std::process::id());
    let spec = Spec {
        name,
        memory_mib: 1536,
        luggage: Some(luggage),
        ..Spec::everyday(KernelVersion::V6_1, Paging::Four)
    };
    let guest = Guest::boot(&spec)?;
    guest.run(LOAD)?;
    guest.run("mkdir -p /var/run/netns")?;
    // Each by itself, in the time that a command has in a guest.
    for inside in [
        "bridge::on_a_kernel_that_holds_packets",
        "held::of_a_known_process",
        "bridge::on_a_kernel_that_tracks_bridges",
    ] {
        let said = guest.run(&format!(
            "PATH=/usr/sbin:/usr/bin:/bin {RECORDED}={} timeout 115 {} --ignored --exact --nocapture {inside} 2>&1",
            recorded.display(),
            test.display()
        ))?;
        println!("{said}");
        ensure!(said.contains("1 passed"), "{said}");
    }
    Ok(())
}

#[test]
#[ignore = "runs inside the guest of packets_on_a_bridge_of_debians_kernel"]
fn on_a_kernel_that_tracks_bridges() -> Result<()> {
    let world = World::bridged()?;
    let direct: Vec<_> = probes().into_iter().filter(|(_, to, _)| to.is_some()).collect();
    compare(&world, &direct, 3, true)?;
    let ports = world.expect(&["firewall", "status"], 0)?;
    ensure!(ports.contains("bridged") && !ports.contains("routed"), "{ports}");

    // Who is isolated is cut off from its neighbours on the bridge, open connections and all.
    world.apply("[policy.open]\nselect='all()'\ndefault={in='allow',out='allow'}\n")?;
    let (a, b) = (crate::world::MEMBERS[0].3[0], crate::world::MEMBERS[1].3[0]);
    let probe = Probe { proto: "tcp", source: a, target: b, port: 1000 };
    let mut open = world.hold("a", a, b, "1001")?;
    ensure!(world.probe(probe)? == "open" && open.ask("1")? == "alive");
    world.expect(&["isolate", "b"], 0)?;
    ensure!(world.probe(probe)? == "timeout" && open.ask("1")? == "dead", "an isolated VM is reached");
    world.expect(&["release", "b"], 0)?;
    ensure!(world.probe(probe)? == "open", "a released VM is not reached");
    Ok(())
}

/// Packets wait for whoever knows their process. Nobody does here; the rules say what happens then.
#[test]
#[ignore = "runs inside the guest of packets_on_a_bridge_of_debians_kernel"]
fn on_a_kernel_that_holds_packets() -> Result<()> {
    let world = World::bridged()?;
    let rule = |port: u16, unknown: &str| {
        format!(
            "[[policy.p.rule]]\ndirection='out'\naction='allow'\nservices=['tcp/{port}','udp/{port}']\nprocess={{uid=0{unknown}}}\n"
        )
    };
    world.apply(&format!(
        "[policy.p]\nselect='all()'\ndefault={{in='allow',out='deny'}}\n{}{}",
        rule(1000, ",unknown='allow'"),
        rule(1001, "")
    ))?;
    let rules = world.host("nft list table bridge lynceus")?;
    ensure!(rules.contains("queue") && !rules.contains("log prefix \"lynceus ask"), "{rules}");
    let (a, b) = (crate::world::MEMBERS[0].3[0], crate::world::MEMBERS[1].3[0]);
    let probe = |proto, port| world.probe(Probe { proto, source: a, target: b, port });
    ensure!(probe("tcp", 1000)? == "timeout", "a packet passes a queue that nobody reads");
    let mut enforcer = Enforcer::start_with(&world, &["--json"])?;
    // The probe gives up before TCP would send a second time: it is the first packet that passes.
    soon("the first packet passes", || Ok(probe("tcp", 1000)? == "open"))?;
    ensure!(probe("udp", 1000)? == "open", "a datagram that waited does not pass");
    ensure!(probe("tcp", 1001)? == "timeout", "what is not known passes");
    let told = enforcer.until("\"service\":\"tcp/1001\"")?;
    ensure!(
        told.contains("\"who\":\"unknown\"") && told.contains("\"deny\"") && told.contains("vif1.0"),
        "{told}"
    );
    Ok(())
}
