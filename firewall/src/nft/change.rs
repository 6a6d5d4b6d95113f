//! From one table to the next: only what changed is touched, counters that stay keep their hits, and no packet meets half of it.
//!
//! *Never*: changes or fills a set that live rules look into. The kernel takes a transaction's rules into force at once, and the contents
//! of sets of several fields some microseconds later (`nf_tables_commit` moves the generation on, and `nft_set_commit_update` comes last;
//! Linux 5.6 and later): rules that come with their sets look into empty ones for that long, what they deny passes, and its connection
//! is marked as let pass. So a change is three transactions: what rules refer to, the rules, and what is referred to no more.

use super::model::{Command, Element, Elements, Object, Set, Transaction};
use super::table::{JUDGED, PASSED, PORTS, PortObjects, Tables, generation_chain};
use super::vm::VmObjects;
use super::{TABLE, ask};
use std::collections::BTreeSet;

/// What is to be done, in three transactions one after the other. Only the second changes what becomes of a packet.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Change {
    /// Adds what no packet comes to yet.
    pub prepare: Vec<Command>,
    /// Sends packets there.
    pub switch: Vec<Command>,
    /// Takes away what no packet comes to any more.
    pub clean: Vec<Command>,
}

impl Change {
    /// In their order; none that is empty.
    pub fn transactions(self) -> impl Iterator<Item = Transaction> {
        let steps = [self.prepare, self.switch, self.clean].into_iter();
        steps.filter(|commands| !commands.is_empty()).map(|nftables| Transaction { nftables })
    }

    /// All commands in one, to be checked.
    pub fn whole(self) -> Transaction {
        Transaction { nftables: [self.prepare, self.switch, self.clean].concat() }
    }

    /// Another change of other objects, at the same time.
    pub fn extend(&mut self, other: Change) {
        self.prepare.extend(other.prepare);
        self.switch.extend(other.switch);
        self.clean.extend(other.clean);
    }
}

/// Puts a whole table in place of whatever is there. Counters begin at nothing. Whatever was there guards nothing from the first
/// transaction on: ports are to be closed meanwhile ([`super::closing`]).
pub fn install(tables: &Tables) -> Change {
    let mut commands = Command::absent(tables.path.family(), TABLE).to_vec();
    commands.push(Command::Add(tables.table()));
    commands.extend(tables.port_sets().into_iter().map(Command::Add));
    commands.extend(tables.base_chains().into_iter().map(Command::Add));
    commands.push(Command::Add(tables.chain(&generation_chain(tables.generation))));
    commands.extend(tables.base_rules().into_iter().map(Command::Add));
    commands.extend(tables.generation_rules().into_iter().map(Command::Add));
    let mut change = Change { prepare: commands, ..Change::default() };
    for vm in tables.vms.values() {
        replace_vm(tables, &VmObjects::default(), vm, &mut change);
    }
    for port in tables.ports.values() {
        replace_port(tables, None, Some(port), &mut change);
    }
    change
}

/// Goes from one table to another of the same family.
pub fn update(old: &Tables, new: &Tables) -> Change {
    let mut change = Change::default();
    let nothing = VmObjects::default();
    for name in old.vms.keys().chain(new.vms.keys()).collect::<BTreeSet<_>>() {
        let (before, after) = (old.vms.get(name), new.vms.get(name));
        if before != after {
            replace_vm(new, before.unwrap_or(&nothing), after.unwrap_or(&nothing), &mut change);
        }
    }
    // Elements jump to the VMs' chains: they come after them and go before them.
    let gone = std::mem::take(&mut change.clean);
    for name in old.ports.keys().chain(new.ports.keys()).collect::<BTreeSet<_>>() {
        let (before, after) = (old.ports.get(name), new.ports.get(name));
        if before != after {
            replace_port(new, before, after, &mut change);
        }
    }
    change.clean.extend(gone);
    let commands = &mut change.switch;
    commands.push(Command::Delete(old.chain(&generation_chain(old.generation))));
    commands.push(Command::Add(new.chain(&generation_chain(new.generation))));
    commands.extend([JUDGED, PASSED].map(|chain| Command::Flush(new.chain(chain))));
    if old.asks || new.asks {
        commands.extend(ask::forget(new.path));
    }
    commands.extend(new.generation_rules().into_iter().map(Command::Add));
    change
}

