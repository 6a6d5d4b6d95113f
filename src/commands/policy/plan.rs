//! `lynceus policy plan`: what applying the policy would change, by what packets would meet, not by how files differ.

use crate::cli::PlanArgs;
use crate::output::{Column, Outcome, Output, Row};
use anyhow::{Context, Result};
use lynceus_firewall::cells::Grid;
use lynceus_firewall::state::{State, Store};
use lynceus_firewall::{Flow, Moment, judge, suite};
use lynceus_policy::{Direction, Family, IpRange, Rule, ServiceSet, Timestamp, Verdict, VmPolicy, service};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Changes of one VM and direction that are told one by one.
const MAX_ROWS: usize = 100;
/// Cells of one VM and direction that are compared.
const MAX_CELLS: usize = 4_000_000;
/// A line of recorded flows may be so long.
const MAX_LINE_BYTES: usize = 64 << 10;

#[derive(Serialize)]
struct ChangeRow {
    vm: String,
    direction: &'static str,
    peers: String,
    services: String,
    was: &'static str,
    becomes: &'static str,
}

impl Row for ChangeRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("VM"),
        Column::left("DIR"),
        Column::left("WAS"),
        Column::left("BECOMES"),
        Column::left("PEERS"),
        Column::left("SERVICES"),
    ];
    fn cells(&self) -> Vec<String> {
        let ChangeRow { vm, direction, peers, services, was, becomes } = self;
        let [was, becomes, direction] = [was, becomes, direction].map(|text| (*text).to_owned());
        vec![vm.clone(), direction, was, becomes, peers.clone(), services.clone()]
    }
}

/// Compares; exit code 1 where recorded flows would newly be dropped.
pub(super) fn run(output: Output, args: &PlanArgs) -> Result<Outcome> {
    let policy = super::load(output, &args.folder.policy)?;
    let state = Store::open(&args.state.state)?.enforced()?.unwrap_or_default();
    let now = Moment { names: state.names.clone(), ..Moment::at(Timestamp::now()) };
    let old = state.policies();
    let mut rows = Vec::new();
    let mut more = 0;
    let names: BTreeSet<&String> = old.keys().chain(policy.vms.keys()).collect();
    for name in names {
        // An isolated VM stays isolated, whatever the policy says.
        let isolated =
            policy.vms.get(name).filter(|_| state.isolated.contains(name)).map(|vm| policy.isolated(vm));
        let new = isolated.as_ref().or(policy.vms.get(name));
        for direction in Direction::ALL {
            let changes = changes(name, direction, old.get(name), new, &now)?;
            more += changes.len().saturating_sub(MAX_ROWS);
            rows.extend(changes.into_iter().take(MAX_ROWS));
        }
    }
    if output.is_json() || !rows.is_empty() {
        output.rows(&rows)?;
    }
    let text = match rows.len() + more {
        0 => "nothing would change".to_owned(),
        count if more > 0 => format!("{count} changes, the first {} shown", rows.len()),
        count => format!("{count} changes"),
    };
    super::summary(output, "changes", rows.len() + more, &text)?;
    match &args.flows {
        Some(path) => replay(output, path, &state, &policy.vms, &now),
        None => Ok(Outcome::Clean),
    }
}

/// What no policy says: everything is denied.
fn verdict(policy: Option<&VmPolicy>, direction: Direction, flow: &Flow, now: &Moment) -> Verdict {
    policy.map_or(Verdict::Deny, |policy| judge(policy, direction, flow, now).verdict)
}

