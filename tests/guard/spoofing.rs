//! Frames that lie: each is sent by a VM for real, and counted where it is dropped. Frames that do not lie are not dropped.

use crate::world::World;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// A frame of the probe's list, and the counter of where it is dropped; none for one that passes.
const FRAMES: [(&str, Option<&str>); 27] = [
    ("mac", Some("(netdev: mac)")),
    ("arp-address", Some("(netdev: arp)")),
    ("arp-mac", Some("(netdev: arp)")),
    ("arp-gateway", Some("(netdev: arp)")),
    ("ip4", Some("(inet: spoofed)")),
    ("ip4-fragment", None),
    ("ip6", Some("(inet: spoofed)")),
    ("dhcp-server", Some("(netdev: dhcp)")),
    ("dhcp6-server", Some("(netdev: dhcp)")),
    ("router", Some("(netdev: router)")),
    ("router-hidden", Some("(netdev: router)")),
    ("router-fragment", Some("(netdev: neighbour)")),
    ("router-hidden-fragment", Some("(netdev: neighbour)")),
    ("redirect", Some("(netdev: router)")),
    ("advert-address", Some("(netdev: neighbour)")),
    ("advert-gateway", Some("(netdev: neighbour)")),
    ("advert-mac", Some("(netdev: neighbour)")),
    ("advert-second-option", Some("(netdev: neighbour)")),
    ("vlan", Some("(netdev: protocol)")),
    ("vlan-arp", Some("(netdev: protocol)")),
    ("double-vlan", Some("(netdev: protocol)")),
    ("protocol", Some("(netdev: protocol)")),
    ("good-arp", None),
    ("good-arp-probe", None),
    ("good-ip4", None),
    ("good-ip6", None),
    ("good-advert", None),
];

fn drops(world: &World) -> Result<BTreeMap<String, u64>> {
    let output = world.lynceus(&["--json", "firewall", "rules"])?;
    let mut drops = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let rule = row["rule"].as_str().context("no rule")?.to_owned();
        if rule.starts_with('(') {
            drops.insert(rule, row["packets"].as_u64().context("no count")?);
        }
    }
    Ok(drops)
}

#[test]
fn packets_that_lie_are_dropped_and_counted() -> Result<()> {
    let world = World::new()?;
    world.apply("[policy.open]\nselect='all()'\ndefault={in='allow',out='allow'}")?;
    for (frame, counter) in FRAMES {
        let before = drops(&world)?;
        world.send("a", frame)?;
        let after = drops(&world)?;
        let counted: Vec<&str> = after
            .iter()
            .filter(|(name, count)| before.get(*name) != Some(*count))
            .map(|(name, _)| name.as_str())
            .collect();
        ensure!(
            counted == counter.into_iter().collect::<Vec<_>>(),
            "{frame}: counted by {counted:?}, not {counter:?}"
        );
    }
    let neighbours = world.host("ip neigh show dev vif1.0")?;
    for stolen in ["10.0.2.2", "fd00:2::2"] {
        ensure!(
            !neighbours.contains(stolen),
            "the host believes that {stolen} is behind vif1.0:\n{neighbours}"
        );
    }
    Ok(())
}
