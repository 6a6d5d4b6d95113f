//! Every policy's rules, its templates filled and what it extends put behind, once for all VMs that it selects.

use super::{Resolver, names};
use crate::error::ErrorKind;
use crate::lint::Level;
use crate::load::Entry;
use crate::model::{ChainDefault, Rule};
use crate::net::AddressSet;
use crate::place::{At, FileId};
use crate::service::ServiceSet;
use crate::syntax::{
    DefaultEntry, Direction, Mode, Parameter, PeerEntry, PolicyEntry, RuleEntry, Tier, UseEntry, Verdict,
};
use crate::when::{Schedule, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A policy may have so many rules, those that it extends included.
const MAX_RULES: usize = 100_000;
/// RFC 1035: the longest DNS name.
const MAX_NAME_BYTES: usize = 253;

/// One policy's rules for every VM that it selects.
#[derive(Clone, Default, Debug)]
pub(super) struct Drafts {
    pub(super) tier: Tier,
    pub(super) order: i32,
    pub(super) rules: Vec<(Direction, Arc<Rule>)>,
    pub(super) defaults: Vec<(Direction, ChainDefault)>,
    /// The policy and those that it extends.
    pub(super) names: Vec<String>,
}

/// A rule before it belongs to a policy of some tier and mode.
#[derive(Clone)]
struct Draft {
    direction: Direction,
    rule: Rule,
}

/// What a policy has of its own and from those that it extends.
#[derive(Clone, Default)]
struct Full {
    drafts: Vec<(String, Draft)>,
    mode: Option<Mode>,
    default: DefaultEntry,
    names: Vec<String>,
}

/// Every policy's rules.
pub(super) fn all(resolver: &mut Resolver<'_>) -> BTreeMap<String, Drafts> {
    let folder = resolver.folder;
    let includes = names::includes(&folder.policies, |policy| {
        policy.extends.iter().map(|at| at.get().as_str()).collect()
    });
    let order = names::in_order(resolver, "policy", &folder.policies, &includes);
    let mut full: BTreeMap<&str, Full> = BTreeMap::new();
    for name in order {
        let Some(entry) = folder.policies.get(name) else { continue };
        let own = extended(resolver, name, entry, &full);
        full.insert(name, own);
    }
    let finished = full.iter().filter_map(|(name, full)| {
        folder.policies.get(*name).map(|entry| ((*name).to_owned(), finish(name, entry.get(), full)))
    });
    finished.collect()
}

/// A policy's own rules, and behind them those of the policies that it extends.
fn extended(
    resolver: &mut Resolver<'_>,
    name: &str,
    entry: &Entry<PolicyEntry>,
    full: &BTreeMap<&str, Full>,
) -> Full {
    let policy = entry.get();
    let own = own_rules(resolver, name, entry);
    let mut all =
        Full { mode: policy.mode, default: policy.default, names: vec![name.to_owned()], drafts: own };
    let mut there: BTreeSet<String> = all.drafts.iter().map(|(id, _)| id.clone()).collect();
    for base in &policy.extends {
        let Some(base_full) = full.get(base.get().as_str()) else {
            if !resolver.folder.policies.contains_key(base.get()) {
                let folder = resolver.folder;
                resolver.unknown(entry.file, base, "policy", folder.policies.keys().map(String::as_str));
            }
            continue;
        };
        all.mode = all.mode.or(base_full.mode);
        all.default.r#in = all.default.r#in.or(base_full.default.r#in);
        all.default.out = all.default.out.or(base_full.default.out);
        all.default.log = all.default.log.or(base_full.default.log);
        all.names.extend(base_full.names.iter().cloned());
        let new = base_full.drafts.iter().filter(|(id, _)| there.insert(id.clone()));
        all.drafts.extend(new.cloned());
        if all.drafts.len() > MAX_RULES {
            resolver.wrong(
                entry.file,
                base,
                ErrorKind::TooMany { what: "rules in a policy", limit: MAX_RULES },
            );
            all.drafts.truncate(MAX_RULES);
        }
    }
    all
}

/// Gives the rules the policy's tier and mode. Rules that were inherited are told as `policy/base/rule`.
fn finish(name: &str, policy: &PolicyEntry, full: &Full) -> Drafts {
    let mode = full.mode.unwrap_or_default();
    let is_own = |id: &str| id.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
    let rule = |(id, draft): &(String, Draft)| {
        let id = if is_own(id) { id.clone() } else { format!("{name}/{id}") };
        let rule = Rule { id, tier: policy.tier, audit: mode == Mode::Audit, ..draft.rule.clone() };
        (draft.direction, Arc::new(rule))
    };
    let default = |direction, verdict: Option<Verdict>| {
        let log = full.default.log.unwrap_or(true);
        verdict.map(|verdict| {
            let audit = mode == Mode::Audit;
            (
                direction,
                ChainDefault { verdict, audit, log, policy: Some(name.to_owned()), tier: Some(policy.tier) },
            )
        })
    };
    let defaults = [default(Direction::In, full.default.r#in), default(Direction::Out, full.default.out)];
    let is_on = mode != Mode::Off;
    Drafts {
        tier: policy.tier,
        order: policy.order.unwrap_or(100),
        rules: full.drafts.iter().filter(|_| is_on).map(rule).collect(),
        defaults: defaults.into_iter().flatten().filter(|_| is_on).collect(),
        names: full.names.clone(),
    }
}

/// The rules that stand in the policy itself or come from its templates, each with its id.
fn own_rules(resolver: &mut Resolver<'_>, name: &str, entry: &Entry<PolicyEntry>) -> Vec<(String, Draft)> {
    let policy = entry.get();
    let expires = policy.expires.as_ref().and_then(|at| timestamp(resolver, entry.file, at));
    let mut rules = Vec::new();
    for (number, rule) in policy.rule.iter().enumerate() {
        let made = draft(resolver, entry.file, rule, None, expires);
        let label = rule.get().name.as_ref().map_or_else(|| (number + 1).to_string(), |at| at.get().clone());
        rules.push((label, entry.file, rule.with(()), made));
    }
    for (number, used) in policy.r#use.iter().enumerate() {
        rules.extend(from_template(resolver, entry.file, used, number, expires));
    }
    let mut places = BTreeMap::new();
    let mut drafts = Vec::new();
    for (label, file, at, made) in rules {
        if !label.split('/').all(crate::load::is_name) {
            let why = "it must be letters, digits, `_`, `-` or `.`".to_owned();
            resolver.wrong(file, &at, ErrorKind::Value { value: label.clone(), expected: "rule name", why });
        }
        let place = resolver.folder.place(file, at.span());
        if let Some(first) = places.insert(label.clone(), place) {
            resolver.wrong(file, &at, ErrorKind::Duplicate { kind: "rule", name: label.clone(), first });
        }
        drafts.extend(made.map(|draft| (format!("{name}/{label}"), draft)));
    }
    drafts
}

type Labelled = (String, FileId, At<()>, Option<Draft>);

fn from_template(
    resolver: &mut Resolver<'_>,
    file: FileId,
    used: &At<UseEntry>,
    number: usize,
    expires: Option<Timestamp>,
) -> Vec<Labelled> {
    let name = &used.get().template;
    resolver.used.insert(("template", name.get().clone()));
    let folder = resolver.folder;
    let Some(template) = folder.templates.get(name.get()) else {
        resolver.unknown(file, name, "template", folder.templates.keys().map(String::as_str));
        return Vec::new();
    };
    let given = &used.get().with;
    let wanted: BTreeSet<&str> = template.get().parameters.iter().map(|at| at.get().as_str()).collect();
    let missing = wanted
        .iter()
        .filter(|name| !given.contains_key(**name))
        .map(|name| format!("parameter `{name}` is missing"));
    let strange = given.keys().filter(|name| !wanted.contains(name.as_str())).map(|name| {
        format!("it has no parameter `{name}`{}", crate::suggest::hint(name, wanted.iter().copied()))
    });
    let wrong: Vec<String> = missing.chain(strange).collect();
    for why in &wrong {
        let template = name.get().clone();
        resolver.wrong(file, used, ErrorKind::Template { template, why: why.clone() });
    }
    if !wrong.is_empty() {
        return Vec::new();
    }
    let rules = template.get().rule.iter().enumerate();
    rules
        .map(|(index, rule)| {
            let label =
                rule.get().name.as_ref().map_or_else(|| (index + 1).to_string(), |at| at.get().clone());
            let made = draft(resolver, template.file, rule, Some(given), expires);
            // What is wrong with a label is told where the template is used: another use may have the same.
            (format!("{}.{}/{label}", name.get(), number + 1), file, used.with(()), made)
        })
        .collect()
}

fn timestamp(resolver: &mut Resolver<'_>, file: FileId, at: &At<toml::value::Datetime>) -> Option<Timestamp> {
    let parsed = Timestamp::of(at.get());
    resolver.understood(file, &at.with(at.get().to_string()), "time", parsed)
}

type With<'a> = Option<&'a BTreeMap<String, Parameter>>;

/// One rule, understood.
fn draft(
    resolver: &mut Resolver<'_>,
    file: FileId,
    at: &At<RuleEntry>,
    with: With<'_>,
    policy_expires: Option<Timestamp>,
) -> Option<Draft> {
    let entry = at.get();
    let before = resolver.errors.errors.len() + resolver.errors.more;
    let (peers, names) = match &entry.peer {
        Some(peer) => peers(resolver, file, peer, with),
        None => (AddressSet::everything(), Vec::new()),
    };
    let private = entry.peer.as_ref().is_some_and(|peer| peer.get().private);
    if private && names.is_empty() {
        let why = "`private` is about `names`, and there are none".to_owned();
        resolver.wrong(file, at, ErrorKind::Conflict(why));
    }
    let services = match &entry.services {
        Some(list) => {
            let filled = fill(resolver, file, list, with);
            if filled.is_empty() {
                let why = "`services` is empty; leave it out for any service".to_owned();
                resolver.wrong(file, at, ErrorKind::Conflict(why));
            }
            resolver.service_list(file, &filled)
        }
        None => ServiceSet::everything(),
    };
    let own_expires = entry.expires.as_ref().and_then(|at| timestamp(resolver, file, at));
    let hours = fill(resolver, file, &entry.hours, with);
    let hours: Vec<_> = hours.iter().filter_map(|text| resolver.parse(file, text, "hours")).collect();
    let rate = entry.rate.iter().cloned().collect::<Vec<_>>();
    let rate = fill(resolver, file, &rate, with).first().and_then(|text| resolver.parse(file, text, "rate"));
    let rule = Rule {
        id: String::new(),
        place: resolver.folder.place(file, at.span()),
        tier: Tier::default(),
        action: entry.action,
        audit: false,
        peers,
        names,
        private,
        services,
        schedule: Schedule { expires: own_expires.into_iter().chain(policy_expires).min(), hours },
        rate,
        log: entry.log,
        process: entry.process.as_ref().map(|at| Box::new(at.get().clone())),
        owner: entry.owner.as_deref().map(Into::into),
        comment: entry.comment.as_deref().map(Into::into),
    };
    matches_nobody(resolver, &rule);
    let is_right = resolver.errors.errors.len() + resolver.errors.more == before;
    is_right.then_some(Draft { direction: entry.direction, rule })
}

fn matches_nobody(resolver: &mut Resolver<'_>, rule: &Rule) {
    if rule.peers.is_empty() && rule.names.is_empty() {
        let message = "the rule's peer is nobody: no address is left".to_owned();
        resolver.lint("empty-peer", Level::Warning, rule.place.clone(), message);
    }
}

/// The addresses and names of a rule's other end.
fn peers(
    resolver: &mut Resolver<'_>,
    file: FileId,
    at: &At<PeerEntry>,
    with: With<'_>,
) -> (AddressSet, Vec<String>) {
    let peer = at.get();
    let [groups, vms, addresses, dns, except] =
        [&peer.groups, &peer.vms, &peer.addresses, &peer.names, &peer.except]
            .map(|list| fill(resolver, file, list, with));
    let mut members = names::of_groups(resolver, file, &groups);
    members.extend(names::known_vms(resolver, file, &vms));
    let of_vms: AddressSet = members
        .iter()
        .filter_map(|name| resolver.vms.get(name))
        .flat_map(|vm| vm.addresses().map(crate::net::IpRange::one).collect::<Vec<_>>())
        .collect();
    let set = of_vms.union(&resolver.address_list(file, &addresses));
    let without = resolver.address_list(file, &except);
    let dns: Vec<String> = dns.iter().filter_map(|name| dns_name(resolver, file, name)).collect();
    let is_bare = groups.is_empty() && vms.is_empty() && addresses.is_empty() && dns.is_empty();
    if is_bare && except.is_empty() {
        let why = "`peer` names nobody; leave it out for anybody".to_owned();
        resolver.wrong(file, at, ErrorKind::Conflict(why));
    }
    if !dns.is_empty() && !except.is_empty() {
        let why =
            "`except` takes addresses away, and those of `names` are not known yet; use two rules".to_owned();
        resolver.wrong(file, at, ErrorKind::Conflict(why));
    }
    let set = if is_bare { AddressSet::everything() } else { set };
    (set.minus(&without), dns)
}

fn dns_name(resolver: &mut Resolver<'_>, file: FileId, text: &At<String>) -> Option<String> {
    let name = text.get().trim_end_matches('.').to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = name.len() <= MAX_NAME_BYTES
        && name.split('.').all(is_label)
        && name.parse::<std::net::IpAddr>().is_err();
    let parsed = if is_name { Ok(name) } else { Err("it must be a full name, without `*`") };
    resolver.understood(file, text, "DNS name", parsed)
}

/// A list with the template's parameters in it. A list parameter that is a whole text takes as many places as it has members.
fn fill(resolver: &mut Resolver<'_>, file: FileId, list: &[At<String>], with: With<'_>) -> Vec<At<String>> {
    let Some(with) = with else { return list.to_vec() };
    let mut filled = Vec::new();
    for text in list {
        match filled_text(text.get(), with) {
            Ok(texts) => filled.extend(texts.into_iter().map(|new| text.with(new))),
            Err(why) => {
                let value = text.get().clone();
                resolver.wrong(file, text, ErrorKind::Value { value, expected: "text with parameters", why });
            }
        }
    }
    filled
}

fn filled_text(text: &str, with: &BTreeMap<String, Parameter>) -> Result<Vec<String>, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, behind) = after.split_once('}').ok_or("`${` without `}`")?;
        filled.push_str(before);
        let hint = || crate::suggest::hint(name, with.keys().map(String::as_str));
        match with.get(name) {
            None => return Err(format!("there is no parameter `{name}`{}", hint())),
            Some(Parameter::Text(value)) => filled.push_str(value),
            Some(Parameter::Number(value)) => filled.push_str(&value.to_string()),
            Some(Parameter::List(values)) if before.is_empty() && behind.is_empty() && filled.is_empty() => {
                return Ok(values.clone());
            }
            Some(Parameter::List(_)) => return Err(format!("`{name}` is a list and must stand alone")),
        }
        rest = behind;
    }
    filled.push_str(rest);
    Ok(vec![filled])
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn parameters_fill_texts_and_lists() {
        let with = BTreeMap::from([
            ("port".to_owned(), Parameter::Number(443)),
            ("who".to_owned(), Parameter::List(vec!["a".to_owned(), "b".to_owned()])),
        ]);
        assert_eq!(filled_text("tcp/${port}", &with).unwrap(), ["tcp/443"]);
        assert_eq!(filled_text("${who}", &with).unwrap(), ["a", "b"]);
        assert_eq!(filled_text("plain", &with).unwrap(), ["plain"]);
        assert!(filled_text("x${who}", &with).unwrap_err().contains("stand alone"));
        assert!(filled_text("${prot}", &with).unwrap_err().contains("did you mean `port`"));
        assert!(filled_text("${port", &with).is_err());
    }
}
