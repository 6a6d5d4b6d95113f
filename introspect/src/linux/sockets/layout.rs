//! Members of sockets and of the tables that hold them.

use super::held::FlightLayout;
use crate::linux::Resolved;
use crate::linux::record::Span;
use lynceus_profiles::{Field, Profile};

/// Members of sockets and of the kernel's socket tables.
#[derive(Clone, Debug)]
pub struct SocketsLayout {
    pub(super) sock: SockLayout,
    pub(super) net: NetTables,
    pub(super) tcp: Resolved<TcpTables>,
    pub(super) udp: Resolved<UdpTables>,
    pub(super) raw: Resolved<RawTables>,
    pub(super) unix: Resolved<UnixLayout>,
    pub(super) packet: Resolved<PacketLayout>,
    pub(super) netlink: Resolved<NetlinkLayout>,
    pub(super) flight: Resolved<FlightLayout>,
}

/// Members of `struct sock` and of its mini forms.
#[derive(Clone, Debug)]
pub(super) struct SockLayout {
    /// What full and mini sockets share.
    pub common: Span,
    /// What only a full socket has.
    pub full: Span,
    pub local4: Field,
    pub remote4: Field,
    pub remote_port: Field,
    pub local_port: Field,
    pub family: Field,
    pub state: Field,
    pub reuse_port: Field,
    pub ipv6_only: Field,
    pub net: Field,
    pub addresses6: Option<(Field, Field)>,
    pub listener: Field,
    pub node: Field,
    pub kind: Field,
    pub number: Field,
    pub uid: Field,
    pub socket: Field,
    pub user_data: Field,
    pub filter: Field,
    /// From a `struct sk_filter` to its `struct bpf_prog`, and to how long that is.
    pub filter_program: Field,
    pub filter_len: Field,
    pub tw_substate: Field,
    /// From a `struct socket` to its inode.
    pub inode: u32,
    pub inode_number: Field,
    /// From a `struct socket` to its `struct sock`.
    pub sock: Field,
    /// From a `struct socket` to its `struct file`.
    pub file: Field,
}

/// Members of `struct net`.
#[derive(Clone, Debug)]
pub(super) struct NetTables {
    pub inode: Field,
    pub tcp: Option<Field>,
    pub udp: Option<Field>,
    pub unix: Option<Field>,
    pub packet: Option<Field>,
}

#[derive(Clone, Debug)]
pub(super) struct TcpTables {
    /// Link-time address of `tcp_hashinfo`.
    pub global: u64,
    pub established: Field,
    pub established_mask: Field,
    pub listening: Listening,
    pub bucket_bytes: u32,
    /// The chain within a bucket of listening sockets.
    pub bucket_chain: Field,
}

/// Where listening sockets are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Listening {
    /// An array inside `struct inet_hashinfo` (to 5.18).
    Inside(Field),
    /// A table of its own: pointer and mask (`lhash2`, from 5.19).
    Table(Field, Field),
}

#[derive(Clone, Debug)]
pub(super) struct UdpTables {
    /// Link-time addresses of the global tables that this kernel has.
    pub globals: Vec<u64>,
    pub hash: Field,
    pub mask: Field,
    pub slot_bytes: u32,
    pub slot_chain: Field,
}

#[derive(Clone, Debug)]
pub(super) struct RawTables {
    /// Link-time addresses of the tables of raw IPv4 and IPv6 and of ICMP sockets, each with its array of chains.
    pub tables: Vec<(u64, Field)>,
}

#[derive(Clone, Debug)]
pub(super) struct UnixLayout {
    /// Link-time address of the one global table (to 5.18).
    pub global: Option<u64>,
    pub address: Field,
    pub peer: Field,
    pub address_len: Field,
    pub address_name: Field,
}

#[derive(Clone, Debug)]
pub(super) struct PacketLayout {
    pub ether_type: Field,
    pub interface: Field,
}

#[derive(Clone, Debug)]
pub(super) struct NetlinkLayout {
    /// Link-time address of the pointer `nl_table`.
    pub tables: u64,
    pub table_bytes: u32,
    pub hash: Field,
    pub buckets_pointer: Field,
    pub size: Field,
    pub nest: Field,
    pub next_table: Field,
    pub buckets: Field,
    pub node: Field,
    pub port: Field,
    pub groups: Field,
}

impl SocketsLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        Ok(SocketsLayout {
            sock: SockLayout::resolve(profile)?,
            net: NetTables {
                inode: profile.field("net", "ns.inum")?,
                tcp: profile.field("net", "ipv4.tcp_death_row.hashinfo").ok(),
                udp: profile.field("net", "ipv4.udp_table").ok(),
                unix: profile.field("net", "unx.table.buckets").ok(),
                packet: profile.field("net", "packet.sklist").ok(),
            },
            tcp: TcpTables::resolve(profile),
            udp: UdpTables::resolve(profile),
            raw: RawTables::resolve(profile),
            unix: UnixLayout::resolve(profile),
            packet: PacketLayout::resolve(profile),
            netlink: NetlinkLayout::resolve(profile),
            flight: FlightLayout::resolve(profile),
        })
    }
}

