//! The inventory, and for each of its VMs the rules of the policies that select it.

use super::rules::Drafts;
use super::{Resolver, look, names};
use crate::error::ErrorKind;
use crate::lint::Level;
use crate::load::Entry;
use crate::model::{Chain, ChainDefault, FORMAT, Interface, TierRules, Vm, VmPolicy};
use crate::place::{At, FileId};
use crate::syntax::{Direction, InterfaceEntry, Mode, PolicyEntry, Tier, Verdict, VmEntry};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The VMs of the inventory. What two of them cannot both have is an error: an address, a MAC, a port, a uuid.
pub(super) fn all(resolver: &mut Resolver<'_>) -> BTreeMap<String, Vm> {
    let mut taken = BTreeMap::new();
    let mut vms = BTreeMap::new();
    for (name, entry) in &resolver.folder.vms {
        vms.insert(name.clone(), vm(resolver, name, entry, &mut taken));
    }
    vms
}

/// What is taken, and by whom.
type Taken = BTreeMap<(&'static str, String), String>;

fn vm(resolver: &mut Resolver<'_>, name: &str, entry: &Entry<VmEntry>, taken: &mut Taken) -> Vm {
    let from = entry.get();
    let mut take = |resolver: &mut Resolver<'_>, kind, value: String, at: &At<()>| {
        if let Some(other) = taken.insert((kind, value.clone()), name.to_owned()) {
            let why = format!("{kind} {value} is that of VM `{other}` already");
            resolver.wrong(entry.file, at, ErrorKind::Conflict(why));
        }
    };
    let uuid = from.uuid.as_ref().and_then(|text| {
        let uuid = text.get().to_ascii_lowercase();
        let is_uuid = uuid.len() == 36 && uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        let parsed = if is_uuid { Ok(uuid) } else { Err("it is `01234567-89ab-cdef-0123-456789abcdef`") };
        resolver.understood(entry.file, text, "uuid", parsed)
    });
    if let Some((uuid, at)) = uuid.as_ref().zip(from.uuid.as_ref()) {
        take(resolver, "uuid", uuid.clone(), &at.with(()));
    }
    let mut interfaces = Vec::new();
    for at in &from.interface {
        let Some(made) = interface(resolver, entry.file, at) else { continue };
        let span = at.with(());
        take(resolver, "MAC", made.mac.to_string(), &span);
        made.port.iter().for_each(|port| take(resolver, "port", port.clone(), &span));
        made.addresses.iter().for_each(|address| take(resolver, "address", address.to_string(), &span));
        interfaces.push(made);
    }
    if interfaces.is_empty() {
        let place = resolver.folder.place_of(entry);
        let message = format!("VM `{name}` has no interface: nothing of it is guarded");
        resolver.lint("no-interface", Level::Warning, place, message);
    }
    Vm { name: name.to_owned(), uuid, labels: from.labels.clone(), interfaces }
}

fn interface(resolver: &mut Resolver<'_>, file: FileId, at: &At<InterfaceEntry>) -> Option<Interface> {
    let from = at.get();
    let mac = resolver.parse(file, &from.mac, "MAC address")?;
    let address = |resolver: &mut Resolver<'_>, text| {
        let address: IpAddr = resolver.parse(file, text, "address")?;
        let is_own = !address.is_multicast() && !address.is_unspecified();
        let parsed = if is_own { Ok(address) } else { Err("no card can have it") };
        resolver.understood(file, text, "address", parsed)
    };
    let addresses = from.addresses.iter().filter_map(|text| address(resolver, text)).collect();
    let routes = from.routes.iter().filter_map(|text| resolver.parse(file, text, "network")).collect();
    let port = from.port.as_ref().and_then(|text| {
        let port = text.get();
        // The kernel's own limit, IFNAMSIZ, less its final zero.
        let is_port = (1..=15).contains(&port.len())
            && port.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@'));
        let parsed =
            if is_port { Ok(port.clone()) } else { Err("it must be 1 to 15 letters, digits, `.`, `_`, `-`") };
        resolver.understood(file, text, "port", parsed)
    });
    Some(Interface {
        port,
        mac,
        addresses,
        anti_spoofing: from.anti_spoofing,
        routes,
        dhcp_server: from.dhcp_server,
    })
}

