//! The kernel's own tables of sockets, and the two roads to a socket joined.

use super::holders::Connection;
use super::layout::{Listening, NetlinkLayout, TcpTables, UdpTables};
use super::sock::Socks;
use super::types::{Owner, Protocol, Socket};
use crate::linux::View;
use crate::{GapReason, Gva, Partial};
use std::collections::HashMap;

/// Largest hash table read, in buckets: the kernel's TCP table is capped at 2^19.
const MAX_BUCKETS: u32 = 1 << 20;
/// Chain heads read at a time.
const HEADS_AT_A_TIME: u32 = 512;
/// More sockets than this are counted as a limit, not kept.
const MAX_SOCKETS: usize = 1 << 20;
/// Buckets of the Unix table, in every kernel since 2.4.
const UNIX_BUCKETS: u32 = 512;
/// Netlink units (`MAX_LINKS`).
const NETLINK_UNITS: u32 = 32;
/// Tables that a resize leaves chained.
const MAX_RESIZES: usize = 8;

impl<'a> View<'a> {
    /// The sockets in the kernel's own tables, of every network namespace: what `/proc/net/{tcp,tcp6,udp,udp6,raw,raw6,
    /// icmp,unix,packet,netlink}` list. Without owners.
    pub fn sockets_in_tables(&self) -> Partial<Socket> {
        let layout = match &self.kernel().layouts.sockets {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("sockets", missing.clone()),
        };
        let mut tables = Tables { socks: Socks::new(self, layout), wanted: None, found: Partial::default() };
        tables.walk();
        tables.found
    }

    /// The sockets of the kernel's own tables that packets of a connection come from or go to, without owners. Of a connection that the
    /// guest opens: the socket that is connected so, or a UDP socket that has not said to whom. Of one that it accepts also those
    /// that listen there.
    pub fn sockets_of_connection(&self, wanted: &Connection) -> Partial<Socket> {
        let layout = match &self.kernel().layouts.sockets {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("sockets", missing.clone()),
        };
        let (socks, wanted) = (Socks::new(self, layout), Some(*wanted));
        let mut tables = Tables { socks, wanted, found: Partial::default() };
        let nets = tables.nets();
        match wanted.map(|wanted| wanted.protocol) {
            Some(Protocol::Tcp) => tables.all_tcp(&nets),
            Some(Protocol::Udp) => tables.all_udp(&nets),
            _ => {}
        }
        tables.found
    }

    /// The socket of a file, from the file's private data (`struct socket`).
    pub fn socket_of_file(&self, private: Gva) -> Result<Socket, GapReason> {
        let layout = self.kernel().layouts.sockets.as_ref().map_err(Clone::clone)?;
        let sock = Gva(self.integer(private, layout.sock.sock)?);
        Socks::new(self, layout).socket(sock)
    }

    /// Every socket: those in the kernel's tables and those that `processes` hold, each with all of its owners.
    /// A process is its pid, its name and its descriptor table (`task_struct.files`).
    pub fn sockets_of(&self, processes: impl IntoIterator<Item = (u32, String, Gva)>) -> Partial<Socket> {
        let mut all = self.sockets_in_tables();
        let Ok(layout) = &self.kernel().layouts.sockets else { return all };
        let socks = Socks::new(self, layout);
        let mut known: HashMap<Gva, usize> =
            all.items.iter().enumerate().map(|(index, socket)| (socket.at, index)).collect();
        for (pid, comm, files) in processes {
            let held = self.socket_files(files);
            for (fd, private) in all.absorb(held) {
                let sock = self.integer(private, layout.sock.sock).map(Gva);
                let Some(sock) = all.ok("socket of a file", private, sock) else { continue };
                let index = match known.get(&sock) {
                    Some(index) => *index,
                    None => {
                        let socket = socks.socket(sock);
                        let Some(socket) = all.ok("socket", sock, socket) else { continue };
                        known.insert(sock, all.items.len());
                        all.items.push(socket);
                        all.items.len().saturating_sub(1)
                    }
                };
                if let Some(socket) = all.items.get_mut(index) {
                    socket.owners.push(Owner { pid, comm: comm.clone(), fd });
                }
            }
        }
        all
    }
}

struct Tables<'v, 'a> {
    socks: Socks<'v, 'a>,
    /// Only the sockets of this connection.
    wanted: Option<Connection>,
    found: Partial<Socket>,
}

