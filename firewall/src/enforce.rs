//! From one state to the next, in the kernel and on disk.
//!
//! *Does*: makes the transactions of a [`Change`] for all tables, does them, and keeps the new state; what is put there anew is checked by nft
//! first, and its ports are closed meanwhile. *Trusts*: its own state file. *Never*: takes rules away before the new ones are there; when
//! nft refuses a difference, the old rules and the old state stay.

use crate::nft::ask::{ANSWERS, FIRST_QUEUE};
use crate::nft::model::{self, Chain, Command, Object, Queue, Statement, Transaction};
use crate::nft::table::{Tables, generation_chain, tables};
use crate::nft::{self, Change, Nft, Path as PortPath, TABLE, antispoof, closing, install, update};
use crate::state::{Binding, Pending, State, StateError, Store};
use lynceus_policy::{Rule, Schedule, Timestamp};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// With more rules than this, nft takes seconds to list or to check them: they are not compared with how they were left, and not checked
/// before they are put there anew.
const MAX_WHOLE_RULES: usize = 4000;

/// Rules that are put there together when everything is put there anew.
const STAGE_RULES: usize = 250;

/// Why nothing was changed.
#[derive(Debug, Error)]
pub enum EnforceError {
    /// nft did not take the rules.
    #[error(transparent)]
    Nft(#[from] nft::Error),
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What a change came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// How many commands nft got.
    pub commands: usize,
    /// Whether everything was put there anew: at first, and after others changed it.
    pub is_whole: bool,
}

/// Puts a state into force. The generation is counted on; what was there before is read from `old`.
///
/// Only what changed is touched where the kernel still has the old state's rules; where it has not, after a reboot or somebody else's
/// change, or where it refuses the difference, everything is put there anew.
pub fn enforce(nft: &Nft, store: &Store, old: Option<&State>, new: &mut State) -> Result<Done, EnforceError> {
    old.into_iter().for_each(|old| share(old, new));
    let base = old.filter(|old| has_generation(nft, old));
    new.generation = next_generation(nft, old, base.is_some());
    let changed = base.map(|base| {
        let difference = change(Some(base), new);
        // It is checked by doing it: the kernel takes all of a transaction or nothing. A check of its own first costs as much again.
        commit(nft, difference).map(|commands| Done { commands, is_whole: false }).inspect_err(|_| {
            // What was prepared is what the way back would clean up. If none of it is there, that is refused, and nothing is lost.
            let _ = nft.commit(&Transaction { nftables: change(Some(new), base).clean });
        })
    });
    let done = match changed {
        Some(Ok(done)) => done,
        Some(Err(error @ nft::Error::Missing { .. })) => return Err(error.into()),
        Some(Err(_)) | None => put_anew(nft, new, base.is_some())?,
    };
    keep(nft, store, new)?;
    Ok(done)
}

/// The transactions of a change, one after the other; how many commands they have.
fn commit(nft: &Nft, change: Change) -> Result<usize, nft::Error> {
    let mut commands: usize = 0;
    for transaction in change.transactions() {
        nft.commit(&transaction)?;
        commands = commands.saturating_add(transaction.nftables.len());
    }
    Ok(commands)
}

/// A number that no rules had by which connections may still be marked. An apply that was killed before its state was on disk has left a
/// higher one in the kernel.
fn next_generation(nft: &Nft, old: Option<&State>, is_in_kernel: bool) -> u32 {
    let known = old.map_or(0, |old| old.generation);
    let found = if is_in_kernel { None } else { nft.generation() };
    found.map_or(known, |found| found.max(known)).wrapping_add(1)
}

/// Takes the old state's VMs where they are the same, so that they need not be compared rule by rule again.
fn share(old: &State, new: &mut State) {
    for (name, vm) in &mut new.vms {
        if let Some(same) = old.vms.get(name).filter(|old| *old == vm) {
            *vm = same.clone();
        }
    }
}

/// Puts a state into force whatever is in the kernel: after a reboot, or to repair what others changed.
pub fn replace(nft: &Nft, store: &Store, old: &State, new: &mut State) -> Result<Done, EnforceError> {
    let is_in_kernel = has_generation(nft, old);
    new.generation = next_generation(nft, Some(old), is_in_kernel);
    let done = put_anew(nft, new, is_in_kernel)?;
    keep(nft, store, new)?;
    Ok(done)
}

/// Puts everything there anew, VM after VM: the kernel's time for a transaction grows with the square of the sets in it, of a thousand
/// VMs at once it takes minutes. A port is closed from the beginning until its VM's rules are there, and stays so if they never come;
/// where nothing was begun yet, it is opened again to the rules that are there, if those `are_ours`.
fn put_anew(nft: &Nft, new: &State, are_ours: bool) -> Result<Done, nft::Error> {
    let is_concerned =
        |path: &PortPath| *path == PortPath::Routed || new.uses(*path) || nft.has_table(path.family());
    let paths: Vec<PortPath> = PortPath::ALL.into_iter().filter(is_concerned).collect();
    let mut there = State { ports: BTreeMap::new(), ..new.clone() };
    let mut begun = rules(None, &there, &BTreeSet::new());
    begun.prepare.extend(devices(None, new, &BTreeSet::new()));
    if paths.contains(&PortPath::Bridged) && !new.uses(PortPath::Bridged) {
        begun.prepare.extend(Command::absent(PortPath::Bridged.family(), TABLE));
    }
    nft.check(&if has_too_many(new) { begun.clone() } else { change(None, new) }.whole())?;

    let all = || new.ports.keys().map(String::as_str);
    nft.commit(&Transaction {
        nftables: paths.iter().flat_map(|path| closing::close(*path, all())).collect(),
    })?;
    let opened = Transaction { nftables: paths.iter().flat_map(|path| closing::remove(*path)).collect() };
    let mut commands = match commit(nft, begun) {
        Ok(commands) => commands,
        Err(error) => {
            if are_ours {
                nft.commit(&opened)?;
            }
            return Err(error);
        }
    };
    while there.ports.len() < new.ports.len() {
        let next = with_more_ports(&there, new);
        let mut stage = rules(Some(&there), &next, &unchanged(&there, &next));
        let come = || next.ports.keys().filter(|port| !there.ports.contains_key(*port)).map(String::as_str);
        stage.switch.extend(paths.iter().map(|path| closing::open(*path, come())));
        commands = commands.saturating_add(commit(nft, stage)?);
        there = next;
    }
    nft.commit(&opened)?;
    Ok(Done { commands, is_whole: true })
}

/// With the ports of some more VMs; a VM's ports come together.
fn with_more_ports(there: &State, new: &State) -> State {
    let (mut next, mut rules) = (there.clone(), 0);
    for (port, binding) in &new.ports {
        if rules >= STAGE_RULES {
            break;
        }
        if next.ports.contains_key(port) {
            continue;
        }
        let of_vm = new.ports.iter().filter(|(_, other)| other.vm == binding.vm);
        next.ports.extend(of_vm.map(|(name, binding)| (name.clone(), binding.clone())));
        // One without a rule has its default.
        rules += new.policy(&binding.vm).map_or(0, |policy| policy.rules().count()) + 1;
    }
    next
}

/// Keeps the new state, with what the kernel makes of it.
fn keep(nft: &Nft, store: &Store, new: &mut State) -> Result<(), EnforceError> {
    new.fingerprints =
        if has_too_many(new) { BTreeMap::new() } else { fingerprints(nft).unwrap_or_default() };
    Ok(store.keep(new)?)
}

/// Whether there are more rules than are compared with how they were left, or checked as a whole.
pub fn has_too_many(state: &State) -> bool {
    state.wanted().map(|policy| policy.rules().count()).sum::<usize>() > MAX_WHOLE_RULES
}

/// Keeps the old rules to go back to when nobody confirms the new ones until `deadline`, then enforces the new ones.
pub fn enforce_for_a_while(
    nft: &Nft,
    store: &Store,
    old: &State,
    new: &mut State,
    deadline: Timestamp,
) -> Result<Done, EnforceError> {
    // What is not confirmed yet is nothing to go back to.
    let previous = store.pending()?.map_or_else(|| old.clone(), |pending| pending.previous);
    store.set_pending(Some(&Pending { deadline, previous }))?;
    let done = enforce(nft, store, Some(old), new);
    if done.is_err() {
        store.set_pending(None)?;
    }
    done
}

/// Puts back what was there before a change that nobody confirmed in time. Whether there was one.
pub fn roll_back_if_due(nft: &Nft, store: &Store, now: Timestamp) -> Result<bool, EnforceError> {
    let Some(pending) = store.pending()?.filter(|pending| pending.deadline <= now) else { return Ok(false) };
    let old = store.enforced()?;
    let mut previous = pending.previous;
    if let Some(old) = &old {
        // Ports came and went meanwhile, and an isolated VM stays so.
        let known = |name: &&String| previous.vms.contains_key(*name);
        previous.isolated = old.isolated.iter().filter(known).cloned().collect();
        previous.ports = old.ports.clone();
        previous.bridges = old.bridges;
        let vms = &previous.vms;
        previous.ports.retain(|_, binding| vms.contains_key(&binding.vm));
    }
    enforce(nft, store, old.as_ref(), &mut previous)?;
    store.set_pending(None)?;
    Ok(true)
}

/// What is to be done in all tables: everything where there is nothing to build on, else what is different.
pub fn change(old: Option<&State>, new: &State) -> Change {
    let same = old.map(|old| unchanged(old, new)).unwrap_or_default();
    let mut change = rules(old, new, &same);
    change.switch.extend(devices(old, new, &same));
    change
}

/// The tables that judge connections. A VM of which nothing changed is not even compiled.
fn rules(old: Option<&State>, new: &State, same: &BTreeSet<&str>) -> Change {
    let mut change = Change::default();
    for path in PortPath::ALL {
        let but = |same: &BTreeSet<&str>, state: &State| {
            let host = state.host_of(|binding| binding.path == Some(path) && !same.contains(&*binding.vm));
            let some = tables(&host, path, state.generation, &state.moment());
            Tables { asks: state.asks(), ..some }
        };
        let of = |state: &State| but(same, state);
        let is_used = |state: &State| path == PortPath::Routed || state.uses(path);
        match old.filter(|old| is_used(old)) {
            before if !is_used(new) => {
                change.clean.extend(before.iter().map(|before| Command::Delete(of(before).table())));
            }
            Some(before) => change.extend(update(&of(before), &of(new))),
            // Nothing is there: nothing of it is the same.
            None => change.extend(install(&but(&BTreeSet::new(), new))),
        }
    }
    change
}

/// The chains on devices, and those that close what nothing can judge.
fn devices(old: Option<&State>, new: &State, same: &BTreeSet<&str>) -> Vec<Command> {
    // A device that came anew under an old name has lost its chain's hook.
    let is_same_device = |old: &State, port: &String| {
        old.ports.get(port).map(|port| port.index) == new.ports.get(port).map(|port| port.index)
    };
    let has_chain = |state: &State, port: &Binding| {
        let vm = state.policy(&port.vm);
        let interface = vm.and_then(|vm| vm.vm.interfaces.get(port.interface));
        interface.is_some_and(|interface| interface.anti_spoofing)
    };
    let base = old.filter(|old| {
        let mut guarded = old.ports.iter().filter(|(_, binding)| has_chain(old, binding));
        guarded.all(|(port, _)| is_same_device(old, port))
    });
    // Where there is nothing to build on, nothing is the same.
    let is_same = |vm: &str| base.is_some() && same.contains(vm);
    let chains = |state: &State| antispoof::chains(&state.host_of(|binding| !is_same(&binding.vm)));
    let mut commands = antispoof::update(base.map(chains).as_ref(), &chains(new));
    commands.extend(closed(base, new));
    commands
}

/// The VMs whose rules and ports are the same in both.
fn unchanged<'a>(old: &'a State, new: &State) -> BTreeSet<&'a str> {
    let is_still = |name: &String| old.names.get(name) == new.names.get(name);
    let stays = |rule: &Rule| rule.names.iter().all(is_still) && rule.schedule == Schedule::default();
    let is_same = |vm: &&str| {
        let policies = old.policy(vm).zip(new.policy(vm));
        old.holds == new.holds
            && policies.is_some_and(|(old, new)| old == new && new.rules().all(|rule| stays(rule)))
    };
    let mut same: BTreeSet<&str> = old.vms.keys().map(String::as_str).filter(is_same).collect();
    for (one, other) in [(old, new), (new, old)] {
        let moved = one.ports.iter().filter(|(port, binding)| other.ports.get(*port) != Some(*binding));
        for (_, binding) in moved {
            same.remove(&*binding.vm);
        }
    }
    same
}

