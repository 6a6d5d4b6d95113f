//! One VM's chains, sets and counters, in a table of one family.
//!
//! `return` lets a packet pass: the base chain goes on with the other end's rules. Tiers are chains that go to the next one.

pub use super::labels::{counter, default_counter};
use super::labels::{digest, entry, limit, short};
use super::model::{
    Counter, CounterRef, Element, Expr, Jump, Limit, LimitRef, Log, Lookup, NamedLimit, Object, Rule, Set,
    Statement, Target, Types,
};
use super::probes::{Probe, probes};
use super::table::Path;
use super::{LOG_GROUP, TABLE, ask};
use crate::ir::{Act, Group, Kind, Member, Program, VmRules};
use lynceus_policy::{Direction, Rate, Timestamp, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// What a VM has in the kernel.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct VmObjects {
    /// Counters, by name.
    pub counters: BTreeSet<String>,
    /// Chains, in an order in which a jump's target comes first, with their rules.
    pub chains: Vec<(String, Vec<Vec<Statement>>)>,
    /// Sets and maps. Each is named after what is in it: what is in use never changes.
    pub sets: Vec<Set>,
    /// The limits of rules with a rate, by a name that says how much it is.
    pub limits: BTreeMap<String, Limit>,
}

/// Everything of one VM; `holds` says whether the kernel can hold a packet until somebody knows whose it is.
pub fn objects(rules: &VmRules, path: Path, holds: bool) -> VmObjects {
    let mut writer = Writer { vm: &rules.vm, path, holds, made: VmObjects::default() };
    rules.programs.iter().for_each(|program| writer.program(program));
    writer.made
}

impl VmObjects {
    /// The rules of one of its chains.
    pub(super) fn rules_of(&self, name: &str) -> Option<&Vec<Vec<Statement>>> {
        self.chains.iter().find(|(chain, _)| chain == name).map(|(_, rules)| rules)
    }

    /// Whether one of its sets and maps has this name.
    pub(super) fn has_set(&self, name: &str) -> bool {
        self.sets.iter().any(|set| set.name == name)
    }

    /// The counters as objects.
    pub fn counter_objects(&self, path: Path) -> impl Iterator<Item = (&str, Object)> {
        self.counters.iter().map(move |name| {
            let counter =
                Counter { family: path.family().to_owned(), table: TABLE.to_owned(), name: name.clone() };
            (name.as_str(), Object::Counter(counter))
        })
    }

    /// Some limits as objects, by their names.
    pub(super) fn limit_objects(
        &self,
        path: Path,
        is_meant: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = Object> {
        self.limits.iter().filter(move |(name, _)| is_meant(name)).map(move |(name, limit)| {
            Object::Limit(NamedLimit {
                family: path.family().to_owned(),
                table: TABLE.to_owned(),
                name: name.clone(),
                limit: limit.clone(),
            })
        })
    }

    /// The rules of a chain as objects.
    pub(super) fn rule_objects(
        path: Path,
        chain: &str,
        rules: &[Vec<Statement>],
    ) -> impl Iterator<Item = Object> {
        rules.iter().map(move |expr| {
            Object::Rule(Rule {
                family: path.family().to_owned(),
                table: TABLE.to_owned(),
                chain: chain.to_owned(),
                expr: expr.clone(),
            })
        })
    }
}

/// Where a tier's rules stand, and where those of the next begin.
struct Place {
    direction: Direction,
    chain: String,
    next: String,
}

impl Place {
    /// The name of a rule's own chain. A rule of one name may be there twice and do different things.
    fn chain_of(&self, act: Act, member: &Member) -> String {
        short(&format!("{}/{}.{}", self.chain, member.rule, name_of(act)))
    }

    /// The way to it. From one that only tells a packet comes back.
    fn jump(&self, act: Act, member: &Member) -> Jump {
        let target = Target { target: self.chain_of(act, member) };
        if act == Act::Tell { Jump::Jump(target) } else { Jump::Goto(target) }
    }
}

/// What is written of a tier: its rules, and chains that they lead to.
#[derive(Default)]
struct Written {
    rules: Vec<Vec<Statement>>,
    of_members: BTreeMap<String, Vec<Vec<Statement>>>,
}

struct Writer<'a> {
    vm: &'a str,
    path: Path,
    holds: bool,
    made: VmObjects,
}

