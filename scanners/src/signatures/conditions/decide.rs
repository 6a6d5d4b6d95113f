//! What rules say of a region of which all matches are known, and of its bytes those at the beginning.
//!
//! *Does*: keeps the conditions of all rules, and which of them may hold where a string matches, or without a match: only at these is
//! looked.
//! *Trusts*: that matches are all there are, where they are not said to be uncertain.
//! *Never*: calls a rule false that the engine may call true. A rule that is global makes others false: that is left aside.

use super::asides::{Asides, Compiler};
use super::evaluate::{Evaluation, Known, Names, Value, integer};
use super::rules;
use super::terms::{Builder, Term};
use crate::signatures::engine::Externals;
use crate::signatures::finder::Place;
use crate::signatures::heads::Heads;
use boreal_parser::file::YaraFile;
use std::cell::OnceCell;

/// All conditions of some rules.
#[derive(Debug)]
pub(in crate::signatures) struct Conditions {
    rules: Vec<Rule>,
    /// Rules that may hold where a string matches, by its number.
    by_string: Vec<Vec<u32>>,
    /// Rules that may hold without a match: in memory and in files, each without a program and with one.
    always: [[Vec<u32>; 2]; 2],
    asides: Asides,
    /// How programs begin that rules take apart.
    magics: Vec<&'static [u8]>,
}

#[derive(Debug)]
struct Rule {
    condition: Term,
    is_private: bool,
}

/// What is known of a region.
#[derive(Clone, Copy, Debug)]
pub(in crate::signatures) struct Facts<'f> {
    /// All matches.
    pub(in crate::signatures) places: &'f [Place],
    /// Strings of which these are not all matches.
    pub(in crate::signatures) uncertain: &'f dyn Uncertain,
    /// None where they are not known.
    pub(in crate::signatures) heads: Option<&'f Heads>,
    /// Of a file its size in bytes and its names.
    pub(in crate::signatures) file: Option<(u64, &'f Externals)>,
}

/// Which strings' matches are not known.
pub(in crate::signatures) trait Uncertain: std::fmt::Debug {
    /// Of a string of which something was found: whether this is no more than a sign that it may match.
    fn is_sign(&self, string: u32) -> bool;
    /// Strings that may match wherever nothing was found of them.
    fn anywhere(&self) -> &[u32];
}

/// All matches are known.
#[derive(Debug)]
pub(in crate::signatures) struct Certain;

impl Uncertain for Certain {
    fn is_sign(&self, _: u32) -> bool {
        false
    }

    fn anywhere(&self) -> &[u32] {
        &[]
    }
}

impl Conditions {
    /// Of rule files with these texts, in the order in which their strings are numbered.
    pub(in crate::signatures) fn new(
        files: &[(&str, YaraFile)],
        uncertain: &dyn Uncertain,
        magics: Vec<&'static [u8]>,
    ) -> Conditions {
        let mut compiler = Compiler::default();
        let (mut all, mut strings) = (Vec::new(), Vec::new());
        // Of each rule those that ask for it.
        let mut dependents: Vec<Vec<u32>> = Vec::new();
        for (text, file) in files {
            let mut builder = Builder::new(text, &mut compiler);
            for rule in rules(file) {
                let number = u32::try_from(all.len()).unwrap_or(u32::MAX);
                let first = u32::try_from(strings.len()).unwrap_or(u32::MAX);
                let (condition, asked) = builder.rule(rule, number, first);
                for other in asked {
                    if let Some(list) = dependents.get_mut(other as usize) {
                        list.push(number);
                    }
                }
                dependents.push(Vec::new());
                strings.extend(rule.variables.iter().map(|_| vec![number]));
                all.push(Rule { condition, is_private: rule.is_private });
            }
        }
        strings.iter_mut().for_each(|list| add_dependents(list, &dependents));
        let (asides, rules) = (compiler.finish(), all);
        let always = Default::default();
        let mut conditions = Conditions { rules, by_string: strings, always, asides, magics };
        conditions.always = [false, true].map(|is_file| {
            [false, true].map(|may_be_program| conditions.loud(is_file, may_be_program, uncertain))
        });
        conditions
    }

    /// How programs begin that rules take apart.
    pub(in crate::signatures) fn magics(&self) -> &[&'static [u8]] {
        &self.magics
    }

    /// Rules that may hold where nothing matches.
    fn loud(&self, is_file: bool, may_be_program: bool, uncertain: &dyn Uncertain) -> Vec<u32> {
        let mut evaluation = Evaluation::new(Known {
            asides: &self.asides,
            matches: Vec::new(),
            uncertain,
            heads: None,
            size: if is_file { Value::Unknown } else { Value::Undefined },
            names: if is_file { Names::Unknown } else { Names::None },
            may_be_program,
        });
        let mut loud = Vec::new();
        for (number, rule) in (0..).zip(&self.rules) {
            evaluation.rest();
            if evaluation.value(&rule.condition).may_be_true() {
                evaluation.say(number, Value::Unknown);
                loud.push(number);
            }
        }
        loud
    }

    /// Whether a rule may hold that is told of.
    pub(in crate::signatures) fn may_match(&self, facts: &Facts<'_>) -> bool {
        let may_be_program =
            !self.magics.is_empty() && facts.heads.is_none_or(|heads| heads.begin_with_any(&self.magics));
        let mut matches = facts.places.to_vec();
        matches.sort_unstable_by_key(|place| (place.string, place.offset, place.len));
        let mut candidates: Vec<u32> = Vec::new();
        for same in matches.chunk_by(|one, other| one.string == other.string) {
            let rules = same.first().and_then(|place| self.by_string.get(place.string as usize));
            candidates.extend(rules.into_iter().flatten());
        }
        let [[plain, program], [file, program_file]] = &self.always;
        candidates.extend(match (facts.file.is_some(), may_be_program) {
            (false, false) => plain,
            (false, true) => program,
            (true, false) => file,
            (true, true) => program_file,
        });
        candidates.sort_unstable();
        candidates.dedup();
        let mut evaluation = Evaluation::new(Known {
            asides: &self.asides,
            matches,
            uncertain: facts.uncertain,
            heads: facts.heads,
            size: facts.file.map_or(Value::Undefined, |(bytes, _)| integer(bytes)),
            names: facts.file.map_or(Names::None, |(_, names)| Names::These(names, OnceCell::new())),
            may_be_program,
        });
        candidates.into_iter().any(|number| {
            let Some(rule) = self.rules.get(number as usize) else { return true };
            let value = evaluation.value(&rule.condition).truth();
            evaluation.say(number, value);
            value.may_be_true() && !rule.is_private
        })
    }
}

/// A rule that asks whether others hold may hold where their strings match.
fn add_dependents(list: &mut Vec<u32>, dependents: &[Vec<u32>]) {
    let mut next = 0;
    while let Some(rule) = list.get(next) {
        let more = dependents.get(*rule as usize).into_iter().flatten();
        let more: Vec<u32> = more.filter(|more| !list.contains(more)).copied().collect();
        list.extend(more);
        next = next.saturating_add(1);
    }
}
