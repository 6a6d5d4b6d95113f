//! Rules that do nothing, contradict each other or lock the admin out; and what is written but not done.

use crate::cells::Grid;
use crate::evaluate::{Moment, judge};
use lynceus_policy::{Action, Chain, Direction, Lane, Level, Lint, Policy, Rule, Verdict, VmPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A VM with more work than this (cells times rules) is not looked at for rules without effect, and that is told.
const MAX_WORK: usize = 50_000_000;

/// All that is worth a look, that of the files themselves included.
pub fn all(policy: &Policy, moment: &Moment) -> Vec<Lint> {
    let mut lints: BTreeSet<(lynceus_policy::Place, &'static str, String, Level)> = BTreeSet::new();
    let mut add = |lint: Lint| {
        lints.insert((lint.place, lint.code, lint.message, lint.level));
    };
    policy.lints.iter().cloned().for_each(&mut add);
    let mut rules: BTreeMap<&str, &Arc<Rule>> = BTreeMap::new();
    for vm in policy.vms.values() {
        rules.extend(vm.rules().map(|rule| (rule.id.as_str(), rule)));
        management(policy, vm, moment).into_iter().for_each(&mut add);
    }
    rules.values().flat_map(|rule| alone(rule, moment)).for_each(&mut add);
    without_effect(policy, moment).into_iter().for_each(&mut add);
    let lint = |(place, code, message, level)| Lint { code, level, place, message };
    lints.into_iter().map(lint).collect()
}

/// What can be seen of a rule by itself.
fn alone(rule: &Rule, moment: &Moment) -> Vec<Lint> {
    let lint = |code, level, message| Lint { code, level, place: rule.place.clone(), message };
    let mut lints = Vec::new();
    if rule.schedule.next_window(moment.at).is_none() {
        lints.push(lint("expired", Level::Warning, format!("rule `{}` has expired", rule.id)));
    }
    lints.extend(about_process(rule).into_iter().map(|(code, level, message)| lint(code, level, message)));
    if !rule.names.is_empty() && matches!(rule.action, Action::Deny | Action::Reject) {
        let message =
            format!("rule `{}`: it denies no address but those that this host finds for the names", rule.id);
        lints.push(lint("denied-by-name", Level::Warning, message));
    }
    lints
}

/// What a rule about a process cannot do.
fn about_process(rule: &Rule) -> Vec<(&'static str, Level, String)> {
    let mut lints = Vec::new();
    if rule.process.is_none() {
        return lints;
    }
    if rule.rate.is_some() {
        let message = format!("rule `{}`: a rule about a process cannot have a rate", rule.id);
        lints.push(("process-with-rate", Level::Error, message));
    }
    let has_sockets = |lane| rule.services.ranges().iter().any(|range| range.lane == lane);
    if !rule.services.is_everything() && !has_sockets(Lane::Tcp) && !has_sockets(Lane::Udp) {
        let message = format!("rule `{}`: of TCP and UDP alone it can be known which process it is", rule.id);
        lints.push(("process-not-known", Level::Warning, message));
    }
    lints
}

/// Whether what the site's management needs is allowed.
fn management(policy: &Policy, vm: &VmPolicy, moment: &Moment) -> Option<Lint> {
    let management = policy.management.as_ref()?;
    for own in vm.vm.addresses() {
        let family = lynceus_policy::Family::of(own);
        for peers in management.peers.of(family) {
            for numbers in management.services.ranges().iter().filter(|range| range.lane.is_in(family)) {
                let cell = crate::cells::Cell { peers: *peers, numbers: *numbers };
                let flow = cell.flow(Direction::In, own);
                let decision = judge(vm, Direction::In, &flow, moment);
                if decision.verdict != Verdict::Allow {
                    let message = format!("VM `{}` cannot be managed: {flow} is denied", vm.vm.name);
                    let place = management.place.clone();
                    return Some(Lint { code: "no-management", level: Level::Warning, place, message });
                }
            }
        }
    }
    None
}

/// What became of a rule in the VMs that have it.
#[derive(Default)]
struct Fate {
    reached: bool,
    /// The rules that take its packets, and whether they do the same.
    taken_by: BTreeMap<String, (Arc<Rule>, bool)>,
}

/// Rules that no packet of any VM reaches.
fn without_effect(policy: &Policy, moment: &Moment) -> Vec<Lint> {
    let mut fates: BTreeMap<String, (Arc<Rule>, Fate)> = BTreeMap::new();
    let mut lints = Vec::new();
    // VMs with the same rules need one look.
    let mut seen = BTreeSet::new();
    for vm in policy.vms.values() {
        for direction in Direction::ALL {
            let chain = vm.chain(direction);
            let key: Vec<&str> = chain.rules().map(|rule| rule.id.as_str()).collect();
            if key.is_empty() || !seen.insert((direction, key)) {
                continue;
            }
            let grid = Grid::of(chain.rules().map(AsRef::as_ref), &moment.names);
            if grid.len().saturating_mul(chain.rules().count()) > MAX_WORK {
                let message =
                    format!("VM `{}` has too many rules to look for those without effect", vm.vm.name);
                let place = chain.rules().next().map(|rule| rule.place.clone());
                lints.extend(place.map(|place| Lint {
                    code: "not-looked-at",
                    level: Level::Warning,
                    place,
                    message,
                }));
                continue;
            }
            follow(chain, &grid, &mut fates);
        }
    }
    lints.extend(
        fates.into_values().filter(|(_, fate)| !fate.reached).filter_map(|(rule, fate)| told(&rule, &fate)),
    );
    lints
}

/// Follows every cell through the rules.
fn follow(chain: &Chain, grid: &Grid, fates: &mut BTreeMap<String, (Arc<Rule>, Fate)>) {
    let mut tiers: Vec<Vec<(&Arc<Rule>, Fate)>> = Vec::new();
    for tier in &chain.tiers {
        tiers.push(tier.rules.iter().map(|rule| (rule, Fate::default())).collect());
    }
    for cell in grid.cells() {
        // What has taken the packet for certain: in this tier, or for good.
        let mut taken: Option<Arc<Rule>> = None;
        for tier in &mut tiers {
            let mut passed: Option<Arc<Rule>> = None;
            for (rule, fate) in tier.iter_mut() {
                let matches = rule.peers.contains(cell.peers.first())
                    && rule.services.contains(cell.numbers.lane, cell.numbers.first);
                if !matches {
                    // Names may stand for anybody.
                    fate.reached |= !rule.names.is_empty();
                    continue;
                }
                match taken.as_ref().or(passed.as_ref()) {
                    None => fate.reached = true,
                    Some(by) => {
                        let is_same = by.action == rule.action;
                        fate.taken_by.entry(by.id.clone()).or_insert_with(|| (by.clone(), is_same));
                    }
                }
                if taken.is_none() && passed.is_none() && is_certain(rule) {
                    let place = if rule.action == Action::Pass { &mut passed } else { &mut taken };
                    *place = Some((*rule).clone());
                }
            }
        }
    }
    for (rule, fate) in tiers.into_iter().flatten() {
        let (_, all) = fates.entry(rule.id.clone()).or_insert_with(|| (rule.clone(), Fate::default()));
        all.reached |= fate.reached;
        all.taken_by.extend(fate.taken_by);
    }
}

/// Whether a rule takes everything that it matches, at any time.
fn is_certain(rule: &Rule) -> bool {
    let is_closing = matches!(rule.action, Action::Deny | Action::Reject);
    let is_told_only = rule.audit && is_closing;
    let for_any_process = rule.process.is_none();
    rule.schedule.is_always() && rule.rate.is_none() && for_any_process && !is_told_only
}

fn told(rule: &Rule, fate: &Fate) -> Option<Lint> {
    const SHOWN: usize = 3;
    if fate.taken_by.is_empty() {
        // It matches nobody, which is told already.
        return None;
    }
    let by: Vec<String> =
        fate.taken_by.values().take(SHOWN).map(|(by, _)| format!("`{}` ({})", by.id, by.place)).collect();
    let more = fate.taken_by.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let is_same = fate.taken_by.values().all(|(_, is_same)| *is_same);
    let (code, level, what) = if is_same {
        ("redundant", Level::Note, "does the same for")
    } else {
        ("shadowed", Level::Warning, "decides otherwise on")
    };
    let message =
        format!("rule `{}` is never reached: {}{more} {what} all that it matches", rule.id, by.join(", "));
    Some(Lint { code, level, place: rule.place.clone(), message })
}
