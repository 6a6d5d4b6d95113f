//! Conditions, evaluated as far as that can be done.
//!
//! *Does*: evaluates a term as the engine does (boreal 1.4, `evaluator`), with one value more: what cannot be decided is
//! [`Value::Unknown`]. A test holds it against the engine.
//! *Never*: decides what the engine may decide otherwise; goes on without end.

mod loops;
mod strings;

use super::asides::Asides;
use super::decide::Uncertain;
use super::terms::{Operator, Relation, Term};
use crate::signatures::engine::Externals;
use crate::signatures::finder::Place;
use crate::signatures::heads::{Bytes, Heads};
use boreal_parser::expression::ReadIntegerType;
use std::cell::OnceCell;

/// Terms that are evaluated for a region; with more of them nothing is decided.
const MAX_STEPS: u32 = 200_000;

/// What a term is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value {
    Boolean(bool),
    Integer(i64),
    /// It has no value, as the engine sees it.
    Undefined,
    /// It is false, or has no value.
    Untrue,
    /// It may be anything.
    Unknown,
}

impl Value {
    pub(super) fn may_be_true(self) -> bool {
        self.truth() == Value::Boolean(true) || self == Value::Unknown
    }

    /// As a truth: a number is true if it is not zero.
    pub(super) fn truth(self) -> Value {
        if let Value::Integer(number) = self { Value::Boolean(number != 0) } else { self }
    }

    /// What comes of it where it is a number.
    fn with(self, work: impl FnOnce(i64) -> Value) -> Value {
        match self {
            Value::Integer(number) => work(number),
            Value::Unknown => Value::Unknown,
            Value::Boolean(_) | Value::Undefined | Value::Untrue => Value::Undefined,
        }
    }

    /// A number, or that there can be none.
    fn number(self) -> Option<Value> {
        matches!(self, Value::Integer(_) | Value::Unknown).then_some(self)
    }
}

/// A file's names.
pub(super) enum Names<'e> {
    /// It is no file.
    None,
    Unknown,
    These(&'e Externals, OnceCell<Vec<Value>>),
}

/// What is known of a region.
pub(super) struct Known<'e> {
    pub(super) asides: &'e Asides,
    /// By string, and by offset.
    pub(super) matches: Vec<Place>,
    pub(super) uncertain: &'e dyn Uncertain,
    pub(super) heads: Option<&'e Heads>,
    /// Of a file, in bytes.
    pub(super) size: Value,
    pub(super) names: Names<'e>,
    pub(super) may_be_program: bool,
}

/// Evaluates conditions of one rule after the other.
pub(super) struct Evaluation<'e> {
    known: Known<'e>,
    /// Of the rules so far that may hold, in ascending order.
    truths: Vec<(u32, Value)>,
    /// The string that a loop is at.
    current: Option<u32>,
    /// The numbers that loops are at.
    bound: Vec<Value>,
    steps: u32,
}