/// From a VM's old objects to its new ones. What both have stays, and counters keep their hits.
fn replace_vm(tables: &Tables, before: &VmObjects, after: &VmObjects, change: &mut Change) {
    let path = tables.path;
    let come = after.counter_objects(path).filter(|(name, _)| !before.counters.contains(*name));
    change.prepare.extend(come.map(|(_, counter)| Command::Add(counter)));
    change
        .prepare
        .extend(after.limit_objects(path, |name| !before.limits.contains_key(name)).map(Command::Add));
    // Elements lead to chains, whose rules look into sets.
    let come = after.chains.iter().filter(|(chain, _)| before.rules_of(chain).is_none());
    change.prepare.extend(come.map(|(chain, _)| Command::Add(tables.chain(chain))));
    let come = after.sets.iter().filter(|set| !before.has_set(&set.name));
    change.prepare.extend(come.cloned().map(object).map(Command::Add));
    // The chains are in an order in which a target comes before who goes there.
    for (chain, rules) in &after.chains {
        let was = before.rules_of(chain);
        let commands = if was.is_none() { &mut change.prepare } else { &mut change.switch };
        if was == Some(rules) {
            continue;
        }
        // A change that was stopped half-way may have left some in it.
        commands.push(Command::Flush(tables.chain(chain)));
        commands.extend(VmObjects::rule_objects(path, chain, rules).map(Command::Add));
    }
    let gone = || before.chains.iter().rev().filter(|(chain, _)| after.rules_of(chain).is_none());
    change.clean.extend(gone().map(|(chain, _)| Command::Flush(tables.chain(chain))));
    let sets = before.sets.iter().filter(|set| !after.has_set(&set.name));
    let empty = |set: &Set| object(Set { elem: Vec::new(), ..set.clone() });
    change.clean.extend(sets.map(empty).map(Command::Delete));
    change.clean.extend(gone().map(|(chain, _)| Command::Delete(tables.chain(chain))));
    change
        .clean
        .extend(before.limit_objects(path, |name| !after.limits.contains_key(name)).map(Command::Delete));
    let gone = before.counter_objects(path).filter(|(name, _)| !after.counters.contains(*name));
    change.clean.extend(gone.map(|(_, counter)| Command::Delete(counter)));
}

fn object(set: Set) -> Object {
    if set.map.is_some() { Object::Map(set) } else { Object::Set(set) }
}

/// A port's elements. It is one of ours only after the others are there, and no more before they go.
fn replace_port(
    tables: &Tables,
    before: Option<&PortObjects>,
    after: Option<&PortObjects>,
    change: &mut Change,
) {
    let of = |port: Option<&PortObjects>, set: &str| -> Vec<Element> {
        port.and_then(|port| port.elements.get(set)).cloned().unwrap_or_default()
    };
    let sets = |port: Option<&'_ PortObjects>| -> Vec<&'static str> {
        port.into_iter().flat_map(|port| port.elements.keys().copied()).collect()
    };
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    for set in sets(before).into_iter().chain(sets(after)).collect::<BTreeSet<_>>() {
        let (old, new) = (of(before, set), of(after, set));
        if old == new {
            continue;
        }
        let is_late = set == PORTS;
        let command = |command: fn(Object) -> Command, elem: Vec<Element>| {
            (!elem.is_empty()).then(|| command(elements(tables, set, elem)))
        };
        let leaving = if after.is_some() || is_late { &mut gone } else { &mut change.clean };
        leaving.extend(command(Command::Delete, old));
        let coming = if before.is_some() || is_late { &mut come } else { &mut change.prepare };
        coming.extend(command(Command::Add, new));
    }
    change.switch.extend(gone);
    change.switch.extend(come);
}

fn elements(tables: &Tables, set: &str, elem: Vec<Element>) -> Object {
    let (family, table, name) = (tables.path.family().to_owned(), TABLE.to_owned(), set.to_owned());
    Object::Element(Elements { family, table, name, elem })
}
