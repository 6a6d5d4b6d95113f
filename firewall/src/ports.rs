//! This host's interfaces, as `/sys/class/net` tells them, and which of them belong to which VM's card.
//!
//! *Trusts*: the host's kernel, and what the caller learned from the hypervisor. *Never*: asks the guest.

use crate::nft::Path as PortPath;
use crate::state::Binding;
use lynceus_policy::{Mac, VmPolicy};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

/// An interface of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its own MAC, which is not the guest's.
    pub mac: Option<Mac>,
    /// What it is switched by.
    pub switch: Switch,
    /// Whether it is a bridge of the kernel's itself.
    pub is_bridge: bool,
}

/// What an interface is switched by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Switch {
    /// By nothing: its packets are routed.
    None,
    /// By the kernel's bridge.
    Bridge,
    /// By something whose packets netfilter does not see, such as Open vSwitch.
    Other(String),
}

/// All interfaces.
pub fn devices(sys_class_net: &Path) -> std::io::Result<Vec<Device>> {
    let mut devices = Vec::new();
    for entry in std::fs::read_dir(sys_class_net)? {
        let folder = entry?.path();
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { continue };
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        // An interface may vanish while it is looked at.
        let Some(index) = read("ifindex").and_then(|text| text.trim().parse().ok()) else { continue };
        let mac = read("address").and_then(|text| text.trim().parse().ok());
        let is_bridge = folder.join("bridge").exists();
        devices.push(Device { name: name.to_owned(), index, mac, switch: switch(&folder), is_bridge });
    }
    devices.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(devices)
}

fn switch(folder: &Path) -> Switch {
    if folder.join("brport").exists() {
        return Switch::Bridge;
    }
    match std::fs::read_link(folder.join("master")) {
        Ok(master) => Switch::Other(master.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        Err(_) => Switch::None,
    }
}

/// What the hypervisor says of the card behind a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card {
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses, where it says.
    pub addresses: Vec<IpAddr>,
}

/// Which ports belong to whom. `known` is what the hypervisor says of ports.
///
/// A card is found by the port that the policy names, by the hypervisor's word, or by libvirt's habit of giving a tap the card's MAC with
/// `fe` in front.
pub fn bind<'a>(
    vms: impl IntoIterator<Item = &'a VmPolicy>,
    devices: &[Device],
    known: &BTreeMap<String, Card>,
    bridge_has_conntrack: bool,
) -> BTreeMap<String, Binding> {
    let mut ports = BTreeMap::new();
    for policy in vms {
        for (number, interface) in policy.vm.interfaces.iter().enumerate() {
            let is_its = |device: &&Device| match (&interface.port, known.get(&device.name)) {
                (Some(port), _) => *port == device.name,
                (None, Some(card)) => card.mac == interface.mac,
                (None, None) => {
                    let is_tap =
                        crate::host::PORT_PREFIXES.iter().any(|prefix| device.name.starts_with(prefix));
                    is_tap
                        && device
                            .mac
                            .is_some_and(|mac| mac.0[0] == 0xfe && mac.0[1..] == interface.mac.0[1..])
                }
            };
            for device in devices.iter().filter(is_its) {
                let path = match device.switch {
                    Switch::None => Some(PortPath::Routed),
                    Switch::Bridge if bridge_has_conntrack => Some(PortPath::Bridged),
                    Switch::Bridge | Switch::Other(_) => None,
                };
                let card = known.get(&device.name).filter(|card| card.mac == interface.mac);
                let binding = Binding {
                    vm: policy.vm.name.clone(),
                    interface: number,
                    path,
                    index: device.index,
                    addresses: card.map(|card| card.addresses.clone()).unwrap_or_default(),
                };
                ports.insert(device.name.clone(), binding);
            }
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use lynceus_policy::{Folder, Policy};

    #[test]
    fn a_card_is_found_by_port_by_hypervisor_and_by_libvirts_mac() {
        let text = r#"
[vm.a]
[[vm.a.interface]]
port = "tap0"
mac = "52:54:00:00:00:01"
addresses = []
[[vm.a.interface]]
mac = "52:54:00:00:00:02"
addresses = []
[vm.b]
[[vm.b.interface]]
mac = "00:16:3e:00:00:03"
addresses = []
"#;
        let policy = Policy::of(&Folder::parse(vec![("a".to_owned(), text.to_owned())]).unwrap()).unwrap();
        let device = |name: &str, mac: &str, switch| Device {
            name: name.to_owned(),
            index: 7,
            mac: mac.parse().ok(),
            switch,
            is_bridge: false,
        };
        let devices = [
            device("tap0", "fe:00:00:00:00:99", Switch::None),
            device("vnet5", "fe:54:00:00:00:02", Switch::Bridge),
            device("vif4.0", "fe:ff:ff:ff:ff:ff", Switch::Other("ovs-system".to_owned())),
            device("eth0", "fe:54:00:00:00:02", Switch::None),
        ];
        let card =
            Card { mac: "00:16:3e:00:00:03".parse().unwrap(), addresses: vec!["10.0.0.3".parse().unwrap()] };
        let known = BTreeMap::from([("vif4.0".to_owned(), card)]);
        let ports = bind(policy.vms.values(), &devices, &known, true);
        let told = |name: &str| ports.get(name).map(|port| (port.vm.as_str(), port.interface, port.path));
        assert_eq!(told("tap0"), Some(("a", 0, Some(PortPath::Routed))));
        assert_eq!(told("vnet5"), Some(("a", 1, Some(PortPath::Bridged))));
        assert_eq!(told("vif4.0"), Some(("b", 0, None)));
        assert_eq!(ports["vif4.0"].addresses, known["vif4.0"].addresses);
        assert_eq!(ports.len(), 3);
        let without = bind(policy.vms.values(), &devices, &known, false);
        assert_eq!(without["vnet5"].path, None);
    }
}
