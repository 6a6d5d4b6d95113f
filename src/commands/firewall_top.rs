//! `lynceus firewall top`: who sends how much, who is denied, and which rules decide, live.
//!
//! *Does*: reads the counters of the ports' devices and of the rules again and again, and shows what they grew by, by the second. *Trusts*: the
//! kernel's counters. *Never*: changes anything, or takes a counter that began anew for one that went back.

use super::screen::{Screen, table};
use crate::cli::FirewallTopArgs;
use crate::output::{Column, Outcome, Output, Row, escape};
use anyhow::{Result, bail};
use crossterm::event::{self, Event, KeyCode, KeyEventKind};
use lynceus_firewall::nft::{Nft, TABLE, vm};
use lynceus_firewall::state::{self, State};
use lynceus_policy::{Action, Direction, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

/// Rules that are shown of those that decide: the others are quieter.
const RULES: usize = 200;

/// Draws until q; once, after one interval, for who pipes it.
pub(super) fn run(output: Output, args: &FirewallTopArgs) -> Result<Outcome> {
    let every: Duration = args.every.into();
    let mut before = Sample::take(&args.state.state)?;
    if output.is_json() || !std::io::stdout().is_terminal() {
        std::thread::sleep(every);
        let (vms, rules) = Sample::take(&args.state.state)?.since(&before);
        output.rows(&vms)?;
        output.rows(&rules)?;
        return Ok(Outcome::Clean);
    }
    let screen = Screen::enter()?;
    let mut skipped = 0;
    let mut lines = vec!["…".to_owned()];
    loop {
        let until = Instant::now() + every;
        while Instant::now() < until {
            skipped = screen.draw(&lines, skipped, "↑↓ scroll   q end")?;
            let wait = until.saturating_duration_since(Instant::now());
            if event::poll(wait)?
                && let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(Outcome::Clean),
                    KeyCode::Up => skipped = skipped.saturating_sub(1),
                    KeyCode::Down => skipped += 1,
                    KeyCode::PageUp => skipped = skipped.saturating_sub(20),
                    KeyCode::PageDown => skipped += 20,
                    _ => {}
                }
            }
        }
        let now = Sample::take(&args.state.state)?;
        let (vms, rules) = now.since(&before);
        lines = table(&vms)?;
        lines.push(String::new());
        lines.extend(table(&rules)?);
        before = now;
    }
}

/// What a VM sent and was sent since it was counted, packets and bytes.
type Traffic = [u64; 4];

/// All counters at one time.
struct Sample {
    at: Instant,
    traffic: BTreeMap<String, Traffic>,
    rules: BTreeMap<String, Counted>,
}

/// A rule, and how often it decided.
#[derive(Clone)]
struct Counted {
    vm: String,
    rule: String,
    denies: bool,
    packets: u64,
}

/// By the second.
#[derive(Serialize)]
struct VmRow {
    vm: String,
    out_packets: f64,
    out_bytes: f64,
    in_packets: f64,
    in_bytes: f64,
    denied: f64,
}

impl Row for VmRow {
    const COLUMNS: &'static [Column] = &[
        Column::right("OUT/s"),
        Column::right("BYTES/s"),
        Column::right("IN/s"),
        Column::right("BYTES/s"),
        Column::right("DENIED/s"),
        Column::left("VM"),
    ];
    fn cells(&self) -> Vec<String> {
        let rates = [self.out_packets, self.out_bytes, self.in_packets, self.in_bytes, self.denied];
        rates.iter().map(|rate| format!("{rate:.0}")).chain([escape(&self.vm)]).collect()
    }
}

/// By the second, and since the rule is there.
#[derive(Serialize)]
struct RuleRow {
    vm: String,
    rule: String,
    denies: bool,
    hits: f64,
    total: u64,
}

impl Row for RuleRow {
    const COLUMNS: &'static [Column] = &[
        Column::right("HITS/s"),
        Column::right("TOTAL"),
        Column::left("DOES"),
        Column::left("VM"),
        Column::left("RULE"),
    ];
    fn cells(&self) -> Vec<String> {
        let does = if self.denies { "deny" } else { "-" };
        vec![
            format!("{:.1}", self.hits),
            self.total.to_string(),
            does.to_owned(),
            escape(&self.vm),
            escape(&self.rule),
        ]
    }
}

impl Sample {
    fn take(folder: &Path) -> Result<Sample> {
        let Some(state) = state::peek(folder)? else {
            bail!("nothing is enforced on this host: `lynceus policy apply` does that");
        };
        let counts = counts()?;
        let mut rules = rules(&state);
        rules.retain(|name, counted| match counts.get(name) {
            Some(packets) => {
                counted.packets = *packets;
                true
            }
            None => false,
        });
        Ok(Sample { at: Instant::now(), traffic: traffic(&state), rules })
    }