/// Ports that nothing can judge let nothing through, in either direction.
fn closed(old: Option<&State>, new: &State) -> Vec<Command> {
    let of = |state: &State| -> Vec<String> {
        let closed = state.ports.iter().filter(|(_, binding)| binding.path.is_none());
        closed.map(|(name, _)| name.clone()).collect()
    };
    let (before, after) = (old.map(of).unwrap_or_default(), of(new));
    let gone = before.iter().filter(|port| !after.contains(port));
    let come = after.iter().filter(|port| !before.contains(port));
    gone.flat_map(|port| antispoof::open(port)).chain(come.flat_map(|port| antispoof::close(port))).collect()
}

/// The families of our tables that are not as we left them: somebody else changed them.
pub fn changed_by_others(nft: &Nft, state: &State) -> Result<Vec<String>, nft::Error> {
    let now = fingerprints(nft)?;
    let families: BTreeSet<&String> = now.keys().chain(state.fingerprints.keys()).collect();
    let differs = |family: &&&String| now.get(**family) != state.fingerprints.get(**family);
    Ok(families.iter().filter(differs).map(|family| (*family).clone()).collect())
}

/// A digest of each of our tables as the kernel lists it, without what counts up.
pub fn fingerprints(nft: &Nft) -> Result<BTreeMap<String, String>, nft::Error> {
    let mut digests = BTreeMap::new();
    let chains = nft.ask(&["list", "chains"])?;
    for family in ["inet", "bridge", "netdev"] {
        let is_ours = |entry: &Value| entry["chain"]["family"] == family && entry["chain"]["table"] == TABLE;
        if !chains["nftables"].as_array().is_some_and(|all| all.iter().any(is_ours)) {
            continue;
        }
        let mut listing = nft.ask(&["list", "table", family, TABLE])?;
        strip(&mut listing);
        // FNV-1a, 128 bits: against mistakes, not against root, who could change the state as well.
        let digest =
            listing.to_string().bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58du128, |hash, byte| {
                (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
            });
        digests.insert(family.to_owned(), format!("{digest:032x}"));
    }
    Ok(digests)
}

