//! Ways round rules about processes, tried by a program in a real guest that is not the one that is let out.

use crate::enforcer::{Enforcer, soon};
use crate::processes::Desk;
use crate::world::World;
use anyhow::{Result, ensure};
use lynceus_lab::KernelVersion;
use lynceus_lab::luggage::Luggage;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn packets_do_not_pass_for_who_borrows_a_name() -> Result<()> {
    let world = World::new()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guard/evade.py");
    let mut luggage = Luggage { files: vec![script.clone()], ..Luggage::default() };
    luggage.python("array, ctypes, os, select, socket, struct, subprocess, sys, time")?;
    let desk = Desk::boot_with(&world, KernelVersion::V6_1, Some(luggage))?;
    desk.guest.run("cp /usr/bin/python3 /opt/good/py && cp /usr/bin/python3 /opt/bad/py")?;
    let policy = "[policy.desk]\nvms=['desk']\n[[policy.desk.rule]]\nname='good'\ndirection='out'\naction='allow'\nservices=['tcp/1000']\nprocess={exe='/opt/good/py'}\n";
    world.apply(&format!("{}{}", desk.inventory(), policy.replace("'desk'", &format!("'{}'", desk.name))))?;
    let mut enforcer = Enforcer::start_with(&world, &["--json"])?;
    let command = |program: &str, way: &str, port: u16| {
        format!("PYTHONHOME=/usr /opt/{program}/py {} {way} {port} 2>&1", script.display())
    };
    soon("the program that is meant is let out", || {
        Ok(desk.guest.run(&command("good", "plain", 41000))?.contains("plain REACHED"))
    })?;

    // A good one in a namespace of the attacker's has a connection with the same ends; all of them at a time.
    let decoy = format!(
        "unshare -n sh -c 'ip link set lo up; ip addr add 10.0.8.2/32 dev lo; ip route add 192.0.2.1/32 dev lo; {}' >/dev/null 2>&1 & \
         until test -e /tmp/stays; do usleep 50000; done; ",
        command("good", "stays", 41001)
    );
    let ways =
        [("decoy", 41001), ("plain", 41002), ("shared", 41003), ("handed", 41004), ("underway", 41005)];
    let ways = [&ways[..], &[("friend", 41006), ("raw", 41007)]].concat();
    let all: Vec<String> =
        ways.iter().map(|(way, port)| format!("({}) &", command("bad", way, *port))).collect();
    let said = desk.guest.run(&format!("{decoy} ({} wait)", all.join(" ")))?;
    ensure!(!said.contains("REACHED") && said.contains("raw sent"), "{said}");
    for (way, _) in ways.iter().filter(|(way, _)| *way != "raw") {
        ensure!(said.contains(&format!("{way} STOPPED")), "{way}: {said}");
    }
    // Each is told of, in whatever order.
    let mut left: BTreeMap<u64, &str> = ways.iter().map(|(way, port)| (u64::from(*port), *way)).collect();
    while !left.is_empty() {
        let told: Value = serde_json::from_str(&enforcer.until("\"verdict\":\"deny\"")?)?;
        if let Some(way) = told["source_port"].as_u64().and_then(|port| left.remove(&port)) {
            let holders = told["processes"].as_array().map_or(0, Vec::len);
            println!("{way}: {} {}", told["who"], told["processes"]);
            // Of a decoy both sockets count.
            ensure!(way != "decoy" || holders == 2, "{told}");
        }
    }
    // Who has become the good one, with nothing left of what it was, is the good one; and one that moves keeps what is its own.
    for (program, way, port) in [("bad", "becomes", 41008), ("good", "moves", 41009)] {
        let said = desk.guest.run(&command(program, way, port))?;
        ensure!(said.contains("REACHED"), "{way}: {said}");
    }
    ensure!(desk.guest.run(&command("bad", "moves", 41010))?.contains("STOPPED"), "who moves is let out");
    Ok(())
}
