//! `lynceus firewall`, `isolate` and `release`: what is enforced on this host.

use crate::cli::{FirewallCommand, IsolateArgs, StateArgs};
use crate::output::{Column, Outcome, Output, Row};
use anyhow::{Context, Result, bail};
use lynceus_firewall::enforce;
use lynceus_firewall::host::PORT_PREFIXES;
use lynceus_firewall::nft::{Nft, Path as PortPath, TABLE};
use lynceus_firewall::ports::{self, Device};
use lynceus_firewall::state::{Binding, State, Store};
use lynceus_introspect::backend::xen;
use lynceus_policy::{Mac, Timestamp, VmPolicy};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where the kernel lists interfaces.
pub(super) const DEVICES: &str = "/sys/class/net";
/// So long a kernel that would not track connections on bridges is not asked again.
const REFUSAL_HOLDS: Duration = Duration::from_secs(10);

/// Does what the command says.
pub(super) fn run(output: Output, command: FirewallCommand) -> Result<Outcome> {
    match command {
        FirewallCommand::Status(state) => status(output, &state),
        FirewallCommand::Rules(state) => rules(output, &state),
        FirewallCommand::Flows(args) => super::flows::run(output, &args),
        FirewallCommand::Top(args) => super::firewall_top::run(output, &args),
        FirewallCommand::Owners(args) => super::owners::run(output, &args),
        FirewallCommand::Run(state) => super::enforcer::run(output, &state),
        FirewallCommand::Restore(state) => restore(&state),
    }
}

fn devices() -> Result<Vec<Device>> {
    ports::devices(Path::new(DEVICES)).context(DEVICES)
}

/// What this host has to be guarded.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Guarded {
    /// Which ports belong to which VM.
    pub(super) ports: BTreeMap<String, Binding>,
    /// Whether there are bridges, on which the kernel tracks connections.
    pub(super) bridges: bool,
}

impl Guarded {
    /// What a state was made for.
    pub(super) fn of(state: &State) -> Guarded {
        Guarded { ports: state.ports.clone(), bridges: state.bridges }
    }

    /// What there is now. The kernel is not asked again for what it is known to do.
    pub(super) fn look<'a>(
        vms: impl IntoIterator<Item = &'a VmPolicy>,
        can_bridge: bool,
        nft: &Nft,
    ) -> Result<Guarded> {
        let devices = devices()?;
        let has_bridge = devices.iter().any(|device| device.is_bridge);
        let bridges = has_bridge && (can_bridge || tracks_on_bridges(nft));
        Ok(Guarded { ports: ports::bind(vms, &devices, &of_xen()?, bridges), bridges })
    }
}

/// Whether the kernel tracks connections on bridges. To ask takes a process of nft's: a refusal is believed for a while.
fn tracks_on_bridges(nft: &Nft) -> bool {
    static REFUSED: Mutex<Option<Instant>> = Mutex::new(None);
    let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    if refused.is_some_and(|at| at.elapsed() < REFUSAL_HOLDS) {
        return false;
    }
    let tracks = enforce::bridge_has_conntrack(nft);
    *refused = (!tracks).then(Instant::now);
    tracks
}

/// The card behind each vif, as Xen's toolstack has it.
fn of_xen() -> Result<BTreeMap<String, ports::Card>> {
    if !xen::is_here() {
        return Ok(BTreeMap::new());
    }
    let domains = xen::list().context("the domains of Xen cannot be listed")?;
    let vifs = domains.iter().flat_map(|domain| domain.vifs.iter().map(move |vif| (domain.id, vif)));
    let mut known = BTreeMap::new();
    for (domain, vif) in vifs {
        let Ok(mac) = vif.mac.parse::<Mac>() else { continue };
        let card = || ports::Card { mac, addresses: vif.addresses.clone() };
        // The toolstack's script gives it another name, where the domain's configuration has one.
        let renamed = vif.name.clone().into_iter();
        for name in renamed.chain([format!("vif{domain}.{}", vif.number)]) {
            // The emulated card of an HVM domain, until its own driver takes over.
            known.insert(format!("{name}-emu"), card());
            known.insert(name, card());
        }
    }
    Ok(known)
}

#[derive(Serialize)]
struct PortRow {
    port: String,
    vm: Option<String>,
    mac: Option<Mac>,
    path: Option<PortPath>,
    state: &'static str,
}

impl Row for PortRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("PORT"),
        Column::left("VM"),
        Column::left("MAC"),
        Column::left("PATH"),
        Column::left("STATE"),
    ];
    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let path = match self.path {
            Some(PortPath::Routed) => "routed".to_owned(),
            Some(PortPath::Bridged) => "bridged".to_owned(),
            None => dash(),
        };
        vec![
            self.port.clone(),
            self.vm.clone().unwrap_or_else(dash),
            self.mac.map_or_else(dash, |mac| mac.to_string()),
            path,
            self.state.to_owned(),
        ]
    }
}

