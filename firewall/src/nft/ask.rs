//! Where a rule about a process stands, the kernel asks the host: a packet is held in a queue where the kernel has one, and dropped
//! and told of where it has none; its sender sends it again, and by then there is an answer.
//!
//! *Does*: writes the chain that asks, and the answers. *Never*: lets a packet pass that nobody has answered for: a queue that nobody
//! reads drops, and so does a log that nobody reads.

use super::TABLE;
use super::model::{
    Command, Element, Elements, Expr, Jump, Limit, LimitRef, Log, Lookup, Object, Queue, Set, Statement,
    Target, Transaction, Types,
};
use super::table::{Path, Tables, generation_chain};
use lynceus_policy::{Direction, Family, Lane, Verdict};
use std::net::{IpAddr, SocketAddr};

/// The NFLOG group that is told what is asked.
pub const ASK_GROUP: u32 = 77;
/// The first of four queues: out, out (a reply), in, in (a reply).
pub const FIRST_QUEUE: u16 = 1976;
/// The lanes whose packets are of a socket that can be looked up.
const LANES: [Lane; 2] = [Lane::Tcp, Lane::Udp];
/// Names of the maps begin so; what is in them comes and goes.
pub(crate) const ANSWERS: &str = "answers-";
/// Marks of packets that were answered for begin with these bits.
const MARK: u32 = 0x4c00_0000;

/// How the host answers in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Seen from which end it is asked.
    pub direction: Direction,
    /// TCP or UDP.
    pub lane: Lane,
    /// Who sent its first packet.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
}

/// What a held packet is sent back with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// The VM that it comes from lets it out.
    Out,
    /// The VM that it goes to lets it in.
    In,
    /// Both do.
    Both,
    /// Its sender is told that it may not.
    Reject,
}

impl Held {
    const ALL: [Held; 4] = [Held::Out, Held::In, Held::Both, Held::Reject];

    /// The mark, which no other set of rules takes for an answer.
    pub fn mark(self, generation: u32) -> u32 {
        MARK | (generation & 0x003f_ffff) << 2 | self as u32
    }

    /// Read back.
    pub fn of(mark: u32, generation: u32) -> Option<Held> {
        Held::ALL.into_iter().find(|held| held.mark(generation) == mark)
    }
}

/// The chain's name, from that of the chain where the VM's rules of that direction begin.
pub(super) fn chain(entry: &str) -> String {
    format!("{entry}-ask")
}

/// What the chain does.
pub(super) fn rules(vm: &str, direction: Direction, holds: bool) -> Vec<Vec<Statement>> {
    if holds {
        return held(direction);
    }
    let mut rules: Vec<Vec<Statement>> = Vec::new();
    for family in Family::ALL {
        let key = key(family);
        let lookup = |lane| {
            let name = if lane == Lane::Tcp { "tcp" } else { "udp" };
            let map = Lookup { key: key.clone(), data: format!("@{}", map(direction, family)) };
            vec![Statement::is(Expr::meta("l4proto"), Expr::text(name)), Statement::Vmap(map)]
        };
        rules.extend(LANES.map(lookup));
    }
    // NF_LOG_PREFIXLEN is 128, with the final zero.
    let prefix = format!("lynceus ask {vm} {} process", direction.name());
    let log = Log { prefix: prefix.chars().take(127).collect(), group: ASK_GROUP };
    rules.push(vec![often(), Statement::Log(log)]);
    rules.push(vec![Statement::Drop(())]);
    rules
}

/// A guest that knocks often is looked at no more often than this; what is above is dropped, and comes again.
fn often() -> Statement {
    Statement::Limit(LimitRef::Own(Limit { rate: 200, per: "second".to_owned(), burst: 200 }))
}

fn held(direction: Direction) -> Vec<Vec<Statement>> {
    let known = Lookup { key: Expr::meta("mark"), data: format!("@{}", marks(direction)) };
    let first = FIRST_QUEUE + if direction == Direction::Out { 0 } else { 2 };
    let queue = |name: &str, num: u16| {
        let is_socket = Statement::is(Expr::meta("l4proto"), Expr::any_of(&["tcp", "udp"]));
        let goes = Statement::is(Expr::ct("direction", None), Expr::text(name));
        vec![is_socket, goes, Statement::Queue(Queue { num: num.into() })]
    };
    vec![
        vec![Statement::Vmap(known)],
        queue("original", first),
        queue("reply", first + 1),
        vec![Statement::Drop(())],
    ]
}

/// The connection, as both ends see it: what was sent before any translation, what comes back from behind it.
fn key(family: Family) -> Expr {
    let family = if family == Family::V4 { "ip" } else { "ip6" };
    let address = |dir| Expr::ct(&format!("{family} saddr"), Some(dir));
    let port = |dir| Expr::ct("proto-src", Some(dir));
    Expr::Concat(vec![
        Expr::meta("l4proto"),
        address("original"),
        port("original"),
        address("reply"),
        port("reply"),
    ])
}

