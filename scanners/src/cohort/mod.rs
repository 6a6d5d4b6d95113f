//! Cohorts: guests that run the same kernel on the same kind of processor, compared with each other. One that differs from most
//! is named, with no golden image.
//!
//! *Does*: brings code and constants to what they would be without KASLR and without what every kernel rewrites for itself, and
//! takes the majority's word for what is right.
//! *Trusts*: that most of a cohort is clean. *Never*: compares guests of different builds or processors, whose code differs
//! for good reasons; it says which were left out.

mod code;
mod member;

use crate::{Detector, Finding, Limits, Severity, Subject};
use code::Step;
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gva, Partial};
use lynceus_profiles::Profile;
use member::Member;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// What is known of it.
pub const DETECTOR: Detector = Detector {
    name: "cohort",
    technique: "T1014",
    about: "guests whose kernel differs from that of most others of the same build",
    limits: Limits {
        sees: "functions, constants, tables of operations and modules that one guest has otherwise than most, and foreign modules and tracing BPF programs that it has alone",
        evaded_by: "an attack on most guests of the cohort; a change to one of the forms that kernels give a place for themselves",
        false_positives: "live patches and products that were rolled out to a few guests",
    },
    next: "compare the guest that is named with its siblings: lynceus check and lynceus modules of both",
    run: alone,
};

/// A guest by itself has nobody to differ from.
fn alone(_: &LinuxGuest, _: &Options) -> Partial<Finding> {
    Partial::default()
}

/// Code of 32 bits, which a kernel leaves before its first instruction of 64.
const OTHER_CODE: [&str; 1] = ["pvh_start_xen"];
/// Most findings for one guest.
const MAX_FINDINGS: usize = 64;

/// Guests that belong together, by their place among those given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cohort {
    /// The kernel's release.
    pub release: String,
    /// Its members.
    pub members: Vec<usize>,
}

/// Sorts guests into cohorts: the same build, the same processor features.
pub fn cohorts(guests: &[&LinuxGuest]) -> Vec<Cohort> {
    let mut groups: BTreeMap<(String, Vec<u8>), Vec<usize>> = BTreeMap::new();
    for (index, guest) in guests.iter().enumerate() {
        let identity = &guest.kernel().profile.identity;
        let build = identity.build_id.map_or_else(|| identity.banner.clone(), |id| id.to_string());
        groups.entry((build, member::flavour(guest))).or_default().push(index);
    }
    let release = |members: &[usize]| guests[members[0]].kernel().profile.identity.release.clone();
    groups.into_values().map(|members| Cohort { release: release(&members), members }).collect()
}

/// What each member has otherwise than most, in the order of the members. Two guests that differ are both named.
pub fn compare(guests: &[&LinuxGuest]) -> Vec<Partial<Finding>> {
    let mut members: Vec<Member<'_>> = guests.iter().map(|guest| Member::new(guest)).collect();
    if members.len() > 1 {
        functions(&mut members);
        constants(&mut members);
        modules(&mut members);
        only_here(&mut members);
    }
    members.into_iter().map(|member| member.found).collect()
}

/// Those that have another value than most; with no majority, all that have a value.
fn outliers<T: Eq + Hash>(values: &[Option<T>]) -> Vec<usize> {
    let mut counts: HashMap<&T, usize> = HashMap::new();
    for value in values.iter().flatten() {
        *counts.entry(value).or_default() += 1;
    }
    let there = values.iter().flatten().count();
    let most = counts.iter().max_by_key(|(_, count)| **count);
    let majority = most.filter(|(_, count)| **count * 2 > there).map(|(value, _)| *value);
    let differs = |value: &Option<T>| value.as_ref().is_some_and(|value| Some(value) != majority);
    if counts.len() < 2 {
        return Vec::new();
    }
    values.iter().enumerate().filter(|(_, value)| differs(value)).map(|(index, _)| index).collect()
}

