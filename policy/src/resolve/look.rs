//! The looking half of a policy: what is searched in the VMs' memory, how often, and what is done about it.

use super::Resolver;
use super::rules::Drafts;
use crate::model::Look;
use crate::syntax::Tier;
use std::collections::BTreeMap;

/// Every policy's own part.
pub(super) fn all(resolver: &mut Resolver<'_>) -> BTreeMap<String, Look> {
    let mut looks = BTreeMap::new();
    for (name, entry) in &resolver.folder.policies {
        let from = &entry.get().look;
        let every_s = from.every.as_ref().and_then(|text| {
            let parsed = humantime::parse_duration(text.get()).map(|every| every.as_secs());
            let parsed = parsed.map_err(|error| error.to_string());
            let parsed =
                parsed.and_then(|s| if s > 0 { Ok(s) } else { Err("it is less than a second".to_owned()) });
            resolver.understood(entry.file, text, "length of time", parsed)
        });
        let look = Look {
            every_s,
            scopes: from.scopes.iter().flatten().copied().collect(),
            detectors: from.detectors.clone(),
            allow: from.allow.clone(),
            respond: from.respond.clone(),
        };
        looks.insert(name.clone(), look);
    }
    looks
}

/// What holds for a VM: of two policies that say different things the more specific tier's, then the first; what is allowed adds up.
pub(super) fn merged(
    names: &[&str],
    looks: &BTreeMap<String, Look>,
    drafts: &BTreeMap<String, Drafts>,
) -> Look {
    let mut merged = Look::default();
    for tier in Tier::ALL.into_iter().rev() {
        let of_tier = names.iter().filter_map(|name| drafts.get(*name)).filter(|drafts| drafts.tier == tier);
        for look in of_tier.flat_map(|drafts| &drafts.names).filter_map(|name| looks.get(name)) {
            merged.every_s = merged.every_s.or(look.every_s);
            if merged.scopes.is_empty() {
                merged.scopes.clone_from(&look.scopes);
            }
            for (name, detector) in &look.detectors {
                merged.detectors.entry(name.clone()).or_insert(*detector);
            }
            for (severity, response) in &look.respond {
                merged.respond.entry(*severity).or_insert(*response);
            }
            merged.allow.executables.extend(look.allow.executables.iter().cloned());
            merged.allow.modules.extend(look.allow.modules.iter().cloned());
            merged.allow.listening.extend(look.allow.listening.iter().cloned());
        }
    }
    let allow = &mut merged.allow;
    for list in [&mut allow.executables, &mut allow.modules, &mut allow.listening] {
        list.sort();
        list.dedup();
    }
    merged
}
