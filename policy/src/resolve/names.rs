//! Groups, address sets and service sets: what their names stand for.

use super::{Members, Resolver};
use crate::error::ErrorKind;
use crate::graph;
use crate::lint::Level;
use crate::load::{Entry, Folder, Named};
use crate::net::AddressSet;
use crate::place::{At, FileId};
use crate::selector::{Selector, Subject};
use crate::service::ServiceSet;
use crate::syntax::GroupEntry;
use std::collections::{BTreeMap, BTreeSet};

/// The VMs of every group.
pub(super) fn groups(resolver: &mut Resolver<'_>) -> BTreeMap<String, BTreeSet<String>> {
    let folder = resolver.folder;
    let includes =
        includes(&folder.groups, |group| group.extends.iter().map(|name| name.get().as_str()).collect());
    let order = in_order(resolver, "group", &folder.groups, &includes);
    for name in order {
        let Some(entry) = folder.groups.get(name) else { continue };
        let members = members(resolver, entry);
        if members.is_empty() {
            let place = folder.place_of(entry);
            resolver.lint("empty-group", Level::Warning, place, format!("group `{name}` has no VM"));
        }
        resolver.groups.insert(name.to_owned(), members);
    }
    std::mem::take(&mut resolver.groups)
}

fn members(resolver: &mut Resolver<'_>, entry: &Entry<GroupEntry>) -> BTreeSet<String> {
    let group = entry.get();
    let mut members = selected(resolver, entry.file, group.select.as_ref());
    members.extend(known_vms(resolver, entry.file, &group.vms));
    for extended in &group.extends {
        match resolver.groups.get(extended.get()) {
            Some(others) => members.extend(others.iter().cloned()),
            None if resolver.folder.groups.contains_key(extended.get()) => {}
            None => {
                let folder = resolver.folder;
                resolver.unknown(entry.file, extended, "group", folder.groups.keys().map(String::as_str));
            }
        }
        resolver.used.insert(("group", extended.get().clone()));
    }
    members
}

/// The VMs that an expression selects. One that selects none is told of.
pub(super) fn selected(
    resolver: &mut Resolver<'_>,
    file: FileId,
    select: Option<&At<String>>,
) -> BTreeSet<String> {
    let Some(text) = select else { return BTreeSet::new() };
    let Some(selector) = resolver.parse::<Selector>(file, text, "selector") else { return BTreeSet::new() };
    let is_selected = |vm: &&crate::model::Vm| {
        selector.selects(Subject { name: &vm.name, uuid: vm.uuid.as_deref(), labels: &vm.labels })
    };
    let names: BTreeSet<String> =
        resolver.vms.values().filter(is_selected).map(|vm| vm.name.clone()).collect();
    let place = resolver.folder.place(file, text.span());
    if names.is_empty() {
        let message = format!("`{}` selects no VM", text.get());
        resolver.lint("empty-selector", Level::Warning, place.clone(), message);
    }
    let labels: BTreeSet<&str> =
        resolver.vms.values().flat_map(|vm| vm.labels.keys().map(String::as_str)).collect();
    let strange: Vec<String> = selector
        .labels()
        .into_iter()
        .filter(|label| !["name", "uuid"].contains(label) && !labels.contains(label))
        .map(|label| {
            format!("no VM has a label `{label}`{}", crate::suggest::hint(label, labels.iter().copied()))
        })
        .collect();
    for message in strange {
        resolver.lint("unknown-label", Level::Warning, place.clone(), message);
    }
    names
}

/// Those names that VMs have; the others are errors.
pub(super) fn known_vms(resolver: &mut Resolver<'_>, file: FileId, names: &[At<String>]) -> Vec<String> {
    let mut known = Vec::new();
    for name in names {
        if resolver.folder.vms.contains_key(name.get()) {
            known.push(name.get().clone());
        } else {
            let folder = resolver.folder;
            resolver.unknown(file, name, "VM", folder.vms.keys().map(String::as_str));
        }
    }
    known
}