/// One policy per VM.
pub(super) fn policies(
    resolver: &mut Resolver<'_>,
    drafts: &BTreeMap<String, Drafts>,
) -> BTreeMap<String, VmPolicy> {
    let mut of_vm: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, entry) in &resolver.folder.policies {
        for vm in selected(resolver, name, entry) {
            of_vm.entry(vm).or_default().push(name);
        }
    }
    let looks = look::all(resolver);
    let mut all = BTreeMap::new();
    for vm in resolver.vms.values().cloned().collect::<Vec<_>>() {
        let mut names = of_vm.remove(&vm.name).unwrap_or_default();
        names.retain(|name| drafts.contains_key(*name));
        names.sort_by_key(|name| drafts.get(*name).map(|drafts| (drafts.tier, drafts.order, *name)));
        if names.is_empty() {
            let place = resolver.folder.vms.get(&vm.name).map(|entry| resolver.folder.place_of(entry));
            let message = format!("no policy selects VM `{}`: everything is denied", vm.name);
            place.into_iter().for_each(|at| resolver.lint("no-policy", Level::Warning, at, message.clone()));
        }
        let chosen: Vec<&Drafts> = names.iter().filter_map(|name| drafts.get(*name)).collect();
        let policy = VmPolicy {
            format: FORMAT,
            policies: chosen.iter().flat_map(|drafts| drafts.names.iter().cloned()).collect(),
            inbound: chain(&chosen, Direction::In),
            outbound: chain(&chosen, Direction::Out),
            look: look::merged(&names, &looks, drafts),
            vm,
        };
        all.insert(policy.vm.name.clone(), policy);
    }
    all
}

/// The VMs that a policy is for.
fn selected(resolver: &mut Resolver<'_>, name: &str, entry: &Entry<PolicyEntry>) -> BTreeSet<String> {
    let policy = entry.get();
    let mut vms = names::selected(resolver, entry.file, policy.select.as_ref());
    vms.extend(names::of_groups(resolver, entry.file, &policy.groups));
    vms.extend(names::known_vms(resolver, entry.file, &policy.vms));
    let place = resolver.folder.place_of(entry);
    match policy.mode {
        Some(Mode::Off) => {
            resolver.lint("off", Level::Warning, place, format!("policy `{name}` is off"));
        }
        Some(Mode::Audit) => {
            resolver.lint(
                "audit",
                Level::Note,
                place,
                format!("policy `{name}` only tells; it denies nothing"),
            );
        }
        _ => {}
    }
    vms
}

/// No rules, and everything denied.
pub(super) fn empty_chain() -> Chain {
    Chain {
        tiers: Tier::ALL.map(|tier| TierRules { tier, rules: Vec::new() }).to_vec(),
        default: ChainDefault { verdict: Verdict::Deny, audit: false, log: true, policy: None, tier: None },
    }
}

/// Adds one policy's rules behind those that are there.
pub(super) fn append(chain: &mut Chain, direction: Direction, drafts: &Drafts) {
    let rules = drafts.rules.iter().filter(|(of, _)| *of == direction).map(|(_, rule)| rule.clone());
    if let Some(tier) = chain.tiers.iter_mut().find(|tier| tier.tier == drafts.tier) {
        tier.rules.extend(rules);
    }
}

fn chain(drafts: &[&Drafts], direction: Direction) -> Chain {
    let mut chain = empty_chain();
    drafts.iter().for_each(|drafts| append(&mut chain, direction, drafts));
    // The most specific tier's default holds; within a tier, that of the first policy.
    let default = |tier: Tier| {
        let of_tier = drafts.iter().filter(move |drafts| drafts.tier == tier);
        of_tier.flat_map(|drafts| &drafts.defaults).find(|(of, _)| *of == direction)
    };
    if let Some((_, default)) = Tier::ALL.into_iter().rev().find_map(default) {
        chain.default = default.clone();
    }
    chain
}
