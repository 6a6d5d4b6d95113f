//! While everything is put there anew, ports are closed: by a table of its own, before ours and whatever ours holds.
//!
//! *Does*: lets nothing through for the ports that it names, until each is taken off. *Never*: depends on what is in our own table, which
//! somebody else may have changed.

use super::model::{Chain, Command, Element, Elements, Expr, Object, Rule, Set, Statement, Types};
use super::table::Path;

/// The name of the table.
const TABLE: &str = "lynceus-closing";
/// The set of the ports that are closed.
const PORTS: &str = "ports";
/// Right before our table's chains.
const PRIORITY: i32 = -1;
/// The hooks, and by which of its interfaces a packet there is of a port.
const HOOKS: [(&str, &[&str]); 3] =
    [("forward", &["iifname", "oifname"]), ("input", &["iifname"]), ("output", &["oifname"])];

/// Closes ports in a family.
pub fn close<'a>(path: Path, ports: impl Iterator<Item = &'a str>) -> Vec<Command> {
    let mut commands = remove(path).to_vec();
    commands.push(Command::Add(Object::table(path.family(), TABLE)));
    commands.push(Command::Add(Object::Set(Set { elem: keys(ports), ..set(path) })));
    for (hook, interfaces) in HOOKS {
        commands.push(Command::Add(Object::Chain(Chain {
            kind: Some("filter".to_owned()),
            hook: Some(hook.to_owned()),
            prio: Some(PRIORITY),
            policy: Some("accept".to_owned()),
            dev: None,
            ..chain(path, hook)
        })));
        for interface in interfaces {
            let is_closed = Statement::is(Expr::meta(interface), Expr::text(format!("@{PORTS}")));
            let Chain { family, table, name, .. } = chain(path, hook);
            let expr = vec![is_closed, Statement::Drop(())];
            commands.push(Command::Add(Object::Rule(Rule { family, table, chain: name, expr })));
        }
    }
    commands
}

/// Opens some of them: from then on our own table judges.
pub fn open<'a>(path: Path, ports: impl Iterator<Item = &'a str>) -> Command {
    let Set { family, table, name, .. } = set(path);
    Command::Delete(Object::Element(Elements { family, table, name, elem: keys(ports) }))
}

/// Opens all.
pub fn remove(path: Path) -> [Command; 2] {
    Command::absent(path.family(), TABLE)
}

fn chain(path: Path, name: &str) -> Chain {
    let (family, table) = (path.family().to_owned(), TABLE.to_owned());
    Chain { family, table, name: name.to_owned(), ..Chain::default() }
}

fn keys<'a>(ports: impl Iterator<Item = &'a str>) -> Vec<Element> {
    ports.map(|port| Element::Key(Expr::text(port))).collect()
}

/// The set, empty.
fn set(path: Path) -> Set {
    Set {
        family: path.family().to_owned(),
        table: TABLE.to_owned(),
        name: PORTS.to_owned(),
        kind: Types::of(&["ifname"]),
        map: None,
        flags: Vec::new(),
        size: None,
        elem: Vec::new(),
    }
}

/// The set by its name, for who encodes it.
pub(super) fn set_named(path: Path, table: &str, name: &str) -> Option<Set> {
    (table == TABLE && name == PORTS).then(|| set(path))
}
