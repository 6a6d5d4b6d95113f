//! The strings of rules without their conditions: where each of them matches.
//!
//! *Does*: compiles beside the rules themselves one rule that has the strings of all of them and whose condition is `any of them`. One,
//! because each rule costs something whenever anything is searched. Strings whose matches may reach far are in another one, and in the
//! first by their markers.
//! *Trusts*: nothing that it has not read back: strings that do not come out of the parser as they went in make it useless, and then
//! it is not used.

use super::conditions::{Uncertain, rules};
use super::content::Content;
use super::engine::MAX_COUNTED;
use super::markers::marker;
use super::reach::reach;
use super::rules::{compiler, params};
use super::windows::MAX_NEAR_BYTES;
use boreal::Scanner;
use boreal::memory::FragmentedMemory;
use boreal::scanner::{EvaluatedRule, FragmentedScanMode, ScanParams};
use boreal_parser::file::YaraFile;
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

impl Place {
    /// The length of what stands for matches of a string somewhere from there on.
    pub(super) const SIGN: u64 = u64::MAX;

    pub(super) fn is_sign(&self) -> bool {
        self.len == Place::SIGN
    }
}

/// Finds strings.
#[derive(Debug)]
pub(super) struct Finder {
    /// Those that reach far by their markers.
    near: Scanner,
    far: Option<Scanner>,
    is_far: Vec<bool>,
    /// Strings that reach far and have no marker.
    unmarked: Vec<u32>,
}

impl Finder {
    /// The strings of these rule files; none if that cannot be done for all of them.
    pub(super) fn new(files: &[(&str, YaraFile)]) -> Option<Finder> {
        let (mut near, mut far) = (Vec::new(), Vec::new());
        let (mut is_far, mut unmarked) = (Vec::new(), Vec::new());
        for (text, file) in files {
            for string in rules(file).flat_map(|rule| &rule.variables) {
                let number = u32::try_from(is_far.len()).ok()?;
                let name = format!("s{number}");
                let bare = Bare { name: name.clone(), value: value(text, string)?, of: Some(string) };
                let reaches_far = reach(string).is_none_or(|reach| reach > MAX_NEAR_BYTES);
                is_far.push(reaches_far);
                if !reaches_far {
                    near.push(bare);
                    continue;
                }
                far.push(bare);
                match marker(string) {
                    Some(marker) => near.push(Bare { name, value: marker, of: None }),
                    None => unmarked.push(number),
                }
            }
        }
        let far = if far.is_empty() { None } else { Some(compile(&far)?) };
        Some(Finder { near: compile(&near)?, far, is_far, unmarked })
    }

    pub(super) fn is_far(&self, string: u32) -> bool {
        usize::try_from(string).ok().and_then(|index| self.is_far.get(index)).copied().unwrap_or(true)
    }

    /// Every match in parts of a region, and every marker; none if there are too many to be sure of all, or too little time.
    pub(super) fn near(
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
        Finder::find(&self.near, memory, budget)
    }

    /// Every match of a string that may reach far, in all of a region.
    pub(super) fn far(&self, memory: impl FragmentedMemory, budget: Duration) -> Option<Vec<Place>> {
        match &self.far {
            Some(far) => Finder::find(far, memory, budget),
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

impl Uncertain for Finder {
    fn is_sign(&self, string: u32) -> bool {
        self.is_far(string)
    }

    fn anywhere(&self) -> &[u32] {
        &self.unmarked
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

/// A string's declaration with a number for a name, and public.
struct Bare<'s> {
    name: String,
    value: String,
    /// The string, where it is not its marker.
    of: Option<&'s VariableDeclaration>,
}

/// One rule of strings. Read back, each must be what it was.
fn compile(strings: &[Bare<'_>]) -> Option<Scanner> {
    let condition = if strings.is_empty() { "false" } else { "any of them" };
    let mut text = String::from("rule found { ");
    if !strings.is_empty() {
        text.push_str("strings:");
    }
    strings.iter().for_each(|string| text.extend(["\n$", &string.name, " = ", &string.value]));
    text.extend(["\ncondition: ", condition, " }"]);
    let file = boreal_parser::parse(&text).ok()?;
    let read = &rules(&file).next()?.variables;
    let same = |(read, string): (&VariableDeclaration, &Bare<'_>)| {
        read.name == string.name && string.of.is_none_or(|of| is_same(read, of))
    };
    if read.len() != strings.len() || !read.iter().zip(strings).all(same) {
        return None;
    }
    let mut compiler = compiler();
    compiler.set_params(params().max_strings_per_rule(usize::MAX));
    compiler.add_rules_str(&text).ok()?;
    Some(compiler.finalize())
}

/// What stands behind a string's name in a rule file, without `private`.
fn value(text: &str, string: &VariableDeclaration) -> Option<String> {
    let (_, value) = text.get(string.span.clone())?.split_once('=')?;
    let mut value = value.trim_start().to_owned();
    if string.modifiers.private {
        let at = value.rfind("private")?;
        value.replace_range(at..at.saturating_add("private".len()), "");
    }
    Some(value)
}

/// Whether a string is another one, but for its name and whether it is told of.
fn is_same(one: &VariableDeclaration, other: &VariableDeclaration) -> bool {
    let mut modifiers = other.modifiers.clone();
    modifiers.private = false;
    // Where a regular expression stands in its file is part of what the parser gives.
    reach(one) == reach(other) && same_value(&one.value, &other.value) && one.modifiers == modifiers
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