    /// What grew, the busiest first.
    fn since(&self, before: &Sample) -> (Vec<VmRow>, Vec<RuleRow>) {
        let seconds = self.at.saturating_duration_since(before.at).as_secs_f64().max(0.001);
        // A counter that is less than it was began anew: what it has now came since.
        let rate = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now) as f64 / seconds;
        let mut denied: BTreeMap<&str, f64> = BTreeMap::new();
        let mut rules = Vec::new();
        for (name, Counted { vm, rule, denies, packets }) in &self.rules {
            let hits = rate(*packets, before.rules.get(name).map_or(*packets, |then| then.packets));
            *denied.entry(vm).or_default() += if *denies { hits } else { 0.0 };
            if *packets > 0 {
                rules.push(RuleRow {
                    vm: vm.clone(),
                    rule: rule.clone(),
                    denies: *denies,
                    hits,
                    total: *packets,
                });
            }
        }
        rules.sort_by(|one, other| other.hits.total_cmp(&one.hits).then(other.total.cmp(&one.total)));
        rules.truncate(RULES);
        let row = |(vm, now): (&String, &Traffic)| {
            let then = before.traffic.get(vm).unwrap_or(now);
            let [out_packets, out_bytes, in_packets, in_bytes] =
                std::array::from_fn(|at| rate(now[at], then[at]));
            let denied = denied.get(vm.as_str()).copied().unwrap_or(0.0);
            VmRow { vm: vm.clone(), out_packets, out_bytes, in_packets, in_bytes, denied }
        };
        let mut vms: Vec<VmRow> = self.traffic.iter().map(row).collect();
        let busy = |row: &VmRow| row.out_bytes + row.in_bytes;
        vms.sort_by(|one, other| busy(other).total_cmp(&busy(one)).then(one.vm.cmp(&other.vm)));
        (vms, rules)
    }
}

/// What the devices of each VM's ports counted. What the host receives there, the VM sent.
fn traffic(state: &State) -> BTreeMap<String, Traffic> {
    let mut all: BTreeMap<String, Traffic> = BTreeMap::new();
    for (port, binding) in &state.ports {
        let folder = Path::new(super::firewall::DEVICES).join(port).join("statistics");
        let read = |name: &str| -> u64 {
            std::fs::read_to_string(folder.join(name))
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0)
        };
        let of_port = ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"].map(read);
        let sum = all.entry(binding.vm.clone()).or_default();
        sum.iter_mut().zip(of_port).for_each(|(sum, count)| *sum = sum.saturating_add(count));
    }
    all
}

/// The counters that rules of this state have, by their names.
fn rules(state: &State) -> BTreeMap<String, Counted> {
    let mut all = BTreeMap::new();
    for name in state.vms.keys() {
        let Some(policy) = state.policy(name) else { continue };
        for direction in Direction::ALL {
            let chain = policy.chain(direction);
            let counted = |rule: &str, denies| Counted {
                vm: name.clone(),
                rule: format!("{} {rule}", direction.name()),
                denies,
                packets: 0,
            };
            for rule in chain.rules() {
                let denies = !rule.audit && matches!(rule.action, Action::Deny | Action::Reject);
                all.insert(vm::counter(name, direction, &rule.id), counted(&rule.id, denies));
            }
            let denies = chain.default.effective() != Verdict::Allow;
            all.insert(vm::default_counter(name, direction), counted("default", denies));
        }
    }
    all
}

/// The packets of each of our counters, in all families together.
fn counts() -> Result<BTreeMap<String, u64>> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    let listing = Nft::default().ask(&["list", "counters"])?;
    for entry in listing["nftables"].as_array().into_iter().flatten() {
        let counter = &entry["counter"];
        if counter["table"] == TABLE
            && let (Some(name), Some(packets)) = (counter["name"].as_str(), counter["packets"].as_u64())
        {
            let sum = all.entry(name.to_owned()).or_default();
            *sum = sum.saturating_add(packets);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, packets: u64, traffic: Traffic) -> Sample {
        let counted = Counted { vm: "a".to_owned(), rule: "in r".to_owned(), denies: true, packets };
        Sample {
            at,
            traffic: BTreeMap::from([("a".to_owned(), traffic)]),
            rules: BTreeMap::from([("c".to_owned(), counted)]),
        }
    }

    #[test]
    fn rates_are_what_counters_grew_by_and_a_counter_that_began_anew_is_no_flood() {
        let now = Instant::now();
        let old = sample(now, 100, [10, 1000, 5, 500]);
        let new = sample(now + Duration::from_secs(2), 140, [30, 5000, 4, 400]);
        let (vms, rules) = new.since(&old);
        assert_eq!((vms[0].out_packets, vms[0].out_bytes, vms[0].in_packets), (10.0, 2000.0, 2.0));
        assert_eq!((vms[0].denied, rules[0].hits, rules[0].total), (20.0, 20.0, 140));
        let first = Sample { traffic: BTreeMap::new(), rules: BTreeMap::new(), at: now };
        let (vms, rules) = new.since(&first);
        assert_eq!((vms[0].out_bytes, rules[0].hits), (0.0, 0.0));
    }
}