impl<'e> Evaluation<'e> {
    pub(super) fn new(known: Known<'e>) -> Evaluation<'e> {
        Evaluation { known, truths: Vec::new(), current: None, bound: Vec::new(), steps: 0 }
    }

    /// What others are told that ask for this rule, which comes behind all of which this was said before. Where nothing is said
    /// it does not hold.
    pub(super) fn say(&mut self, rule: u32, truth: Value) {
        self.truths.push((rule, truth));
    }

    /// As many steps again as at first.
    pub(super) fn rest(&mut self) {
        self.steps = 0;
    }

    pub(super) fn value(&mut self, term: &Term) -> Value {
        self.steps = self.steps.saturating_add(1);
        if self.steps > MAX_STEPS {
            return Value::Unknown;
        }
        match term {
            Term::Unknown => Value::Unknown,
            Term::Boolean(truth) => Value::Boolean(*truth),
            Term::Integer(number) => Value::Integer(*number),
            Term::FileSize => self.known.size,
            Term::Read(kind, at) => self.value(at).with(|at| self.read(*kind, at)),
            Term::Negative(one) => {
                self.value(one).with(|number| number.checked_neg().map_or(Value::Unknown, Value::Integer))
            }
            Term::Complement(one) => self.value(one).with(|number| Value::Integer(!number)),
            Term::Arithmetic(operator, two) => {
                self.numbers_of(two, |_, one, other| calculate(*operator, one, other))
            }
            Term::Compare(relation, two) => self.compare(*relation, two),
            Term::Not(one) => match self.value(one).truth() {
                Value::Boolean(truth) => Value::Boolean(!truth),
                Value::Untrue => Value::Unknown,
                other => other,
            },
            Term::Defined(one) => match self.value(one) {
                Value::Unknown | Value::Untrue => Value::Unknown,
                other => Value::Boolean(other != Value::Undefined),
            },
            Term::And(all) => self.all(all, false),
            Term::Or(all) => self.all(all, true),
            Term::Bound(index) => self.bound.get(*index).copied().unwrap_or(Value::Unknown),
            Term::Rule(number) => self.rule(*number),
            Term::OfRules(selection, rules) => self.of_rules(selection, rules),
            Term::OfNumbers(selection, three) => self.of_numbers(selection, three),
            Term::Of(selection, strings, body) => self.of_strings(selection, strings, body),
            Term::Aside(number) => self.aside(*number),
            Term::Count(_)
            | Term::CountIn(..)
            | Term::Matches(_)
            | Term::Offset(..)
            | Term::Length(..)
            | Term::At(..)
            | Term::In(..) => self.of_string(term),
        }
    }

    /// Whether one of these is `wanted`, which decides.
    fn all(&mut self, terms: &[Term], wanted: bool) -> Value {
        let mut is_sure = true;
        for term in terms {
            match self.value(term).truth() {
                Value::Unknown => is_sure = false,
                value if (value == Value::Boolean(true)) == wanted => return Value::Boolean(wanted),
                _ => {}
            }
        }
        if is_sure { Value::Boolean(!wanted) } else { Value::Unknown }
    }

    fn numbers_of(&mut self, two: &[Term; 2], work: impl FnOnce(&Self, i64, i64) -> Value) -> Value {
        match two.each_ref().map(|term| self.value(term).number()) {
            [Some(Value::Integer(one)), Some(Value::Integer(other))] => work(self, one, other),
            // Nothing comes of it, whatever the other one is.
            [None, _] | [_, None] => Value::Undefined,
            _ => Value::Unknown,
        }
    }

    fn compare(&mut self, relation: Relation, two: &[Term; 2]) -> Value {
        let [one, other] = two.each_ref().map(|term| self.value(term));
        let truth = match (one, other) {
            (Value::Undefined, _) | (_, Value::Undefined) => return Value::Undefined,
            (Value::Unknown, _) | (_, Value::Unknown) => return Value::Unknown,
            (Value::Integer(one), Value::Integer(other)) => match relation {
                Relation::Equal => one == other,
                Relation::Unequal => one != other,
                Relation::Less => one < other,
                Relation::AtMost => one <= other,
                Relation::Greater => one > other,
                Relation::AtLeast => one >= other,
            },
            // Truths are hardly ever compared.
            _ => return Value::Unknown,
        };
        Value::Boolean(truth)
    }

    fn rule(&self, number: u32) -> Value {
        match self.truths.binary_search_by_key(&number, |(rule, _)| *rule) {
            Ok(index) => self.truths.get(index).map_or(Value::Unknown, |(_, truth)| match truth {
                // Of a rule is known whether it holds, not why.
                Value::Undefined | Value::Untrue => Value::Boolean(false),
                truth => *truth,
            }),
            // It wants a match and has none.
            Err(_) => Value::Boolean(false),
        }
    }

    fn aside(&self, number: u32) -> Value {
        let Known { asides, names, may_be_program, .. } = &self.known;
        let named = |index: usize| match names {
            Names::These(names, said) => {
                said.get_or_init(|| asides.of_names(names)).get(index).copied().unwrap_or(Value::Unknown)
            }
            Names::None | Names::Unknown => Value::Unknown,
        };
        let named: Option<&dyn Fn(usize) -> Value> =
            if matches!(names, Names::None) { None } else { Some(&named) };
        asides.get(number, *may_be_program, named)
    }

    fn read(&self, kind: ReadIntegerType, at: i64) -> Value {
        use ReadIntegerType as Kind;
        let Ok(at) = u64::try_from(at) else { return Value::Undefined };
        let len = match kind {
            Kind::Int8 | Kind::Uint8 => 1,
            Kind::Int16 | Kind::Uint16 | Kind::Int16BE | Kind::Uint16BE => 2,
            Kind::Int32 | Kind::Uint32 | Kind::Int32BE | Kind::Uint32BE => 4,
        };
        let bytes = match self.known.heads.map(|heads| heads.read(at, len)) {
            Some(Bytes::These(bytes)) => bytes,
            Some(Bytes::Absent) => return Value::Undefined,
            Some(Bytes::Unknown) | None => return Value::Unknown,
        };
        let unsigned = |all: &mut dyn Iterator<Item = &u8>| {
            all.fold(0i64, |number, byte| number << 8 | i64::from(*byte))
        };
        let number = match kind {
            Kind::Int16BE | Kind::Uint16BE | Kind::Int32BE | Kind::Uint32BE => unsigned(&mut bytes.iter()),
            _ => unsigned(&mut bytes.iter().rev()),
        };
        Value::Integer(match kind {
            Kind::Int8 => i64::from(number as i8),
            Kind::Int16 | Kind::Int16BE => i64::from(number as i16),
            Kind::Int32 | Kind::Int32BE => i64::from(number as i32),
            _ => number,
        })
    }
}

pub(super) fn integer(number: u64) -> Value {
    i64::try_from(number).map_or(Value::Undefined, Value::Integer)
}

fn calculate(operator: Operator, one: i64, other: i64) -> Value {
    let shifted = |work: fn(i64, u32) -> Option<i64>| match u32::try_from(other) {
        Ok(bits) => Some(work(one, bits).unwrap_or(0)),
        Err(_) if other < 0 => None,
        Err(_) => Some(0),
    };
    let number = match operator {
        Operator::Add => Some(one.wrapping_add(other)),
        Operator::Subtract => Some(one.wrapping_sub(other)),
        Operator::Multiply => Some(one.wrapping_mul(other)),
        Operator::Divide => one.checked_div(other),
        Operator::Remainder => one.checked_rem(other),
        Operator::Xor => Some(one ^ other),
        Operator::And => Some(one & other),
        Operator::Or => Some(one | other),
        Operator::ShiftLeft => shifted(i64::checked_shl),
        Operator::ShiftRight => shifted(i64::checked_shr),
    };
    number.map_or(Value::Undefined, Value::Integer)
}