/// Says of each of `who` that it differs in `symbol`.
fn tell(
    members: &mut [Member<'_>],
    who: &[usize],
    what: &str,
    symbol: &str,
    at: impl Fn(&Member<'_>) -> Gva,
) {
    let there = members.len();
    for index in who {
        let member = &mut members[*index];
        let address = at(member);
        if member.found.items.len() >= MAX_FINDINGS {
            if member.found.gaps.iter().all(|gap| gap.what != "cohort") {
                member.found.gap("cohort", address, GapReason::Limit(MAX_FINDINGS as u64));
            }
            continue;
        }
        let others = there - who.len();
        let summary = match others {
            0 => format!("{what} {symbol} differs among {there} guests of the same kernel"),
            _ => format!("{what} {symbol} is not as in {others} other guests of the same kernel"),
        };
        let subject = Subject::Kernel { symbol: symbol.to_owned(), address: address.0, value: String::new() };
        let severity = if others > 0 { Severity::High } else { Severity::Medium };
        member.found.items.push(DETECTOR.finding(severity, summary, subject));
    }
}

/// The functions of the kernel, one after another.
fn functions(members: &mut [Member<'_>]) {
    let Some((start, end)) = members[0].text() else { return };
    let symbols = members[0].profile();
    let mut at = start;
    while at < end {
        let next = symbols.symbols.next_after(at).unwrap_or(end).min(end);
        let code: Vec<Option<Vec<u8>>> =
            members.iter_mut().map(|member| member.text_bytes(at, next)).collect();
        if code.iter().flatten().any(|bytes| Some(bytes) != code.iter().flatten().next()) {
            let steps: Vec<Option<Vec<Step>>> = code
                .iter()
                .zip(members.iter())
                .map(|(code, member)| Some(member.steps(code.as_ref()?, at)))
                .collect();
            let classes = classes(&steps, symbols);
            let who = outliers(&classes);
            if !who.is_empty() {
                let name = symbols.symbols.nearest(at).map_or("", |(symbol, _)| symbol.name);
                if !OTHER_CODE.contains(&name) {
                    tell(members, &who, "the function", name, |member| member.run_time(at));
                }
            }
        }
        at = next;
    }
}

/// Programs that are the same get the same number.
fn classes(steps: &[Option<Vec<Step>>], profile: &Profile) -> Vec<Option<usize>> {
    let is_rewritten = |named: &_| member::is_rewritten(profile, named);
    let mut kinds: Vec<&Vec<Step>> = Vec::new();
    let mut numbers = Vec::new();
    for steps in steps {
        numbers.push(steps.as_ref().map(|steps| {
            let known = kinds.iter().position(|kind| code::same(kind, steps, &member::is_own, &is_rewritten));
            known.unwrap_or_else(|| {
                kinds.push(steps);
                kinds.len() - 1
            })
        }));
    }
    numbers
}

/// Constants, a word at a time, and the variables that are tables of operations.
fn constants(members: &mut [Member<'_>]) {
    let mut told = String::new();
    for (start, end) in members[0].constant_ranges() {
        let words: Vec<Option<Vec<u64>>> =
            members.iter_mut().map(|member| member.words(start, end)).collect();
        let len = words.iter().flatten().map(Vec::len).min().unwrap_or(0);
        for index in 0..len {
            let first = words.iter().flatten().next().map(|words| words[index]);
            if words.iter().flatten().all(|words| Some(words[index]) == first) {
                continue;
            }
            let named: Vec<_> = words
                .iter()
                .zip(members.iter())
                .map(|(words, member)| Some(member.named(words.as_ref()?[index])))
                .collect();
            let who = outliers(&named);
            if who.is_empty() || same_in_one_reading(members, &words, index) {
                continue;
            }
            let at = start + 8 * index as u64;
            let name = members[0].place(at);
            let table = name.split('+').next().unwrap_or_default().to_owned();
            // A text or a table that changed is one finding.
            if table != told {
                tell(members, &who, "the constant", &name, |member| member.run_time(at));
                told = table;
            }
        }
    }
}

/// Whether a word is the same in all guests if its halves are read in one of the ways that KASLR makes them differ.
fn same_in_one_reading(members: &[Member<'_>], words: &[Option<Vec<u64>>], index: usize) -> bool {
    let readings: Vec<_> = words
        .iter()
        .zip(members)
        .filter_map(|(words, member)| Some(member.readings(words.as_ref()?[index])))
        .collect();
    let Some(first) = readings.first() else { return true };
    (0..first.len()).any(|way| readings.iter().all(|reading| reading[way] == first[way]))
}

/// Modules of the same name and size.
fn modules(members: &mut [Member<'_>]) {
    let names: Vec<(String, u64)> = members
        .iter()
        .flat_map(Member::modules)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    for (name, size) in names {
        let steps: Vec<Option<Vec<Step>>> =
            members.iter_mut().map(|member| member.module_steps(&name, size)).collect();
        let who = outliers(&classes(&steps, members[0].profile()));
        if !who.is_empty() {
            tell(members, &who, "the code of module", &name, |member| member.module_base(&name));
        }
    }
}

/// Foreign modules and tracing BPF programs that one guest of three or more has alone.
fn only_here(members: &mut [Member<'_>]) {
    let there = members.len();
    if there < 3 {
        return;
    }
    let mut owners: BTreeMap<String, Vec<(usize, Gva)>> = BTreeMap::new();
    for (index, member) in members.iter_mut().enumerate() {
        for (what, at) in member.rarities() {
            owners.entry(what).or_default().push((index, at));
        }
    }
    for (what, owners) in owners {
        if let [(index, at)] = owners[..] {
            let summary = format!("{what} runs in this guest alone of {there} with the same kernel");
            let subject = Subject::Kernel { symbol: what, address: at.0, value: String::new() };
            members[index].found.items.push(DETECTOR.finding(Severity::Medium, summary, subject));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::outliers;

    #[test]
    fn the_majority_decides() {
        assert_eq!(outliers(&[Some(1), Some(1), Some(2)]), [2]);
        assert_eq!(outliers(&[Some(1), None, Some(1)]), [0; 0]);
        assert_eq!(outliers(&[Some(1), Some(2)]), [0, 1], "two that differ are both named");
        assert_eq!(outliers(&[Some(1), Some(2), Some(3)]), [0, 1, 2]);
        assert_eq!(outliers::<u8>(&[None, None]), [0; 0]);
    }
}
