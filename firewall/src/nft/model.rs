//! nftables' JSON, the parts that we write: libnftables-json(5), as nft 1.0.6 reads it.

use serde::{Deserialize, Serialize};

/// Commands that the kernel takes all or none of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transaction {
    /// In order.
    pub nftables: Vec<Command>,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Adds it; what is there already stays.
    Add(Object),
    /// Takes it away.
    Delete(Object),
    /// Empties it.
    Flush(Object),
}

impl Command {
    /// No table of that name is there afterwards, whether there was one or not: `delete` fails where there is nothing, and nft 1.0.6 has no
    /// `destroy`.
    pub fn absent(family: &str, name: &str) -> [Command; 2] {
        let table = Object::table(family, name);
        [Command::Add(table.clone()), Command::Delete(table)]
    }
}

/// What can be added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Object {
    /// A table.
    Table(Table),
    /// A chain.
    Chain(Chain),
    /// A rule, at its chain's end.
    Rule(Rule),
    /// A set.
    Set(Set),
    /// A map.
    Map(Set),
    /// Elements of a set or map.
    Element(Elements),
    /// A named counter.
    Counter(Counter),
    /// A named limit.
    Limit(NamedLimit),
}

impl Object {
    /// A table.
    pub fn table(family: &str, name: &str) -> Object {
        Object::Table(Table { family: family.to_owned(), name: name.to_owned() })
    }
}

/// A table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    /// `inet`, `bridge` or `netdev`.
    pub family: String,
    /// Its name.
    pub name: String,
}

/// A chain; with a hook it is where packets come in.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// Its table's family.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// `filter`, for a chain with a hook.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<String>,
    /// `forward`, `input`, `output`, `ingress`, `egress`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hook: Option<String>,
    /// Its place among the hook's chains.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub prio: Option<i32>,
    /// The interface of an ingress or egress hook.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dev: Option<String>,
    /// What happens at its end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<String>,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// Its table's family.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// What it does, left to right, until something does not match.
    pub expr: Vec<Statement>,
}

/// A set, or a map when `map` is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Set {
    /// Its table's family.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The types of its key.
    #[serde(rename = "type")]
    pub kind: Types,
    /// What a map's keys lead to: `verdict` or `counter`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub map: Option<String>,
    /// `interval`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub flags: Vec<String>,
    /// How many elements it has room for, where that is said: the kernel takes a table of just that size then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u32>,
    /// What is in it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub elem: Vec<Element>,
}

/// The types of a key. nft takes a list of one for something else than its member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Types {
    /// One.
    One(String),
    /// Several together.
    Several(Vec<String>),
}

impl Types {
    /// Of as many as there are.
    pub fn of(types: &[&str]) -> Types {
        match types {
            [one] => Types::One((*one).to_owned()),
            several => Types::Several(several.iter().map(|kind| (*kind).to_owned()).collect()),
        }
    }
}

/// Elements of a set or map that is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Elements {
    /// Its table's family.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The elements.
    pub elem: Vec<Element>,
}

/// A member of a set, or of a map with what it leads to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Element {
    /// Of a map of counters.
    Counter(Expr, String),
    /// Of a map of verdicts.
    Verdict(Expr, Jump),
    /// Of a set.
    Key(Expr),
}

/// A jump, as a map of verdicts holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Jump {
    /// Goes there and comes back.
    Jump(Target),
    /// Goes there and does not come back.
    Goto(Target),
    /// Goes back to where the last jump was.
    Return(()),
    /// Drops it.
    Drop(()),
}

/// A chain's name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Target {
    /// The name.
    pub target: String,
}

/// A named counter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counter {
    /// Its table's family.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
}

/// A step of a rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Statement {
    /// Goes on when it is so.
    Match(Match),
    /// Counts; a map's counter counts only when the key is there, and only then goes on.
    Counter(CounterRef),
    /// Goes where the map says, when the key is there.
    Vmap(Lookup),
    /// Goes on so often at most.
    Limit(LimitRef),
    /// Tells.
    Log(Log),
    /// Sets something.
    Mangle(Mangle),
    /// Drops it and tells its sender.
    Reject(Reject),
    /// Goes there and comes back.
    Jump(Target),
    /// Goes there and does not come back.
    Goto(Target),
    /// Lets it pass.
    Accept(()),
    /// Drops it.
    Drop(()),
    /// Goes back to where the last jump was.
    Return(()),
    /// Holds it until a program says what becomes of it; drops it where none reads the queue.
    Queue(Queue),
}

/// A queue of packets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Queue {
    /// Its number.
    pub num: u32,
}

/// A comparison.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Match {
    /// `==`, `!=`, `<`, `>=`, `in`.
    pub op: String,
    /// Of the packet.
    pub left: Expr,
    /// To compare with.
    pub right: Expr,
}

/// A named counter, or the one that a map leads to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CounterRef {
    /// By name.
    Name(String),
    /// By a map.
    Map {
        /// The lookup.
        map: Lookup,
    },
}

/// A lookup in a map.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lookup {
    /// Of the packet.
    pub key: Expr,
    /// `@name`.
    pub data: String,
}