/// Every kind of packet whose verdict changes, cells of the same peers and change together.
fn changes(
    vm: &str,
    direction: Direction,
    old: Option<&VmPolicy>,
    new: Option<&VmPolicy>,
    now: &Moment,
) -> Result<Vec<ChangeRow>> {
    let rules: Vec<&Rule> = [old, new]
        .into_iter()
        .flatten()
        .flat_map(|policy| policy.chain(direction).rules())
        .map(AsRef::as_ref)
        .collect();
    if old.map(|policy| policy.chain(direction)) == new.map(|policy| policy.chain(direction)) {
        return Ok(Vec::new());
    }
    let grid = Grid::of(rules, &now.names);
    anyhow::ensure!(
        grid.len() <= MAX_CELLS,
        "VM {vm}: {} kinds of packets are too many to compare",
        grid.len()
    );
    let mut changed: BTreeMap<(IpRange, Verdict, Verdict), Vec<_>> = BTreeMap::new();
    for cell in grid.cells() {
        let own: IpAddr = match cell.peers.family() {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        let flow = cell.flow(direction, own);
        let (was, becomes) = (verdict(old, direction, &flow, now), verdict(new, direction, &flow, now));
        if was != becomes {
            changed.entry((cell.peers, was, becomes)).or_default().push(cell.numbers);
        }
    }
    // Neighbouring peers with the same change are one line.
    let mut lines: BTreeMap<(String, Verdict, Verdict), Vec<IpRange>> = BTreeMap::new();
    for ((peers, was, becomes), numbers) in changed {
        let services: ServiceSet = numbers.into_iter().collect();
        lines.entry((told_services(&services), was, becomes)).or_default().push(peers);
    }
    let row = |((services, was, becomes), peers): ((String, Verdict, Verdict), Vec<IpRange>)| {
        let peers: lynceus_policy::AddressSet = peers.into_iter().collect();
        let told: Vec<String> = peers.ranges().iter().map(ToString::to_string).collect();
        let peers = if peers.is_everything() { "any".to_owned() } else { told.join(", ") };
        let (was, becomes) = (was.name(), becomes.name());
        ChangeRow { vm: vm.to_owned(), direction: direction.name(), peers, services, was, becomes }
    };
    Ok(lines.into_iter().map(row).collect())
}

fn told_services(services: &ServiceSet) -> String {
    // Of one family there is no lane of the other's ICMP.
    let told: Vec<String> = services.ranges().iter().map(ToString::to_string).collect();
    told.join(", ")
}

/// A flow that was seen, as the flow log writes it.
#[derive(Deserialize)]
struct Recorded {
    source: IpAddr,
    destination: IpAddr,
    service: String,
}

#[derive(Serialize)]
struct ReplayRow {
    vm: String,
    newly_dropped: usize,
    newly_allowed: usize,
    example: String,
}

impl Row for ReplayRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("VM"),
        Column::right("NEWLY DROPPED"),
        Column::right("NEWLY ALLOWED"),
        Column::left("SUCH AS"),
    ];
    fn cells(&self) -> Vec<String> {
        let (dropped, allowed) = (self.newly_dropped.to_string(), self.newly_allowed.to_string());
        vec![self.vm.clone(), dropped, allowed, self.example.clone()]
    }
}

/// Judges recorded flows by the old and the new rules.
fn replay(
    output: Output,
    path: &std::path::Path,
    state: &State,
    new: &BTreeMap<String, VmPolicy>,
    now: &Moment,
) -> Result<Outcome> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let old = state.policies();
    let (old_owners, new_owners) = (suite::owners(&old), suite::owners(new));
    let mut rows: BTreeMap<String, ReplayRow> = BTreeMap::new();
    let mut count = 0usize;
    for (number, line) in std::io::BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| path.display().to_string())?;
        let named = || format!("{}:{}", path.display(), number + 1);
        anyhow::ensure!(line.len() <= MAX_LINE_BYTES, "{}: the line is too long", named());
        if line.trim().is_empty() {
            continue;
        }
        let recorded: Recorded = serde_json::from_str(&line).with_context(named)?;
        let family = Family::of(recorded.source);
        let services = service::parse(&recorded.service).with_context(named)?;
        let Some(range) = services.iter().find(|range| range.lane.is_in(family)) else { continue };
        let flow = Flow {
            source: recorded.source,
            destination: recorded.destination,
            lane: range.lane,
            number: range.first,
        };
        count += 1;
        let was = suite::verdict(&suite::connection(&old_owners, &flow, now));
        let becomes = suite::verdict(&suite::connection(&new_owners, &flow, now));
        if (was == Verdict::Allow) == (becomes == Verdict::Allow) {
            continue;
        }
        let owner = new_owners.get(&flow.source).or(new_owners.get(&flow.destination));
        let vm = owner.map_or_else(|| "-".to_owned(), |policy| policy.vm.name.clone());
        let row = rows.entry(vm.clone()).or_insert_with(|| ReplayRow {
            vm,
            newly_dropped: 0,
            newly_allowed: 0,
            example: flow.to_string(),
        });
        if becomes == Verdict::Allow { row.newly_allowed += 1 } else { row.newly_dropped += 1 }
    }
    let rows: Vec<ReplayRow> = rows.into_values().collect();
    let dropped: usize = rows.iter().map(|row| row.newly_dropped).sum();
    if output.is_json() || !rows.is_empty() {
        output.rows(&rows)?;
    }
    super::summary(
        output,
        "flows",
        count,
        &format!("{count} recorded flows, {dropped} would newly be dropped"),
    )?;
    Ok(if dropped > 0 { Outcome::Findings } else { Outcome::Clean })
}
