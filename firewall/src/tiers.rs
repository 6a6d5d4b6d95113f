//! Which tiers differ between two sets of policies, so that who signed a change can be held to what they may change.

use crate::state::Vm;
use lynceus_policy::{Chain, Direction, Rule, Tier};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The tiers in which something is different. What belongs to no tier belongs to the platform's: the inventory, which VMs there are,
/// isolation, what is looked for.
pub fn changed(old: &BTreeMap<String, Vm>, new: &BTreeMap<String, Vm>) -> BTreeSet<Tier> {
    let mut changed = BTreeSet::new();
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (Some(before), Some(after)) = (old.get(name), new.get(name)) else {
            changed.insert(Tier::Platform);
            continue;
        };
        let is_same_isolation = Direction::ALL
            .iter()
            .all(|of| chain_changes(before.isolation.chain(*of), after.isolation.chain(*of)).is_empty());
        if before.policy.vm != after.policy.vm
            || before.policy.look != after.policy.look
            || !is_same_isolation
        {
            changed.insert(Tier::Platform);
        }
        for direction in Direction::ALL {
            changed.extend(chain_changes(before.policy.chain(direction), after.policy.chain(direction)));
        }
    }
    changed
}

fn chain_changes(old: &Chain, new: &Chain) -> BTreeSet<Tier> {
    let mut changed = BTreeSet::new();
    for tier in Tier::ALL {
        let rules = |chain: &Chain| -> Vec<Rule> {
            let of_tier = chain.tiers.iter().filter(|rules| rules.tier == tier);
            of_tier.flat_map(|rules| rules.rules.iter().map(|rule| meaning(rule))).collect()
        };
        if rules(old) != rules(new) {
            changed.insert(tier);
        }
    }
    if old.default != new.default {
        // The default is that of the most specific tier which has one: to set it and to take it away are both a change of that tier.
        for default in [&old.default, &new.default] {
            changed.insert(default.tier.unwrap_or(Tier::Platform));
        }
    }
    changed
}

/// A rule without where it stands and what is said about it.
fn meaning(rule: &Rule) -> Rule {
    let mut rule = rule.clone();
    rule.place = lynceus_policy::Place { file: Arc::default(), line: 0, column: 0 };
    (rule.owner, rule.comment) = (None, None);
    rule
}