/// Takes away what differs between two listings of the same rules.
fn strip(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for counted in ["handle", "packets", "bytes", "metainfo"] {
                members.remove(counted);
            }
            if members.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with(ANSWERS)) {
                members.remove("elem");
            }
            members.values_mut().for_each(strip);
        }
        Value::Array(items) => {
            items.iter_mut().for_each(strip);
            // The kernel lists a set's elements in the order of its hash table.
            items.sort_by_cached_key(|item| {
                if item.get("rule").is_some() { String::new() } else { item.to_string() }
            });
        }
        _ => {}
    }
}

/// Whether connections can be tracked on bridges here: asked of the kernel, with a table that is never made.
pub fn bridge_has_conntrack(nft: &Nft) -> bool {
    let probe = State { generation: 1, ..State::default() };
    let tables = tables(&probe.host(PortPath::Bridged), PortPath::Bridged, 1, &probe.moment());
    nft.check(&install(&tables).whole()).is_ok()
}

/// Whether the kernel can hold packets until somebody answers for them: asked of it, with a table that is never made.
pub fn holds_packets(nft: &Nft) -> bool {
    let (family, table) = ("inet".to_owned(), format!("{TABLE}-probe"));
    let chain =
        Chain { family: family.clone(), table: table.clone(), name: "c".to_owned(), ..Chain::default() };
    let expr = vec![Statement::Queue(Queue { num: FIRST_QUEUE.into() })];
    let rule = model::Rule { family: family.clone(), table: table.clone(), chain: chain.name.clone(), expr };
    let all = [Object::table(&family, &table), Object::Chain(chain), Object::Rule(rule)];
    nft.check(&Transaction { nftables: all.into_iter().map(Command::Add).collect() }).is_ok()
}

/// Takes all our tables away: nothing is guarded any more.
pub fn remove(nft: &Nft) -> Result<(), nft::Error> {
    let mut nftables = Vec::new();
    let is_there = |path: &PortPath| *path == PortPath::Routed || nft.has_table(path.family());
    let paths: Vec<PortPath> = PortPath::ALL.into_iter().filter(is_there).collect();
    for family in paths.iter().map(|path| path.family()).chain(["netdev"]) {
        nftables.extend(Command::absent(family, TABLE));
    }
    nftables.extend(paths.into_iter().flat_map(closing::remove));
    nft.apply(&Transaction { nftables })
}

/// Whether the kernel's rules are those of the state, by the chain that is named after their generation: one chain is looked up in
/// microseconds, where a listing of the rules of a thousand VMs takes nft a quarter of a minute.
pub fn has_generation(nft: &Nft, state: &State) -> bool {
    nft.has_chain("inet", &generation_chain(state.generation))
}
