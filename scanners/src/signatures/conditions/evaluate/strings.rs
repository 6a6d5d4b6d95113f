//! What is said of strings' matches.

use super::super::terms::{Term, Which};
use super::{Evaluation, Known, Value, integer};
use crate::signatures::engine::MAX_COUNTED;
use crate::signatures::finder::Place;

/// What was found of a string.
enum Found<'f> {
    These(&'f [Place]),
    Unknown,
}

impl Evaluation<'_> {
    /// A term about the matches of one string.
    pub(super) fn of_string(&mut self, term: &Term) -> Value {
        match term {
            Term::Count(which) => self.of(*which, |all| integer(all.len() as u64)),
            Term::Matches(which) => self.of(*which, |all| Value::Boolean(!all.is_empty())),
            Term::Offset(which, occurrence) => self.occurrence(*which, occurrence, |place| place.offset),
            Term::Length(which, occurrence) => self.occurrence(*which, occurrence, |place| place.len),
            // Wherever that is.
            Term::At(which, _) | Term::In(which, _)
                if self.of(*which, |all| Value::Boolean(all.is_empty())) == Value::Boolean(true) =>
            {
                Value::Untrue
            }
            Term::At(which, at) => {
                let at = self.value(at);
                at.with(|at| match u64::try_from(at) {
                    Ok(at) => self.of(*which, |all| Value::Boolean(!between(all, at, at).is_empty())),
                    Err(_) => Value::Boolean(false),
                })
            }
            Term::In(which, two) => {
                self.numbers_of(two, |evaluation, from, to| match (u64::try_from(from), u64::try_from(to)) {
                    (Ok(from), Ok(to)) if from <= to => {
                        evaluation.of(*which, |all| Value::Boolean(!between(all, from, to).is_empty()))
                    }
                    _ => Value::Boolean(false),
                })
            }
            Term::CountIn(which, two) => self.numbers_of(two, |evaluation, from, to| {
                let [from, to] = [from, to].map(|number| u64::try_from(number).unwrap_or(0));
                evaluation.of(*which, |all| integer(between(all, from, to).len() as u64))
            }),
            _ => Value::Unknown,
        }
    }

    fn of(&self, which: Which, work: impl FnOnce(&[Place]) -> Value) -> Value {
        match self.found(which) {
            Found::These(all) => work(all),
            Found::Unknown => Value::Unknown,
        }
    }

    fn occurrence(&mut self, which: Which, occurrence: &Term, what: impl FnOnce(&Place) -> u64) -> Value {
        let occurrence = self.value(occurrence);
        occurrence.with(|number| {
            match usize::try_from(number).ok().and_then(|number| number.checked_sub(1)) {
                Some(index) => self
                    .of(which, |all| all.get(index).map_or(Value::Undefined, |place| integer(what(place)))),
                None => Value::Undefined,
            }
        })
    }

    fn found(&self, which: Which) -> Found<'_> {
        let string = match (which, self.current) {
            (Which::Number(string), _) | (Which::Current, Some(string)) => string,
            (Which::Current, None) => return Found::Unknown,
        };
        let Known { matches, uncertain, .. } = &self.known;
        let from = matches.partition_point(|place| place.string < string);
        let to = matches.partition_point(|place| place.string <= string);
        let all = matches.get(from..to).unwrap_or_default();
        let is_uncertain = if all.is_empty() {
            uncertain.anywhere().binary_search(&string).is_ok()
        } else {
            // The engine stops to count.
            uncertain.is_sign(string) || all.len() >= MAX_COUNTED as usize || all.iter().any(Place::is_sign)
        };
        if is_uncertain { Found::Unknown } else { Found::These(all) }
    }
}

/// The matches that begin from here to there.
fn between(all: &[Place], from: u64, to: u64) -> &[Place] {
    let start = all.partition_point(|place| place.offset < from);
    let end = all.partition_point(|place| place.offset <= to);
    all.get(start..end).unwrap_or_default()
}
