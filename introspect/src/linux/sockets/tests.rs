//! Socket tables that lie, and the short forms of sockets.

use super::layout::*;
use super::*;
use crate::linux::NetLayout;
use crate::linux::record::Span;
use crate::linux::testing::{Bench, composite, gva, number, pointer};
use crate::{GapReason, Partial};
use lynceus_profiles::{Field, ProfileError};

const TABLE: u64 = 0x1000;
const HASH: u64 = 0x2000;
const LISTENERS: u64 = 0x3000;
const NET: u64 = 0x4000;
const NODE: u64 = 40;

fn missing<T>() -> Result<T, ProfileError> {
    Err(ProfileError::NoType("left out".to_owned()))
}

/// TCP tables of 4 + 1 buckets; sockets of 128 bytes with what full ones add from byte 96 on.
fn bench() -> Bench {
    let mut bench = Bench::new();
    let fields = [number(0, 4), number(4, 4), number(8, 2), number(10, 2), number(12, 2), number(14, 1)];
    let [local4, remote4, remote_port, local_port, family, state] = fields;
    let flag = |bit| Field { bits: Some((bit, 1)), ..number(15, 1) };
    let (net, listener) = (pointer(16), pointer(24));
    let (kind, protocol, uid, socket) = (number(96, 2), number(98, 2), number(100, 4), pointer(104));
    let sock = SockLayout {
        common: Span::of(&[local4, state, flag(0), net, listener]),
        full: Span::of(&[kind, protocol, uid, socket]),
        local4,
        remote4,
        remote_port,
        local_port,
        family,
        state,
        reuse_port: flag(0),
        ipv6_only: flag(1),
        net,
        addresses6: None,
        listener,
        node: composite(NODE as u32, 16),
        kind,
        number: protocol,
        uid,
        socket,
        user_data: pointer(112),
        filter: pointer(64),
        filter_program: pointer(0),
        filter_len: number(8, 4),
        tw_substate: number(56, 1),
        inode: 32,
        inode_number: number(0, 8),
        sock: pointer(0),
        file: pointer(8),
    };
    let tcp = TcpTables {
        global: gva(TABLE).0,
        established: pointer(0),
        established_mask: number(8, 4),
        listening: Listening::Table(pointer(16), number(12, 4)),
        bucket_bytes: 16,
        bucket_chain: pointer(8),
    };
    let net = NetTables { inode: number(16, 4), tcp: None, udp: None, unix: None, packet: None };
    bench.layouts().sockets = Ok(SocketsLayout {
        sock,
        net,
        tcp: Ok(tcp),
        udp: missing(),
        raw: missing(),
        unix: missing(),
        packet: missing(),
        netlink: missing(),
        flight: missing(),
    });
    bench.link(TABLE, HASH).u32(TABLE + 8, 3).u32(TABLE + 12, 0).link(TABLE + 16, LISTENERS);
    bench.u32(NET + 16, 77);
    for bucket in 0..4 {
        bench.u64(HASH + 8 * bucket, 2 * bucket + 1);
    }
    bench.u64(LISTENERS + 8, 1);
    bench
}

fn sock(bench: &mut Bench, at: u64, state: u8, local_port: u16, next: u64) {
    bench.bytes(at, &[127, 0, 0, 1, 10, 0, 0, 2]).bytes(at + 8, &443u16.to_be_bytes());
    bench.bytes(at + 10, &local_port.to_le_bytes()).bytes(at + 12, &[2, 0, state, 1]);
    bench.link(at + 16, NET).u64(at + NODE, next);
    bench.bytes(at + 96, &[1, 0, 6, 0]).u32(at + 100, 1000);
}

fn tcp(bench: &Bench) -> Partial<Socket> {
    let mut found = bench.look(|view| view.sockets_in_tables());
    found.gaps.retain(|gap| gap.what.contains("TCP") || gap.what == "socket");
    found
}

fn local_port(socket: &Socket) -> u16 {
    socket.local.port().unwrap_or(0)
}

#[test]
fn connections_and_listeners_are_listed() {
    let mut bench = bench();
    sock(&mut bench, 0x5000, 1, 8080, gva(0x5100 + NODE).0);
    sock(&mut bench, 0x5100, 1, 8081, 1);
    sock(&mut bench, 0x5200, 10, 22, 1);
    bench.link(HASH + 8, 0x5000 + NODE).link(LISTENERS + 8, 0x5200 + NODE);
    let found = tcp(&bench);
    assert!(found.is_complete(), "{:?}", found.gaps);
    assert_eq!(found.items.iter().map(local_port).collect::<Vec<_>>(), [8080, 8081, 22]);
    let first = &found.items[0];
    assert_eq!((first.state.name(), first.uid, first.namespace), ("ESTAB", 1000, 77));
    assert_eq!(first.remote, Endpoint::Inet(([10, 0, 0, 2], 443).into()));
    assert!(first.reuse_port && !first.ipv6_only && first.in_table);
}

#[test]
fn filters_are_counted_and_those_that_lead_nowhere_are_gaps() {
    let mut bench = bench();
    sock(&mut bench, 0x5000, 1, 8080, 1);
    bench.link(HASH + 8, 0x5000 + NODE).link(0x5040, 0x6000).link(0x6000, 0x6100).u32(0x6108, 31);
    assert_eq!(tcp(&bench).items[0].filter, Some(31));
    bench.u64(0x5040, 0x41);
    let found = tcp(&bench);
    assert!(found.items.is_empty() && matches!(found.gaps[0].reason, GapReason::Access(_)));
}