/// A limit of this rule alone, or a named one that several rules share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LimitRef {
    /// By name.
    Name(String),
    /// Of this rule.
    Own(Limit),
}

/// A limit that several rules share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamedLimit {
    /// Its table's family.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// How often.
    #[serde(flatten)]
    pub limit: Limit,
}

/// So often at most.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// How many packets.
    pub rate: u32,
    /// In which time.
    pub per: String,
    /// How many more at once.
    pub burst: u32,
}

/// Tells NFLOG's listeners.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Log {
    /// What is told with the packet.
    pub prefix: String,
    /// Whose listeners.
    pub group: u32,
}

/// Sets something.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mangle {
    /// What.
    pub key: Expr,
    /// To what.
    pub value: Expr,
}

/// How the sender is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reject {
    /// `tcp reset` or `icmpx`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The ICMP code's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expr: Option<String>,
}

/// A value of a packet, or to compare with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expr {
    /// Of the packet's way: `iifname`, `oifname`, `l4proto`, `time`.
    Meta {
        /// Which.
        key: String,
    },
    /// Of a header.
    Payload(Payload),
    /// Of an IPv6 extension header.
    Exthdr {
        /// Which header.
        name: String,
        /// Which field.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        field: Option<String>,
    },
    /// Of the connection.
    Ct {
        /// Which.
        key: String,
        /// `original` or `reply`.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        dir: Option<String>,
    },
    /// Several together.
    Concat(Vec<Expr>),
    /// The bits that both have.
    #[serde(rename = "&")]
    And(Box<[Expr; 2]>),
    /// A network.
    Prefix {
        /// Its first address.
        addr: String,
        /// Its prefix's length.
        len: u32,
    },
    /// From, to; both included.
    Range(Box<[Expr; 2]>),
    /// One of them.
    Set(Vec<Expr>),
    /// A set's element that goes by itself.
    Elem {
        /// The element.
        val: Box<Expr>,
        /// In seconds.
        timeout: u32,
    },
    /// A number.
    #[serde(untagged)]
    Number(u64),
    /// A name, an address, `@set`.
    #[serde(untagged)]
    Text(String),
}

/// Where in a packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Payload {
    /// By a header's field.
    Field {
        /// The header.
        protocol: String,
        /// The field.
        field: String,
    },
    /// By bits.
    Raw {
        /// `ll`, `nh` or `th`.
        base: String,
        /// In bits.
        offset: u32,
        /// In bits.
        len: u32,
    },
}

impl Expr {
    /// Of the packet's way.
    pub fn meta(key: &str) -> Expr {
        Expr::Meta { key: key.to_owned() }
    }
    /// Of a header.
    pub fn field(protocol: &str, field: &str) -> Expr {
        Expr::Payload(Payload::Field { protocol: protocol.to_owned(), field: field.to_owned() })
    }
    /// Of the connection.
    pub fn ct(key: &str, dir: Option<&str>) -> Expr {
        Expr::Ct { key: key.to_owned(), dir: dir.map(str::to_owned) }
    }
    /// A name or an address.
    pub fn text(text: impl Into<String>) -> Expr {
        Expr::Text(text.into())
    }
    /// One of these names.
    pub fn any_of(names: &[&str]) -> Expr {
        Expr::Set(names.iter().map(|name| Expr::text(*name)).collect())
    }
}

impl Statement {
    /// Goes on when both are equal; for a set, when it is in it.
    pub fn is(left: Expr, right: Expr) -> Statement {
        Statement::compare("==", left, right)
    }
    /// Goes on when they are not.
    pub fn is_not(left: Expr, right: Expr) -> Statement {
        Statement::compare("!=", left, right)
    }
    /// Goes on when it is so.
    pub fn compare(op: &str, left: Expr, right: Expr) -> Statement {
        Statement::Match(Match { op: op.to_owned(), left, right })
    }
    /// Counts.
    pub fn count(name: &str) -> Statement {
        Statement::Counter(CounterRef::Name(name.to_owned()))
    }
    /// Goes there and comes back.
    pub fn jump(target: &str) -> Statement {
        Statement::Jump(Target { target: target.to_owned() })
    }
    /// Goes there and does not come back.
    pub fn goto(target: &str) -> Statement {
        Statement::Goto(Target { target: target.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_nfts() {
        let rule = Command::Add(Object::Rule(Rule {
            family: "inet".to_owned(),
            table: "t".to_owned(),
            chain: "c".to_owned(),
            expr: vec![
                Statement::is(Expr::meta("l4proto"), Expr::text("tcp")),
                Statement::Counter(CounterRef::Map {
                    map: Lookup { key: Expr::ct("proto-dst", Some("original")), data: "@m".to_owned() },
                }),
                Statement::Return(()),
            ],
        }));
        let text = serde_json::to_string(&rule).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"add":{"rule":{"family":"inet","table":"t","chain":"c","expr":["#,
                r#"{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":"tcp"}},"#,
                r#"{"counter":{"map":{"key":{"ct":{"key":"proto-dst","dir":"original"}},"data":"@m"}}},"#,
                r#"{"return":null}]}}}"#
            )
        );
        assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), rule);
    }
}