impl Tables<'_, '_> {
    fn walk(&mut self) {
        let (view, layout) = (self.socks.view, self.socks.layout);
        let nets = self.nets();
        self.all_tcp(&nets);
        self.all_udp(&nets);
        match &layout.raw {
            Ok(raw) => {
                for (at, heads) in &raw.tables {
                    let count = heads.size / 8;
                    let at = view.kernel().slid(*at).field(heads.offset);
                    self.try_table("raw socket table", at, |tables| {
                        tables.heads("raw socket table", at, count, 8, 0)
                    });
                }
            }
            Err(missing) => self.found.gap("raw socket table", None, missing.clone()),
        }
        self.unix(&nets);
        self.packet(&nets);
        match &layout.netlink {
            Ok(netlink) => {
                let at = view.kernel().slid(netlink.tables);
                self.try_table("netlink table", at, |tables| tables.netlink(netlink, at));
            }
            Err(missing) => self.found.gap("netlink table", None, missing.clone()),
        }
    }

    fn nets(&mut self) -> Vec<Gva> {
        let nets = self.found.absorb(self.socks.view.net_namespaces());
        nets.into_iter().map(|net| net.at).collect()
    }

    fn all_tcp(&mut self, nets: &[Gva]) {
        let (view, layout) = (self.socks.view, self.socks.layout);
        match &layout.tcp {
            Ok(tcp) => {
                for table in self.distinct(&[view.kernel().slid(tcp.global)], nets, layout.net.tcp) {
                    self.try_table("TCP table", table, |tables| tables.tcp(tcp, table));
                }
            }
            Err(missing) => self.found.gap("TCP table", None, missing.clone()),
        }
    }

    fn all_udp(&mut self, nets: &[Gva]) {
        let (view, layout) = (self.socks.view, self.socks.layout);
        match &layout.udp {
            Ok(udp) => {
                let globals: Vec<Gva> = udp.globals.iter().map(|at| view.kernel().slid(*at)).collect();
                for table in self.distinct(&globals, nets, layout.net.udp) {
                    self.try_table("UDP table", table, |tables| tables.udp(udp, table));
                }
            }
            Err(missing) => self.found.gap("UDP table", None, missing.clone()),
        }
    }

    fn try_table(
        &mut self,
        what: &'static str,
        at: Gva,
        walk: impl FnOnce(&mut Self) -> Result<(), GapReason>,
    ) {
        let walked = walk(self);
        self.found.ok(what, at, walked);
    }