#[test]
fn mini_sockets_are_not_read_as_full_ones() {
    let mut bench = bench();
    // Both end before RAM does, where a full socket would not fit: page tables follow at 0x1fd000.
    sock(&mut bench, 0x5000, 6, 1, gva(0x5100 + NODE).0);
    sock(&mut bench, 0x5100, 12, 2, 1);
    bench.bytes(0x5000 + 56, &[5]).u32(0x5000 + 100, 4242).u64(0x5000 + 104, 0xdead_0000_0000_0000);
    bench.link(0x5100 + 24, 0x5200).u32(0x5200 + 100, 33).u64(0x5100 + 104, 0xdead_0000_0000_0000);
    bench.link(HASH, 0x5000 + NODE);
    let found = tcp(&bench);
    assert!(found.is_complete(), "{:?}", found.gaps);
    let seen: Vec<_> = found.items.iter().map(|socket| (socket.state.name(), socket.uid)).collect();
    assert_eq!(seen, [("FIN-WAIT-2", 0), ("SYN-RECV", 33)]);
}

#[test]
fn a_chain_in_a_circle_ends() {
    let mut bench = bench();
    sock(&mut bench, 0x5000, 1, 1, gva(0x5100 + NODE).0);
    sock(&mut bench, 0x5100, 1, 2, gva(0x5000 + NODE).0);
    bench.link(HASH, 0x5000 + NODE);
    let found = tcp(&bench);
    assert!(found.items.len() < 8);
    assert_eq!(found.gaps[0].reason, GapReason::Cycle);
}

#[test]
fn absurd_tables_are_gaps() {
    for (at, value) in [(TABLE + 8, u32::MAX), (TABLE + 8, 1 << 30), (TABLE + 12, u32::MAX - 1)] {
        let mut bench = bench();
        bench.u32(at, value);
        let found = tcp(&bench);
        assert!(matches!(found.gaps[0].reason, GapReason::Limit(_)), "{:?}", found.gaps);
    }
    let mut bench = bench();
    bench.u64(TABLE, 0x41);
    assert!(matches!(tcp(&bench).gaps[0].reason, GapReason::Access(_)));
}

#[test]
fn what_is_missing_is_said() {
    let mut bench = bench();
    bench.layouts().net = missing::<NetLayout>();
    let found = bench.look(|view| view.sockets_in_tables());
    for what in ["UDP table", "raw socket table", "netlink table", "network namespaces"] {
        assert!(found.gaps.iter().any(|gap| gap.what == what), "{what}");
    }
    bench.layouts().sockets = missing();
    assert!(!bench.look(|view| view.sockets_in_tables()).is_complete());
}

#[test]
fn names_of_states_and_protocols() {
    assert_eq!(SocketState::LISTEN.name(), "LISTEN");
    assert_eq!(SocketState(200).name(), "UNKNOWN");
    assert_eq!(Protocol::of(10, 3, 58), Protocol::Raw);
    assert_eq!(Protocol::of(2, 2, 17), Protocol::Udp);
    let wrapped = Endpoint::Inet("[::ffff:1.2.3.4]:5".parse().expect("an address"));
    assert_eq!(wrapped.ip(), Some([1, 2, 3, 4].into()));
}

/// A message to the socket at 0x5000, with `count` descriptors.
fn in_flight(count: u32) -> Partial<crate::Gva> {
    let mut bench = bench();
    let flight = held::FlightLayout {
        queue: composite(120, 16),
        control: composite(24, 48),
        files: pointer(8),
        count: number(0, 2),
        list: composite(8, 16),
    };
    bench.layouts().sockets.as_mut().expect("its layout").flight = Ok(flight);
    bench.link(0x5078, 0x6000).link(0x5080, 0x6000).link(0x6000, 0x5078).link(0x6008, 0x5078);
    bench.link(0x6020, 0x7000).u32(0x7000, count).link(0x7008, 0x100).link(0x7010, 0x200);
    bench.look(|view| {
        let socket = Socket {
            at: gva(0x5000),
            protocol: Protocol::Unix,
            family: 1,
            kind: 2,
            number: 0,
            state: SocketState(7),
            local: Endpoint::None,
            remote: Endpoint::None,
            uid: 0,
            inode: 0,
            file: crate::Gva(0),
            user_data: crate::Gva(0),
            filter: None,
            namespace: 0,
            ipv6_only: false,
            reuse_port: false,
            in_table: true,
            owners: Vec::new(),
        };
        let other = Socket { protocol: Protocol::Udp, ..socket.clone() };
        view.files_in_flight(&[socket, other])
    })
}

#[test]
fn files_in_messages_are_found() {
    let found = in_flight(2);
    assert!(found.is_complete(), "{:?}", found.gaps);
    assert_eq!(found.items, [gva(0x100), gva(0x200)]);
    assert!(in_flight(0).items.is_empty());
    assert_eq!(in_flight(4000).gaps[0].reason, GapReason::Limit(256));
}