#[derive(Serialize)]
struct Integrity {
    generation: u32,
    /// Whether the rules themselves were compared; of very many, only their generation is.
    is_compared: bool,
    /// The families whose table is not as it was left.
    changed_by_others: Vec<String>,
    /// Until when a change can be confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirm_until: Option<String>,
}

/// The ports, and whether the rules are as they were left: exit code 1 where they are not, 3 where a port has no policy.
fn status(output: Output, args: &StateArgs) -> Result<Outcome> {
    let store = Store::open(&args.state)?;
    let nft = Nft::default();
    enforce::roll_back_if_due(&nft, &store, Timestamp::now())?;
    let Some(state) = store.enforced()? else {
        bail!("nothing is enforced on this host: `lynceus policy apply` does that");
    };
    let rows = port_rows(&state)?;
    output.rows(&rows)?;
    let is_compared = !state.fingerprints.is_empty();
    let changed_by_others = match (is_compared, enforce::has_generation(&nft, &state)) {
        (true, _) => enforce::changed_by_others(&nft, &state)?,
        (false, true) => Vec::new(),
        (false, false) => vec!["inet".to_owned()],
    };
    let confirm_until = store.pending()?.map(|pending| pending.deadline.to_string());
    let integrity = Integrity { generation: state.generation, is_compared, changed_by_others, confirm_until };
    if output.is_json() {
        eprintln!("{}", serde_json::to_string(&integrity)?);
    } else {
        let open = rows.iter().filter(|row| row.state == "no policy: closed").count();
        eprintln!(
            "generation {}, {} ports, {open} of them without a policy",
            integrity.generation,
            rows.len()
        );
        if !is_compared {
            let why = if enforce::has_too_many(&state) {
                "there are too many rules to compare each with how it was left"
            } else {
                "when they were changed last, nft could not list the rules: nobody knows how they were left; `lynceus firewall restore` puts them there anew"
            };
            eprintln!("INCOMPLETE: {why}");
        }
        for family in &integrity.changed_by_others {
            eprintln!(
                "the table `{family} {TABLE}` is not as it was left: `lynceus firewall restore` repairs it"
            );
        }
        integrity.confirm_until.iter().for_each(|at| eprintln!("going back at {at} UTC unless confirmed"));
    }
    let is_touched = !integrity.changed_by_others.is_empty();
    let is_known = rows.iter().all(|row| row.state == "enforced" || row.state == "isolated");
    Ok(match (is_touched, is_known && is_compared) {
        (true, _) => Outcome::Findings,
        (false, false) => Outcome::Incomplete,
        (false, true) => Outcome::Clean,
    })
}

fn port_rows(state: &State) -> Result<Vec<PortRow>> {
    let devices = devices()?;
    let mut rows = Vec::new();
    for (port, binding) in &state.ports {
        let device = devices.iter().find(|device| device.name == *port);
        let interface =
            state.vms.get(&binding.vm).and_then(|vm| vm.policy.vm.interfaces.get(binding.interface));
        let state = match (device, binding.path) {
            (None, _) => "gone",
            (Some(device), _) if device.index != binding.index => "another device: apply again",
            (_, None) => "cannot be judged: closed",
            _ if state.isolated.contains(&binding.vm) => "isolated",
            _ => "enforced",
        };
        let mac = interface.map(|interface| interface.mac);
        rows.push(PortRow {
            port: port.clone(),
            vm: Some(binding.vm.clone()),
            mac,
            path: binding.path,
            state,
        });
    }
    let is_port = |device: &&Device| PORT_PREFIXES.iter().any(|prefix| device.name.starts_with(prefix));
    for device in devices.iter().filter(is_port).filter(|device| !state.ports.contains_key(&device.name)) {
        let (port, state) = (device.name.clone(), "no policy: closed");
        rows.push(PortRow { port, vm: None, mac: None, path: None, state });
    }
    Ok(rows)
}

#[derive(Serialize)]
struct HitRow {
    rule: String,
    packets: u64,
    bytes: u64,
}

impl Row for HitRow {
    const COLUMNS: &'static [Column] =
        &[Column::right("PACKETS"), Column::right("BYTES"), Column::left("RULE")];
    fn cells(&self) -> Vec<String> {
        vec![self.packets.to_string(), self.bytes.to_string(), self.rule.clone()]
    }
}

