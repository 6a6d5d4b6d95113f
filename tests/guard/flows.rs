//! What rules tell of comes out of the kernel as flows, and goes into a plan again.

use crate::world::{Probe, World};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const POLICY: &str = "[policy.web]\nselect='all()'\ndefault={in='deny',out='allow'}\n\
    [[policy.web.rule]]\nname='known'\naction='allow'\ndirection='in'\npeer={addresses=['10.0.1.0/24']}\nservices=['tcp/1000']\nlog=true\n\
    [[policy.web.rule]]\nname='knock'\naction='deny'\ndirection='in'\nservices=['tcp/1001']\nlog=true\n";

#[test]
fn packets_that_rules_tell_of_are_flows() -> Result<()> {
    let world = World::new()?;
    world.apply(POLICY)?;
    let mut child = world
        .command(&["--json", "firewall", "flows", "--count", "3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It listens when a second listener is refused.
    for tries in 0.. {
        let second = world.command(&["firewall", "flows", "--count", "0"]).output()?;
        if String::from_utf8_lossy(&second.stderr).contains("another program reads the flow log") {
            break;
        }
        ensure!(tries < 200, "nobody listens: {}", String::from_utf8_lossy(&second.stderr));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
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
