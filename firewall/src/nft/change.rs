//! From one table to the next: only what changed is touched, and counters that stay keep their hits.

use super::model::{Command, Elements, Object, Set, Transaction};
use super::table::{JUDGED, PASSED, PortObjects, Tables, generation_chain};
use super::vm::VmObjects;
use super::{TABLE, ask};
use std::collections::BTreeSet;

/// Puts a whole table in place of whatever is there. Counters begin at nothing.
pub fn install(tables: &Tables) -> Transaction {
    let mut commands = vec![
        // `delete` fails where there is nothing, and nft 1.0.6 has no `destroy`.
        Command::Add(tables.table()),
        Command::Delete(tables.table()),
        Command::Add(tables.table()),
    ];
    commands.extend(tables.port_sets().into_iter().map(Command::Add));
    commands.extend(tables.base_chains().into_iter().map(Command::Add));
    commands.push(Command::Add(tables.chain(&generation_chain(tables.generation))));
    commands.extend(tables.base_rules().into_iter().map(Command::Add));
    commands.extend(tables.generation_rules().into_iter().map(Command::Add));
    for vm in tables.vms.values() {
        add_vm(tables, &VmObjects::default(), vm, true, &mut commands);
    }
    for port in tables.ports.values() {
        elements(tables, port, Command::Add, &mut commands);
    }
    Transaction { nftables: commands }
}

/// Goes from one table to another of the same family.
pub fn update(old: &Tables, new: &Tables) -> Transaction {
    let mut commands = Vec::new();
    let changed = |name: &&String| old.vms.get(*name) != new.vms.get(*name);
    let all: BTreeSet<&String> = old.vms.keys().chain(new.vms.keys()).collect();
    let vms: Vec<&String> = all.into_iter().filter(changed).collect();
    // Elements jump to the VMs' chains: they go first and come last. A VM's chains where its rules begin stay as long as its ports do.
    let is_touched = |name: &String| old.ports.get(name) != new.ports.get(name);
    for (_, port) in old.ports.iter().filter(|(name, _)| is_touched(name)) {
        elements(old, port, Command::Delete, &mut commands);
    }
    for name in &vms {
        replace_vm(old, new, name, &mut commands);
    }
    for (_, port) in new.ports.iter().filter(|(name, _)| is_touched(name)) {
        elements(new, port, Command::Add, &mut commands);
    }
    commands.push(Command::Delete(old.chain(&generation_chain(old.generation))));
    commands.push(Command::Add(new.chain(&generation_chain(new.generation))));
    commands.extend([JUDGED, PASSED].map(|chain| Command::Flush(new.chain(chain))));
    if old.asks || new.asks {
        commands.extend(ask::forget(new.path));
    }
    commands.extend(new.generation_rules().into_iter().map(Command::Add));
    Transaction { nftables: commands }
}

/// From a VM's old objects to its new ones. What both have stays, and counters keep their hits.
fn replace_vm(old: &Tables, new: &Tables, name: &str, commands: &mut Vec<Command>) {
    let nothing = VmObjects::default();
    let before = old.vms.get(name).unwrap_or(&nothing);
    let after = new.vms.get(name).unwrap_or(&nothing);
    // What is defined otherwise under the same name is in use until no rule is there.
    let is_whole = before.limits != after.limits || before.sets.iter().any(|set| after.redefines(set));
    let stays = |chain: &str| !is_whole && before.rules_of(chain) == after.rules_of(chain);
    let goes = |set: &Set| is_whole || after.set(&set.name).is_none();
    let flushed = before.chains.iter().filter(|(chain, _)| !stays(chain));
    commands.extend(flushed.map(|(chain, _)| Command::Flush(old.chain(chain))));
    // The chains are in an order in which a target comes before who goes there.
    let gone = before.chains.iter().rev().filter(|(chain, _)| after.rules_of(chain).is_none());
    commands.extend(gone.map(|(chain, _)| Command::Delete(old.chain(chain))));
    for set in &before.sets {
        let empty = object(Set { elem: Vec::new(), ..set.clone() });
        match after.set(&set.name) {
            _ if goes(set) => commands.push(Command::Delete(empty)),
            Some(next) if next != set => commands.push(Command::Flush(empty)),
            _ => {}
        }
    }
    if is_whole {
        commands.extend(before.limit_objects(old.path).map(Command::Delete));
    }
    let gone = before.counter_objects(old.path).filter(|(name, _)| !after.counters.contains(*name));
    commands.extend(gone.map(|(_, counter)| Command::Delete(counter)));
    let from = if is_whole { &VmObjects { sets: Vec::new(), ..before.clone() } } else { before };
    add_vm(new, from, after, is_whole, commands);
}

/// Adds what `before` does not leave there; all rules and limits when `is_whole`.
fn add_vm(tables: &Tables, before: &VmObjects, vm: &VmObjects, is_whole: bool, commands: &mut Vec<Command>) {
    let counters = vm.counter_objects(tables.path).filter(|(name, _)| !before.counters.contains(*name));
    commands.extend(counters.map(|(_, counter)| Command::Add(counter)));
    if is_whole {
        commands.extend(vm.limit_objects(tables.path).map(Command::Add));
    }
    let is_new = |(chain, _): &&(String, _)| before.rules_of(chain).is_none();
    commands.extend(vm.chains.iter().filter(is_new).map(|(chain, _)| Command::Add(tables.chain(chain))));
    // One that is there and was emptied gets its elements.
    let sets = vm.sets.iter().filter(|set| before.set(&set.name) != Some(*set));
    commands.extend(sets.cloned().map(object).map(Command::Add));
    let is_changed = |chain: &str| is_whole || before.rules_of(chain) != vm.rules_of(chain);
    commands.extend(vm.rule_objects(tables.path, is_changed).map(Command::Add));
}

fn object(set: Set) -> Object {
    if set.map.is_some() { Object::Map(set) } else { Object::Set(set) }
}

fn elements(
    tables: &Tables,
    port: &PortObjects,
    command: fn(Object) -> Command,
    commands: &mut Vec<Command>,
) {
    for (set, elem) in port.elements.iter().filter(|(_, elem)| !elem.is_empty()) {
        commands.push(command(Object::Element(Elements {
            family: tables.path.family().to_owned(),
            table: TABLE.to_owned(),
            name: (*set).to_owned(),
            elem: elem.clone(),
        })));
    }
}