/// The counters of all rules. They count the first packets of connections, not all of them.
fn rules(output: Output, args: &StateArgs) -> Result<Outcome> {
    if Store::open(&args.state)?.enforced()?.is_none() {
        bail!("nothing is enforced on this host: `lynceus policy apply` does that");
    }
    let mut rows = Vec::new();
    let listing = Nft::default().ask(&["list", "counters"])?;
    for entry in listing["nftables"].as_array().into_iter().flatten() {
        let counter = &entry["counter"];
        if counter["table"] != TABLE {
            continue;
        }
        let name = counter["name"].as_str().unwrap_or_default();
        let (family, count) =
            (counter["family"].as_str().unwrap_or_default(), |key: &str| counter[key].as_u64());
        let rule = match name.strip_prefix("vm-") {
            Some(rule) => rule.to_owned(),
            None => format!("({family}: {name})"),
        };
        let (packets, bytes) = (count("packets").unwrap_or(0), count("bytes").unwrap_or(0));
        rows.push(HitRow { rule, packets, bytes });
    }
    rows.sort_by(|one, other| one.rule.cmp(&other.rule));
    output.rows(&rows)?;
    eprintln!("{} counters", rows.len());
    Ok(Outcome::Clean)
}

/// Isolates a VM, or releases it. Its open connections are judged again by their next packet.
pub(super) fn isolate(args: &IsolateArgs, is_isolated: bool) -> Result<Outcome> {
    let done = set_isolated(&args.state.state, &args.vm, is_isolated)?;
    if done.was_so {
        println!("{}: it was so already", args.vm);
        return Ok(Outcome::Clean);
    }
    println!("{}: {}", args.vm, if is_isolated { "isolated" } else { "released" });
    if !done.has_port {
        eprintln!("lynceus: {} has no port on this host now", args.vm);
        return Ok(Outcome::Incomplete);
    }
    Ok(Outcome::Clean)
}

/// What came of isolating or releasing a VM.
pub(crate) struct Isolated {
    /// Nothing was to be done.
    pub(crate) was_so: bool,
    /// It has a port on this host.
    pub(crate) has_port: bool,
}

/// Isolates a VM that is guarded here, or releases it.
pub(crate) fn set_isolated(state: &Path, vm: &str, is_isolated: bool) -> Result<Isolated> {
    let store = Store::open(state)?;
    let nft = Nft::default();
    enforce::roll_back_if_due(&nft, &store, Timestamp::now())?;
    let Some(old) = store.enforced()? else {
        bail!("nothing is enforced on this host: `lynceus policy apply` does that");
    };
    if !old.vms.contains_key(vm) {
        let known: Vec<&str> = old.vms.keys().take(20).map(String::as_str).collect();
        bail!("no VM {vm:?} is guarded here; there are {}", known.join(", "));
    }
    let mut new = old.clone();
    let changed = if is_isolated { new.isolated.insert(vm.to_owned()) } else { new.isolated.remove(vm) };
    if changed {
        enforce::enforce(&nft, &store, Some(&old), &mut new)?;
    }
    Ok(Isolated { was_so: !changed, has_port: new.ports.values().any(|port| port.vm == vm) })
}

/// Enforces the last good rules again, for the ports as they are now.
pub(super) fn restore(args: &StateArgs) -> Result<Outcome> {
    let store = Store::open(&args.state)?;
    let nft = Nft::default();
    // What was not confirmed before a crash is not the last good one.
    if enforce::roll_back_if_due(&nft, &store, Timestamp(i64::MAX))? {
        println!("a change that was never confirmed is taken back");
    }
    let Some(old) = store.enforced()? else {
        bail!("nothing was enforced on this host: `lynceus policy apply` does that");
    };
    let mut state = old.clone();
    // Another kernel may run now.
    Guarded { ports: state.ports, bridges: state.bridges } = Guarded::look(old.wanted(), false, &nft)?;
    state.holds = state.holds && enforce::holds_packets(&nft);
    state.at = Timestamp::now();
    let is_as_left = state.is_like(&old) && is_as_left(&nft, &old, state.at)?;
    if !is_as_left {
        // Built on nothing: whatever is in the kernel is replaced.
        enforce::replace(&nft, &store, &old, &mut state)?;
    }
    let how = if is_as_left { ", as they were left" } else { "" };
    println!("{} VMs, {} ports, generation {}{how}", state.vms.len(), state.ports.len(), state.generation);
    Ok(Outcome::Clean)
}

/// Whether the kernel has just what a state left there, and that still holds: then nothing needs to be closed and put there anew.
fn is_as_left(nft: &Nft, state: &State, now: Timestamp) -> Result<bool> {
    Ok(state.changes_at().is_none_or(|at| at > now)
        && !state.fingerprints.is_empty()
        && enforce::has_generation(nft, state)
        && enforce::changed_by_others(nft, state)?.is_empty())
}