fn map(direction: Direction, family: Family) -> String {
    let family = if family == Family::V4 { "v4" } else { "v6" };
    format!("{ANSWERS}{}-{family}", direction.name())
}

fn marks(direction: Direction) -> String {
    format!("held-{}", direction.name())
}

fn empty(path: Path, name: String, kind: &[&str], flags: &[&str]) -> Set {
    Set {
        family: path.family().to_owned(),
        table: TABLE.to_owned(),
        name,
        kind: Types::of(kind),
        map: Some("verdict".to_owned()),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        size: None,
        elem: Vec::new(),
    }
}

/// The maps that the answers are put into.
pub(super) fn maps(path: Path) -> Vec<Set> {
    let mut maps = Vec::new();
    for direction in Direction::ALL {
        for family in Family::ALL {
            let address = if family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
            let kind = ["inet_proto", address, "inet_service", address, "inet_service"];
            maps.push(empty(path, map(direction, family), &kind, &["timeout"]));
        }
        maps.push(empty(path, marks(direction), &["mark"], &[]));
    }
    maps
}

/// One of them by its name.
pub(super) fn map_named(path: Path, name: &str) -> Option<Set> {
    maps(path).into_iter().find(|map| map.name == name)
}

/// What the marks of held packets lead to, in one generation of rules.
pub(super) fn mark_elements(tables: &Tables) -> Vec<Object> {
    let of = |direction: Direction| {
        let own = if direction == Direction::Out { Held::Out } else { Held::In };
        let element =
            |held: Held, jump| Element::Verdict(Expr::Number(held.mark(tables.generation).into()), jump);
        let passes = [own, Held::Both].map(|held| element(held, Jump::Return(())));
        let refused = element(Held::Reject, Jump::Goto(Target { target: "reject".to_owned() }));
        elements(tables.path, marks(direction), passes.into_iter().chain([refused]).collect())
    };
    Direction::ALL.map(of).to_vec()
}

fn elements(path: Path, name: String, elem: Vec<Element>) -> Object {
    Object::Element(Elements { family: path.family().to_owned(), table: TABLE.to_owned(), name, elem })
}

/// Takes all answers away: they were given for other rules.
pub(super) fn forget(path: Path) -> impl Iterator<Item = Command> {
    maps(path).into_iter().map(|map| Command::Flush(Object::Map(map)))
}

/// An answer, for a connection's next packets. It fails as a whole where the rules are no longer those of `generation`.
pub fn answer(path: Path, generation: u32, connection: &Connection, verdict: Verdict) -> Transaction {
    let family = Family::of(connection.source.ip());
    let address = |at: IpAddr| Expr::text(at.to_string());
    let port = |port: u16| Expr::Number(port.into());
    let Connection { direction, lane, source, destination } = *connection;
    let key = Expr::Concat(vec![
        Expr::text(if lane == Lane::Tcp { "tcp" } else { "udp" }),
        address(source.ip()),
        port(source.port()),
        address(destination.ip()),
        port(destination.port()),
    ]);
    let jump = match verdict {
        Verdict::Allow => Jump::Return(()),
        Verdict::Deny => Jump::Drop(()),
        Verdict::Reject => Jump::Goto(Target { target: "reject".to_owned() }),
    };
    // TCP sends again after one second and after three, resolvers after five.
    let timeout = if lane == Lane::Tcp { 4 } else { 6 };
    let elem = Element::Verdict(Expr::Elem { val: Box::new(key), timeout }, jump);
    let table = Tables { path, generation, asks: true, vms: Default::default(), ports: Default::default() };
    let nftables = vec![
        Command::Flush(table.chain(&generation_chain(generation))),
        Command::Add(elements(path, map(direction, family), vec![elem])),
    ];
    Transaction { nftables }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_other_generations_are_no_answers() {
        for held in Held::ALL {
            assert_eq!(Held::of(held.mark(7), 7), Some(held));
            assert_eq!(Held::of(held.mark(7), 8), None);
        }
        assert_eq!(Held::of(0, 0), None);
    }

    #[test]
    fn a_packet_that_is_asked_about_ends_in_a_drop_or_a_queue() {
        for direction in Direction::ALL {
            for holds in [false, true] {
                assert_eq!(rules("a", direction, holds).last(), Some(&vec![Statement::Drop(())]));
            }
            let ends = rules("a", direction, true);
            let queues = ends.iter().filter(|rule| matches!(rule.last(), Some(Statement::Queue(_))));
            assert_eq!(queues.count(), 2, "{ends:?}");
        }
    }
}
