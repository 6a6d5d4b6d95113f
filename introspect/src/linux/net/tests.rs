//! Interfaces in hand-made memory.

use super::*;
use crate::linux::testing::{Bench, composite, gva, number, pointer};

const LIST: u64 = 0x800;
const NET: u64 = 0x1000;
const DEVICE: u64 = 0x2000;

/// One namespace with one device that has two IPv4 addresses.
fn bench() -> Bench {
    let mut bench = Bench::new();
    let (name, index, mtu, flags) = (composite(0, 16), number(16, 4), number(20, 4), number(24, 4));
    let (state, operational) = (number(32, 8), number(40, 1));
    let (hardware_len, hardware, ipv4) = (number(41, 1), pointer(48), pointer(56));
    bench.layouts().net = Ok(NetLayout {
        namespaces: gva(LIST).0,
        namespace_node: composite(0, 16),
        namespace_inode: number(16, 4),
        devices: composite(32, 16),
        device_node: composite(64, 16),
        device: Span::of(&[name, ipv4]),
        name,
        index,
        mtu,
        flags,
        state,
        operational,
        hardware,
        hardware_len,
        link_ops: pointer(80),
        link_kind: pointer(0),
        ipv4,
        ipv6: None,
        ipv4_first: pointer(0),
        ipv4_span: Span::of(&[pointer(0), number(8, 8)]),
        ipv4_next: pointer(0),
        ipv4_local: number(8, 4),
        ipv4_prefix: number(12, 1),
    });
    bench.link(LIST, NET).link(LIST + 8, NET).link(NET, LIST).link(NET + 8, LIST).u32(NET + 16, 99);
    bench.link(NET + 32, DEVICE + 64).link(NET + 40, DEVICE + 64);
    bench.link(DEVICE + 64, NET + 32).link(DEVICE + 72, NET + 32);
    bench.bytes(DEVICE, b"eth0\0").u32(DEVICE + 16, 2).u32(DEVICE + 20, 1500).u32(DEVICE + 24, 0x1043);
    bench.u64(DEVICE + 32, 0b11).bytes(DEVICE + 40, &[6, 6]).link(DEVICE + 48, 0x3000);
    bench.bytes(0x3000, &[2, 0, 0, 0, 0, 1]).link(DEVICE + 56, 0x4000).link(0x4000, 0x4100);
    bench.link(0x4100, 0x4200).bytes(0x4108, &[10, 0, 0, 1, 24]).bytes(0x4208, &[10, 0, 0, 2, 255]);
    bench
}

#[test]
fn an_interface_has_its_addresses() {
    let found = bench().look(|view| view.interfaces());
    assert!(found.is_complete(), "{:?}", found.gaps);
    let eth0 = &found.items[0];
    assert_eq!((eth0.name.as_str(), eth0.index, eth0.namespace, eth0.mtu), ("eth0", 2, 99, 1500));
    assert_eq!(eth0.hardware, [2, 0, 0, 0, 0, 1]);
    // Up, broadcast, multicast kept; running and lower-up follow from the state.
    assert_eq!(eth0.flags, 0x1_1043);
    let addresses: Vec<_> = eth0.addresses.iter().map(|at| (at.ip.to_string(), at.prefix_bits)).collect();
    assert_eq!(addresses, [("10.0.0.1".to_owned(), 24), ("10.0.0.2".to_owned(), 32)]);
}

#[test]
fn lying_lengths_and_loops_end() {
    let mut bench = bench();
    bench.bytes(DEVICE + 41, &[255]).link(0x4200, 0x4100).link(DEVICE + 64, DEVICE + 64);
    let found = bench.look(|view| view.interfaces());
    assert!(found.items.iter().all(|interface| interface.hardware.len() == MAX_HARDWARE_BYTES));
    assert_eq!(found.gaps.iter().filter(|gap| gap.reason == GapReason::Cycle).count(), 2);
}

#[test]
fn a_namespace_list_into_nowhere_is_a_gap() {
    let mut bench = bench();
    bench.u64(LIST, 0x1234);
    assert!(!bench.look(|view| view.net_namespaces()).is_complete());
}