    /// The global tables and those that namespaces point at, each once.
    fn distinct(
        &mut self,
        globals: &[Gva],
        nets: &[Gva],
        pointer: Option<lynceus_profiles::Field>,
    ) -> Vec<Gva> {
        let mut tables = globals.to_vec();
        for net in nets {
            let Some(pointer) = pointer else { break };
            let table = self.socks.view.integer(*net, pointer).map(Gva);
            tables.extend(self.found.ok("socket table", *net, table).filter(|table| !table.is_null()));
        }
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    fn tcp(&mut self, layout: &TcpTables, at: Gva) -> Result<(), GapReason> {
        let view = self.socks.view;
        let number = |field| view.integer(at, field);
        let established = Gva(number(layout.established)?);
        if established.is_null() {
            return Ok(());
        }
        let count = buckets(number(layout.established_mask)?)?;
        self.heads("TCP connections", established, count, 8, 0)?;
        let (chain, step) = (layout.bucket_chain.offset, layout.bucket_bytes);
        match layout.listening {
            Listening::Inside(array) => {
                let count = array.size.checked_div(step).unwrap_or(0);
                self.heads("listening TCP sockets", at.field(array.offset), count, step, chain)
            }
            Listening::Table(table, mask) => {
                let count = buckets(number(mask)?)?;
                self.heads("listening TCP sockets", Gva(number(table)?), count, step, chain)
            }
        }
    }

    fn udp(&mut self, layout: &UdpTables, at: Gva) -> Result<(), GapReason> {
        let view = self.socks.view;
        let table = Gva(view.integer(at, layout.hash)?);
        if table.is_null() {
            return Ok(());
        }
        let count = buckets(view.integer(at, layout.mask)?)?;
        self.heads("UDP sockets", table, count, layout.slot_bytes, layout.slot_chain.offset)
    }

    fn unix(&mut self, nets: &[Gva]) {
        let (view, layout) = (self.socks.view, self.socks.layout);
        let global = layout.unix.as_ref().ok().and_then(|unix| unix.global);
        let globals: Vec<Gva> = global.iter().map(|at| view.kernel().slid(*at)).collect();
        for table in self.distinct(&globals, nets, layout.net.unix) {
            self.try_table("Unix sockets", table, |tables| {
                tables.heads("Unix sockets", table, UNIX_BUCKETS, 8, 0)
            });
        }
    }

    fn packet(&mut self, nets: &[Gva]) {
        let Some(list) = self.socks.layout.net.packet else { return };
        for net in nets {
            let head = net.field(list.offset);
            self.try_table("packet sockets", head, |tables| tables.heads("packet sockets", head, 1, 8, 0));
        }
    }

    fn netlink(&mut self, layout: &NetlinkLayout, at: Gva) -> Result<(), GapReason> {
        let view = self.socks.view;
        let tables = view.pointer(at)?;
        for unit in 0..NETLINK_UNITS {
            let hash = tables.field(unit.wrapping_mul(layout.table_bytes)).field(layout.hash.offset);
            let mut buckets = Gva(view.integer(hash, layout.buckets_pointer)?);
            for _ in 0..MAX_RESIZES {
                if buckets.is_null() {
                    break;
                }
                let count = view.integer(buckets, layout.size)?;
                let count = u32::try_from(count).ok().filter(|count| *count <= MAX_BUCKETS);
                let count = count.ok_or(GapReason::Limit(u64::from(MAX_BUCKETS)))?;
                if view.integer(buckets, layout.nest)? != 0 {
                    // A table that grew when memory was short: its buckets are tables themselves.
                    return Err(GapReason::Inconsistent("nested netlink table"));
                }
                let first = buckets.field(layout.buckets.offset);
                self.chains("netlink sockets", first, count, 8, 0, layout.node.offset)?;
                buckets = Gva(view.integer(buckets, layout.next_table)?);
            }
        }
        Ok(())
    }

    /// Sockets chained by `sock_common.skc_node` (or `skc_nulls_node`, in the same place).
    fn heads(
        &mut self,
        what: &'static str,
        first: Gva,
        count: u32,
        step: u32,
        chain: u32,
    ) -> Result<(), GapReason> {
        self.chains(what, first, count, step, chain, self.socks.layout.sock.node.offset)
    }

    /// Sockets on `count` chains whose heads lie `step` bytes apart, `chain` bytes into each bucket.
    fn chains(
        &mut self,
        what: &'static str,
        first: Gva,
        count: u32,
        step: u32,
        chain: u32,
        node: u32,
    ) -> Result<(), GapReason> {
        let step_bytes = usize::try_from(step).unwrap_or(8).max(8);
        for start in (0..count).step_by(HEADS_AT_A_TIME as usize) {
            let len = count.saturating_sub(start).min(HEADS_AT_A_TIME);
            let mut buckets = vec![0; step_bytes.saturating_mul(usize::try_from(len).unwrap_or(0))];
            let from = first.0.wrapping_add(u64::from(start).wrapping_mul(u64::from(step)));
            self.socks.view.space().read(Gva(from), &mut buckets)?;
            for bucket in buckets.chunks_exact(step_bytes) {
                let head = bucket.get(usize::try_from(chain).unwrap_or(0)..).unwrap_or(&[]);
                let Some(head) = head.first_chunk::<8>() else { continue };
                self.chain(what, Gva(u64::from_le_bytes(*head)), node)?;
            }
        }
        Ok(())
    }

    fn chain(&mut self, what: &'static str, head: Gva, node: u32) -> Result<(), GapReason> {
        if head.is_null() || head.0 & 1 == 1 {
            return Ok(());
        }
        let nodes = self.socks.view.chain(what, head, 0);
        for at in self.found.absorb(nodes) {
            if self.found.items.len() >= MAX_SOCKETS {
                return Err(GapReason::Limit(MAX_SOCKETS as u64));
            }
            let at = Gva(at.0.wrapping_sub(u64::from(node)));
            if let Some(wanted) = self.wanted {
                let is_it =
                    self.socks.ends(at).map(|(state, local, remote)| wanted.is_of(state, &local, &remote));
                if !self.found.ok("socket", at, is_it).unwrap_or(true) {
                    continue;
                }
            }
            let socket = self.socks.socket(at);
            let socket = self.found.ok("socket", at, socket);
            self.found.items.extend(socket.map(|socket| Socket { in_table: true, ..socket }));
        }
        Ok(())
    }
}

/// Buckets of a table from its mask.
fn buckets(mask: u64) -> Result<u32, GapReason> {
    let count = mask.checked_add(1).and_then(|count| u32::try_from(count).ok());
    count.filter(|count| *count <= MAX_BUCKETS).ok_or(GapReason::Limit(u64::from(MAX_BUCKETS)))
}
