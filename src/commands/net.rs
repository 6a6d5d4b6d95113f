//! `lynceus net`: network interfaces with their addresses.

use crate::output::{Column, Row};
use lynceus_introspect::linux::Interface;
use serde::Serialize;

/// Flags of `if.h` that a person asks for (Linux uapi `linux/if.h`).
const FLAGS: [(u32, &str); 5] =
    [(1, "UP"), (1 << 3, "LOOPBACK"), (1 << 8, "PROMISC"), (1 << 12, "MULTICAST"), (1 << 16, "LOWER_UP")];

/// One interface.
#[derive(Serialize)]
pub(super) struct NetRow {
    namespace: u32,
    index: u32,
    name: String,
    kind: Option<String>,
    mac: String,
    mtu: u32,
    flags: Vec<&'static str>,
    addresses: Vec<String>,
}

impl From<Interface> for NetRow {
    fn from(interface: Interface) -> NetRow {
        let mac: Vec<String> = interface.hardware.iter().map(|byte| format!("{byte:02x}")).collect();
        let address = |a: &lynceus_introspect::linux::InterfaceAddress| format!("{}/{}", a.ip, a.prefix_bits);
        NetRow {
            namespace: interface.namespace,
            index: interface.index,
            name: interface.name,
            kind: interface.kind,
            mac: mac.join(":"),
            mtu: interface.mtu,
            flags: FLAGS
                .iter()
                .filter(|(bit, _)| interface.flags & bit != 0)
                .map(|(_, name)| *name)
                .collect(),
            addresses: interface.addresses.iter().map(address).collect(),
        }
    }
}

impl Row for NetRow {
    const COLUMNS: &'static [Column] = &[
        Column::right("NETNS"),
        Column::right("INDEX"),
        Column::left("NAME"),
        Column::left("KIND"),
        Column::left("MAC"),
        Column::right("MTU"),
        Column::left("FLAGS"),
        Column::left("ADDRESSES"),
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.namespace.to_string(),
            self.index.to_string(),
            self.name.clone(),
            self.kind.clone().unwrap_or_else(|| "-".to_owned()),
            self.mac.clone(),
            self.mtu.to_string(),
            self.flags.join(","),
            self.addresses.join(" "),
        ]
    }
}
