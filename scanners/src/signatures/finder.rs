//! The strings of rules without their conditions: where each of them matches.
//!
//! *Does*: compiles beside the rules themselves one rule that has the strings of all of them and whose condition is `any of them`, and
//! beside that another with the strings whose matches may reach far. One, because each rule costs something whenever anything is searched.
//! *Trusts*: nothing that it has not read back: strings that do not come out of the parser as they went in make it useless, and then
//! it is not used.

use super::conditions::rules;
use super::content::Content;
use super::engine::MAX_COUNTED;
use super::reach::reach;
use super::rules::{compiler, params};
use super::windows::MAX_NEAR_BYTES;
use boreal::Scanner;
use boreal::memory::FragmentedMemory;
use boreal::scanner::{EvaluatedRule, FragmentedScanMode, ScanParams};
use boreal_parser::rule::VariableDeclaration;
use std::ops::Range;
use std::time::Duration;

/// A match of a string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Which string, over all rules.
    pub(super) string: u32,
}

/// Finds strings.
#[derive(Debug)]
pub(super) struct Finder {
    all: Scanner,
    far: Option<Scanner>,
    is_far: Vec<bool>,
}

impl Finder {
    /// The strings of these rule files; none if that cannot be done for all of them.
    pub(super) fn new<'s>(texts: impl Iterator<Item = &'s str>) -> Option<Finder> {
        let (mut all, mut is_far) = (Vec::new(), Vec::new());
        for text in texts {
            let file = boreal_parser::parse(text).ok()?;
            for string in rules(&file).flat_map(|rule| &rule.variables) {
                all.push(bare(text, all.len(), string)?);
                is_far.push(reach(string).is_none_or(|reach| reach > MAX_NEAR_BYTES));
            }
        }
        u32::try_from(all.len()).ok()?;
        let far: Vec<&str> =
            all.iter().zip(&is_far).filter(|(_, far)| **far).map(|(string, _)| string.as_str()).collect();
        let far = if far.is_empty() { None } else { Some(compile(&far)?) };
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        Some(Finder { all: compile(&all)?, far, is_far })
    }

    pub(super) fn is_far(&self, string: u32) -> bool {
        usize::try_from(string).ok().and_then(|index| self.is_far.get(index)).copied().unwrap_or(true)
    }

    /// Every match in parts of a region; none if there are too many to be sure of all, or too little time.
    pub(super) fn all(
        &self,
        content: &Content,
        parts: &[Range<u64>],
        budget: Duration,
    ) -> Option<Vec<Place>> {
        if parts.is_empty() {
            return Some(Vec::new());
        }
        self.within(content.parts(parts), budget)
    }

    /// The same in any pieces of memory.
    pub(super) fn within(&self, memory: impl FragmentedMemory, budget: Duration) -> Option<Vec<Place>> {
        Finder::find(&self.all, memory, budget)
    }

    /// Whether no match depends on more than what lies close around its beginning.
    pub(super) fn is_near(&self) -> bool {
        self.far.is_none()
    }

    /// Every match of a string that may reach far, in all of a region.
    pub(super) fn far(&self, content: &Content, budget: Duration) -> Option<Vec<Place>> {
        match &self.far {
            Some(far) => Finder::find(far, content.fragments(), budget),
            None => Some(Vec::new()),
        }
    }

    fn find(scanner: &Scanner, parts: impl FragmentedMemory, budget: Duration) -> Option<Vec<Place>> {
        let params = ScanParams::default()
            .compute_full_matches(true)
            .match_max_length(0)
            .string_max_nb_matches(MAX_COUNTED)
            .timeout_duration(Some(budget))
            .fragmented_scan_mode(FragmentedScanMode::fast());
        let mut scanner = scanner.clone();
        scanner.set_scan_params(params);
        let result = scanner.scan_fragmented(parts).ok()?;
        let mut places = Vec::new();
        for rule in &result.rules {
            take_places(rule, &mut places)?;
        }
        places.sort_unstable();
        Some(places)
    }
}

fn take_places(rule: &EvaluatedRule<'_>, places: &mut Vec<Place>) -> Option<()> {
    for string in &rule.matches {
        // The engine stopped to count.
        if string.matches.len() >= MAX_COUNTED as usize {
            return None;
        }
        let number: u32 = string.name.strip_prefix('s')?.parse().ok()?;
        places.extend(string.matches.iter().map(|found| Place {
            offset: (found.base as u64).saturating_add(found.offset as u64),
            len: found.length as u64,
            string: number,
        }));
    }
    Some(())
}

/// One rule of strings.
fn compile(strings: &[&str]) -> Option<Scanner> {
    let condition = if strings.is_empty() { "false" } else { "any of them" };
    let heading = if strings.is_empty() { "" } else { "strings:" };
    let text = format!("rule found {{ {heading}\n{}\ncondition: {condition} }}", strings.join("\n"));
    let mut compiler = compiler();
    compiler.set_params(params().max_strings_per_rule(usize::MAX));
    compiler.add_rules_str(&text).ok()?;
    Some(compiler.finalize())
}

/// A string's declaration with a number for a name, and public. Read back, it must be what it was.
fn bare(text: &str, index: usize, string: &VariableDeclaration) -> Option<String> {
    let declared = text.get(string.span.clone())?;
    let (_, value) = declared.split_once('=')?;
    let mut value = value.to_owned();
    if string.modifiers.private {
        let at = value.rfind("private")?;
        value.replace_range(at..at.saturating_add("private".len()), "");
    }
    let bare = format!("$s{index} = {value}");
    let read = boreal_parser::parse(&format!("rule r {{ strings: {bare}\ncondition: any of them }}")).ok()?;
    let [read] = &rules(&read).next()?.variables[..] else { return None };
    let mut modifiers = string.modifiers.clone();
    modifiers.private = false;
    // Where a regular expression stands in its file is part of what the parser gives.
    let same = reach(read) == reach(string) && same_value(&read.value, &string.value);
    (same && read.modifiers == modifiers && read.name == format!("s{index}")).then_some(bare)
}

fn same_value(
    one: &boreal_parser::rule::VariableDeclarationValue,
    other: &boreal_parser::rule::VariableDeclarationValue,
) -> bool {
    use boreal_parser::rule::VariableDeclarationValue::Regex;
    match (one, other) {
        (Regex(one), Regex(other)) => {
            one.case_insensitive == other.case_insensitive && one.dot_all == other.dot_all
        }
        _ => one == other,
    }
}
