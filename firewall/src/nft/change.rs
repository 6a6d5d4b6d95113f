//! From one table to the next: only what changed is touched, and counters that stay keep their hits.

use super::model::{Command, Elements, Object, Transaction};
use super::table::{PortObjects, Tables, generation_chain};
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
    commands.extend(tables.judge_rules().into_iter().map(Command::Add));
    for vm in tables.vms.values() {
        add_vm(tables, vm, &mut commands);
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
    // Elements jump to the VMs' chains: they go first and come last.
    let is_touched = |name: &String| {
        let of_vm = [old, new].into_iter().filter_map(|tables| tables.ports.get(name));
        old.ports.get(name) != new.ports.get(name) || of_vm.into_iter().any(|port| vms.contains(&&port.vm))
    };
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
    commands.push(Command::Flush(new.chain("judge")));
    commands.extend(ask::forget(new.path));
    commands.extend(new.judge_rules().into_iter().map(Command::Add));
    Transaction { nftables: commands }
}

/// Takes a VM's old objects away and puts its new ones there; counters that both have stay.
fn replace_vm(old: &Tables, new: &Tables, name: &str, commands: &mut Vec<Command>) {
    let nothing = VmObjects::default();
    let before = old.vms.get(name).unwrap_or(&nothing);
    let after = new.vms.get(name).unwrap_or(&nothing);
    commands.extend(before.chains.iter().map(|(chain, _)| Command::Flush(old.chain(chain))));
    // The chains are in an order in which a target comes before who goes there.
    commands.extend(before.chains.iter().rev().map(|(chain, _)| Command::Delete(old.chain(chain))));
    commands.extend(before.sets.iter().map(|set| {
        let mut gone = set.clone();
        gone.elem.clear();
        Command::Delete(if gone.map.is_some() { Object::Map(gone) } else { Object::Set(gone) })
    }));
    commands.extend(before.limit_objects(old.path).map(Command::Delete));
    let is_gone = |(name, _): &(&str, Object)| !after.counters.contains(*name);
    commands.extend(
        before.counter_objects(old.path).filter(is_gone).map(|(_, counter)| Command::Delete(counter)),
    );
    add_vm(new, after, commands);
}

fn add_vm(tables: &Tables, vm: &VmObjects, commands: &mut Vec<Command>) {
    commands.extend(vm.counter_objects(tables.path).map(|(_, counter)| Command::Add(counter)));
    commands.extend(vm.limit_objects(tables.path).map(Command::Add));
    commands.extend(vm.chains.iter().map(|(chain, _)| Command::Add(tables.chain(chain))));
    commands.extend(
        vm.sets
            .iter()
            .cloned()
            .map(|set| Command::Add(if set.map.is_some() { Object::Map(set) } else { Object::Set(set) })),
    );
    commands.extend(vm.rule_objects(tables.path).map(Command::Add));
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