impl Writer<'_> {
    /// Tier after tier, and the default behind; each a chain of its own.
    fn program(&mut self, program: &Program) {
        let entry = entry(self.vm, program.direction);
        let name = |index: usize| if index == 0 { entry.clone() } else { format!("{entry}-{index}") };
        let mut chains = Vec::new();
        for (index, tier) in program.tiers.iter().enumerate() {
            let place = Place { direction: program.direction, chain: name(index), next: name(index + 1) };
            let mut written = Written::default();
            let mut named = BTreeSet::new();
            for (number, group) in tier.groups.iter().enumerate() {
                // By its first rule, so that a rule before it changes nothing here; by its number where that rule is there twice.
                let first = group.members.first().map_or("", |member| member.rule.as_str());
                let set = match named.insert((first, group.kind)) {
                    false => format!("{}.{number}.{first}", place.chain),
                    true => format!("{}/{first}", place.chain),
                };
                self.group(&place, group, &set, &mut written);
            }
            written.rules.push(vec![Statement::goto(&place.next)]);
            chains.push((place.chain, written.rules));
            chains.extend(written.of_members);
        }
        chains.push((name(program.tiers.len()), self.default(program)));
        if program.tiers.iter().flat_map(|tier| &tier.groups).any(|group| group.act == Act::Ask) {
            chains.push((ask::chain(&entry), ask::rules(self.vm, program.direction, self.holds)));
        }
        chains.reverse();
        self.made.chains.extend(chains);
    }

    fn default(&mut self, program: &Program) -> Vec<Vec<Statement>> {
        let counter = default_counter(self.vm, program.direction);
        self.made.counters.insert(counter.clone());
        let mut rules = Vec::new();
        if program.log_default {
            let act = if program.default_would_deny { Act::Tell } else { program.default };
            rules.push(vec![log_limit(), self.log(act, program.direction, "default")]);
        }
        let mut last = vec![Statement::count(&counter)];
        // It does not pass anything on.
        let place = Place { direction: program.direction, chain: String::new(), next: String::new() };
        last.extend(self.verdict(program.default, &place));
        rules.push(last);
        rules
    }

    fn group(&mut self, place: &Place, group: &Group, set: &str, written: &mut Written) {
        let direction = place.direction;
        for member in &group.members {
            let name = counter(self.vm, direction, &member.rule);
            if let Some(rate) = group.rate {
                let rate = rate_limit(rate);
                self.made.limits.insert(limit(&name, &rate), rate);
            }
            self.made.counters.insert(name);
        }
        let mut steps = conditions(group);
        let Some(kind) = group.kind else {
            let Some(member) = group.members.first() else { return };
            return written.rules.extend(self.single(place, group, member, steps));
        };
        steps.extend(kind.is_lane());
        let set = format!("{set}.{}", kind.name());
        self.looked_up(place, group, (kind, &set), &steps, written);
    }

    /// Rules that are looked up: what comes before the lookup, and the start of the set's name, are given.
    fn looked_up(
        &mut self,
        place: &Place,
        group: &Group,
        (kind, set): (Kind, &str),
        steps: &[Statement],
        written: &mut Written,
    ) {
        if group.log && group.members.len() > 1 {
            // Each is told of by its name, so the lookup leads to a chain of its own.
            for member in &group.members {
                let rules = self.single(place, group, member, Vec::new());
                written.of_members.insert(place.chain_of(group.act, member), rules);
            }
        }
        for probe in probes(kind, place.direction, &group.members) {
            self.probe(place, group, set, probe, steps, written);
        }
    }

    /// One lookup of them.
    fn probe(
        &mut self,
        place: &Place,
        group: &Group,
        set: &str,
        probe: Probe,
        steps: &[Statement],
        written: &mut Written,
    ) {
        let Probe { before, key, kind, is_interval, elements } = probe;
        let mut steps: Vec<Statement> = steps.iter().cloned().chain(before).collect();
        let of = |element: &dyn Fn(Expr, &Member) -> Element| -> Vec<Element> {
            let member = |(key, number): (Expr, usize)| Some(element(key, group.members.get(number)?));
            elements.into_iter().filter_map(member).collect()
        };
        match &group.members[..] {
            [member] if group.rate.is_some() || group.log => {
                let elements = of(&|key, _| Element::Key(key));
                let name = self.add_set(set, kind, is_interval, None, elements);
                steps.push(Statement::is(key, Expr::text(format!("@{name}"))));
                written.rules.extend(self.single(place, group, member, steps));
            }
            _ if group.log => {
                let elements = of(&|key, member| Element::Verdict(key, place.jump(group.act, member)));
                let name = self.add_set(set, kind, is_interval, Some("verdict"), elements);
                steps.push(Statement::Vmap(Lookup { key, data: format!("@{name}") }));
                written.rules.push(steps);
            }
            _ => {
                let vm = self.vm;
                let counter = |member: &Member| counter(vm, place.direction, &member.rule);
                let elements = of(&|key, member| Element::Counter(key, counter(member)));
                let name = self.add_set(set, kind, is_interval, Some("counter"), elements);
                let map = Lookup { key, data: format!("@{name}") };
                steps.push(Statement::Counter(CounterRef::Map { map }));
                steps.extend(self.verdict(group.act, place));
                written.rules.push(steps);
            }
        }
    }

    /// What one rule does with what comes to it by these steps: with a rate, or logged, or for every packet.
    fn single(
        &self,
        place: &Place,
        group: &Group,
        member: &Member,
        mut steps: Vec<Statement>,
    ) -> Vec<Vec<Statement>> {
        let log = self.log(group.act, place.direction, &member.rule);
        let counter = counter(self.vm, place.direction, &member.rule);
        let mut rules = Vec::new();
        match group.rate {
            Some(rate) => {
                // One limit for all of the rule's lookups.
                steps.push(Statement::Limit(LimitRef::Name(limit(&counter, &rate_limit(rate)))));
                steps.extend(group.log.then_some(log));
            }
            // What is logged is limited, what is done about it is not.
            None if group.log => rules.push([steps.clone(), vec![log_limit(), log]].concat()),
            None => {}
        }
        steps.push(Statement::count(&counter));
        steps.extend(self.verdict(group.act, place));
        rules.push(steps);
        rules
    }

    /// Its name. What has the same elements is the same set.
    fn add_set(
        &mut self,
        start: &str,
        kind: Types,
        is_interval: bool,
        map: Option<&str>,
        elem: Vec<Element>,
    ) -> String {
        let mut set = Set {
            family: self.path.family().to_owned(),
            table: TABLE.to_owned(),
            name: String::new(),
            kind,
            map: map.map(str::to_owned),
            flags: is_interval.then(|| "interval".to_owned()).into_iter().collect(),
            size: u32::try_from(elem.len()).ok().filter(|_| !is_interval),
            elem,
        };
        // A vector in memory takes every byte, and no type of the set's refuses to be written.
        let content = serde_json::to_vec(&set).unwrap_or_default();
        set.name = format!("{}.{:016x}", short(start), digest(&content));
        let name = set.name.clone();
        if !self.made.has_set(&name) {
            self.made.sets.push(set);
        }
        name
    }

    fn verdict(&self, act: Act, place: &Place) -> Option<Statement> {
        match act {
            Act::Decide(Verdict::Allow) => Some(Statement::Return(())),
            Act::Decide(Verdict::Deny) => Some(Statement::Drop(())),
            Act::Decide(Verdict::Reject) => Some(Statement::goto("reject")),
            Act::Pass => Some(Statement::goto(&place.next)),
            Act::Tell => None,
            Act::Ask => Some(Statement::goto(&ask::chain(&entry(self.vm, place.direction)))),
        }
    }

    /// `lynceus deny web-1 in web/http`: what listeners of NFLOG are told with the packet.
    fn log(&self, act: Act, direction: Direction, rule: &str) -> Statement {
        // NF_LOG_PREFIXLEN is 128, with the final zero.
        let text = format!("lynceus {} {} {} {rule}", name_of(act), self.vm, direction.name());
        Statement::Log(Log { prefix: text.chars().take(127).collect(), group: LOG_GROUP })
    }
}

fn name_of(act: Act) -> &'static str {
    match act {
        Act::Decide(verdict) => verdict.name(),
        Act::Pass => "pass",
        Act::Tell => "would-deny",
        Act::Ask => "ask",
    }
}

fn rate_limit(rate: Rate) -> Limit {
    Limit { rate: rate.count, per: rate.per.name().to_owned(), burst: rate.burst }
}

/// A guest that knocks often does not fill the log.
fn log_limit() -> Statement {
    Statement::Limit(LimitRef::Own(Limit { rate: 50, per: "second".to_owned(), burst: 100 }))
}

/// Tells listeners of NFLOG of a packet, with the interface that it came by; not of all of a flood.
pub fn told(prefix: &str) -> Vec<Statement> {
    vec![log_limit(), Statement::Log(Log { prefix: prefix.to_owned(), group: LOG_GROUP })]
}

/// When the group holds. The kernel's own clock ends it, also when nobody is there to apply a policy any more.
fn conditions(group: &Group) -> Vec<Statement> {
    let time = |op: &str, at: Option<Timestamp>| {
        at.map(|at| Statement::compare(op, Expr::meta("time"), Expr::text(at.to_string())))
    };
    time(">=", group.from).into_iter().chain(time("<", group.until)).collect()
}