/// The VMs of these groups; groups that are not there are errors.
pub(super) fn of_groups(resolver: &mut Resolver<'_>, file: FileId, names: &[At<String>]) -> BTreeSet<String> {
    let mut vms = BTreeSet::new();
    for name in names {
        match resolver.groups.get(name.get()) {
            Some(group) => vms.extend(group.iter().cloned()),
            None => {
                let folder = resolver.folder;
                resolver.unknown(file, name, "group", folder.groups.keys().map(String::as_str));
            }
        }
        resolver.used.insert(("group", name.get().clone()));
    }
    vms
}

/// Every address set.
pub(super) fn addresses(resolver: &mut Resolver<'_>) -> BTreeMap<String, AddressSet> {
    let folder = resolver.folder;
    let includes = includes(&folder.addresses, named_sets);
    for name in in_order(resolver, "address set", &folder.addresses, &includes) {
        let Some(entry) = folder.addresses.get(name) else { continue };
        let members = resolver.address_list(entry.file, &entry.get().members);
        let set = members.minus(&resolver.address_list(entry.file, &entry.get().except));
        if set.is_empty() {
            let place = folder.place_of(entry);
            resolver.lint("empty-set", Level::Warning, place, format!("address set `{name}` has no address"));
        }
        resolver.addresses.insert(name.to_owned(), set);
    }
    std::mem::take(&mut resolver.addresses)
}

/// Every service set.
pub(super) fn services(resolver: &mut Resolver<'_>) -> BTreeMap<String, ServiceSet> {
    let folder = resolver.folder;
    let includes = includes(&folder.services, named_sets);
    for name in in_order(resolver, "service set", &folder.services, &includes) {
        let Some(entry) = folder.services.get(name) else { continue };
        let set = resolver.service_list(entry.file, &entry.get().members);
        if set.is_empty() {
            let place = folder.place_of(entry);
            resolver.lint("empty-set", Level::Warning, place, format!("service set `{name}` has no service"));
        }
        resolver.services.insert(name.to_owned(), set);
    }
    std::mem::take(&mut resolver.services)
}

/// The `@sets` that a set includes.
fn named_sets<T: Members>(set: &T) -> Vec<&str> {
    set.lists().into_iter().flatten().filter_map(|text| text.get().strip_prefix('@')).collect()
}

/// What each thing includes, as far as that is there.
pub(super) fn includes<'a, T>(
    all: &'a Named<T>,
    of: impl Fn(&'a T) -> Vec<&'a str>,
) -> BTreeMap<&'a str, Vec<&'a str>> {
    let known =
        |entry: &'a Entry<T>| of(entry.get()).into_iter().filter(|name| all.contains_key(*name)).collect();
    all.iter().map(|(name, entry)| (name.as_str(), known(entry))).collect()
}

/// The names in an order in which what is included comes first; ways round are errors.
pub(super) fn in_order<'a, T>(
    resolver: &mut Resolver<'_>,
    kind: &'static str,
    all: &Named<T>,
    includes: &BTreeMap<&'a str, Vec<&'a str>>,
) -> Vec<&'a str> {
    let (order, cycles) = graph::sorted(includes);
    for cycle in cycles {
        let name = cycle.first().copied().unwrap_or_default();
        if let Some(entry) = all.get(name) {
            let through = graph::told(&cycle);
            let wrong = ErrorKind::Cycle { kind, name: name.to_owned(), through };
            resolver.wrong(entry.file, &entry.item, wrong);
        }
    }
    order
}

/// Tells of names that nobody uses.
pub(super) fn unused(resolver: &mut Resolver<'_>) {
    let folder: &Folder = resolver.folder;
    let groups = folder.groups.iter().map(|(name, entry)| ("group", name, folder.place_of(entry)));
    let addresses =
        folder.addresses.iter().map(|(name, entry)| ("address set", name, folder.place_of(entry)));
    let services = folder.services.iter().map(|(name, entry)| ("service set", name, folder.place_of(entry)));
    let templates = folder.templates.iter().map(|(name, entry)| ("template", name, folder.place_of(entry)));
    let all: Vec<_> = groups.chain(addresses).chain(services).chain(templates).collect();
    for (kind, name, place) in all {
        if !resolver.used.contains(&(kind, name.clone())) {
            resolver.lint("unused", Level::Note, place, format!("{kind} `{name}` is not used"));
        }
    }
}