impl SockLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        let common = |path| profile.field("sock_common", path);
        let sock = |path| profile.field("sock", path);
        let (local4, remote4) = (common("skc_rcv_saddr")?, common("skc_daddr")?);
        let (remote_port, local_port) = (common("skc_dport")?, common("skc_num")?);
        let (family, state) = (common("skc_family")?, common("skc_state")?);
        let (reuse_port, ipv6_only) = (common("skc_reuseport")?, common("skc_ipv6only")?);
        let net = common("skc_net.net")?;
        let addresses6 = common("skc_v6_rcv_saddr").and_then(|at| Ok((at, common("skc_v6_daddr")?))).ok();
        let listener = common("skc_listener")?;
        let (kind, number) = (sock("sk_type")?, sock("sk_protocol")?);
        let (uid, socket, user_data) = (sock("sk_uid")?, sock("sk_socket")?, sock("sk_user_data")?);
        let mut shared = vec![local4, remote4, remote_port, local_port, family, state, net, listener];
        shared.extend([reuse_port, ipv6_only]);
        shared.extend(addresses6.into_iter().flat_map(|(local, remote)| [local, remote]));
        Ok(SockLayout {
            common: Span::of(&shared),
            full: Span::of(&[kind, number, uid, socket]),
            local4,
            remote4,
            remote_port,
            local_port,
            family,
            state,
            reuse_port,
            ipv6_only,
            net,
            addresses6,
            listener,
            node: common("skc_node")?,
            kind,
            number,
            uid,
            socket,
            user_data,
            filter: sock("sk_filter")?,
            filter_program: profile.field("sk_filter", "prog")?,
            filter_len: profile.field("bpf_prog", "len")?,
            tw_substate: profile.field("inet_timewait_sock", "tw_substate")?,
            inode: profile.field("socket_alloc", "vfs_inode")?.offset,
            inode_number: profile.field("inode", "i_ino")?,
            sock: profile.field("socket", "sk")?,
            file: profile.field("socket", "file")?,
        })
    }
}

impl TcpTables {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        let table = |path| profile.field("inet_hashinfo", path);
        let listening = match table("listening_hash") {
            Ok(inside) => Listening::Inside(inside),
            Err(_) => Listening::Table(table("lhash2")?, table("lhash2_mask")?),
        };
        Ok(TcpTables {
            global: profile.symbol("tcp_hashinfo")?,
            established: table("ehash")?,
            established_mask: table("ehash_mask")?,
            listening,
            bucket_bytes: profile.size_of("inet_listen_hashbucket")?,
            bucket_chain: profile.field("inet_listen_hashbucket", "nulls_head")?,
        })
    }
}

impl UdpTables {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        let globals = ["udp_table", "udplite_table"];
        Ok(UdpTables {
            globals: globals.iter().filter_map(|name| profile.symbol(name).ok()).collect(),
            hash: profile.field("udp_table", "hash")?,
            mask: profile.field("udp_table", "mask")?,
            slot_bytes: profile.size_of("udp_hslot")?,
            slot_chain: profile.field("udp_hslot", "head")?,
        })
    }
}

impl RawTables {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        let raw = profile.field("raw_hashinfo", "ht")?;
        let ping = profile.field("ping_table", "hash");
        let mut tables = vec![(profile.symbol("raw_v4_hashinfo")?, raw)];
        // IPv6 may be a module and ping sockets may be left out of a kernel.
        tables.extend(profile.symbol("raw_v6_hashinfo").map(|at| (at, raw)));
        tables.extend(profile.symbol("ping_table").and_then(|at| Ok((at, ping?))));
        Ok(RawTables { tables })
    }
}

impl UnixLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        Ok(UnixLayout {
            global: profile.symbol("unix_socket_table").ok(),
            address: profile.field("unix_sock", "addr")?,
            peer: profile.field("unix_sock", "peer")?,
            address_len: profile.field("unix_address", "len")?,
            address_name: profile.field("unix_address", "name")?,
        })
    }
}

impl PacketLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        Ok(PacketLayout {
            ether_type: profile.field("packet_sock", "num")?,
            interface: profile.field("packet_sock", "ifindex")?,
        })
    }
}

impl NetlinkLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        Ok(NetlinkLayout {
            tables: profile.symbol("nl_table")?,
            table_bytes: profile.size_of("netlink_table")?,
            hash: profile.field("netlink_table", "hash")?,
            buckets_pointer: profile.field("rhashtable", "tbl")?,
            size: profile.field("bucket_table", "size")?,
            nest: profile.field("bucket_table", "nest")?,
            next_table: profile.field("bucket_table", "future_tbl")?,
            buckets: profile.field("bucket_table", "buckets")?,
            node: profile.field("netlink_sock", "node")?,
            port: profile.field("netlink_sock", "portid")?,
            groups: profile.field("netlink_sock", "groups")?,
        })
    }
}
