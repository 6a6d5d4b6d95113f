//! Conditions as they can be decided without their region's bytes: what the parser says, with names resolved.
//!
//! *Does*: turns a condition into a [`Term`]. What is not understood is [`Term::Unknown`], which may be anything.
//! *Never*: gives a term that is decided where the condition is not.

use super::asides::Compiler;
use super::{EXTERNALS, PROGRAM_MODULES, each};
use boreal_parser::expression::{
    Expression, ExpressionKind as Kind, ForIterator, ForSelection, Identifier, ReadIntegerType, SetElement,
};
use boreal_parser::rule::Rule;
use std::collections::HashMap;

/// A part of a condition.
#[derive(Debug)]
pub(super) enum Term {
    /// Anything, also no value at all.
    Unknown,
    Boolean(bool),
    Integer(i64),
    FileSize,
    Read(ReadIntegerType, Box<Term>),
    Count(Which),
    CountIn(Which, Box<[Term; 2]>),
    Offset(Which, Box<Term>),
    Length(Which, Box<Term>),
    Negative(Box<Term>),
    Complement(Box<Term>),
    Arithmetic(Operator, Box<[Term; 2]>),
    Compare(Relation, Box<[Term; 2]>),
    Not(Box<Term>),
    Defined(Box<Term>),
    And(Box<[Term]>),
    Or(Box<[Term]>),
    Matches(Which),
    At(Which, Box<Term>),
    In(Which, Box<[Term; 2]>),
    /// So many of these strings fulfil this.
    Of(Selection, Box<[u32]>, Box<Term>),
    /// So many of these rules hold.
    OfRules(Selection, Box<[u32]>),
    /// For so many of the numbers from here to there this is true.
    OfNumbers(Selection, Box<[Term; 3]>),
    /// The number that a loop is at, the outermost first.
    Bound(usize),
    /// Another rule holds.
    Rule(u32),
    /// What the engine decides beforehand.
    Aside(u32),
}

/// A string, over all rules.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// That which a loop is at.
    Current,
    Number(u32),
}

/// How many.
#[derive(Debug)]
pub(super) enum Selection {
    All,
    None,
    AtLeast(Box<Term>),
    Percent(Box<Term>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Xor,
    And,
    Or,
    ShiftLeft,
    ShiftRight,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Relation {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// Turns the conditions of one namespace into terms.
pub(super) struct Builder<'b> {
    text: &'b str,
    /// The rules so far, by name.
    rules: HashMap<&'b str, u32>,
    asides: &'b mut Compiler,
    /// Of the rule at hand: its strings' names and the number of the first, and the rules that it asks for.
    strings: Vec<&'b str>,
    first: u32,
    asked: Vec<u32>,
    /// Names of the loops around.
    bound: Vec<&'b str>,
}

impl<'b> Builder<'b> {
    pub(super) fn new(text: &'b str, asides: &'b mut Compiler) -> Builder<'b> {
        let (strings, asked, bound) = (Vec::new(), Vec::new(), Vec::new());
        Builder { text, rules: HashMap::new(), asides, strings, first: 0, asked, bound }
    }

    /// The next rule of the namespace; it has this number and its strings begin with that one. Its condition, and the rules that it
    /// asks for.
    pub(super) fn rule(&mut self, rule: &'b Rule, number: u32, first_string: u32) -> (Term, Vec<u32>) {
        self.strings = rule.variables.iter().map(|string| string.name.as_str()).collect();
        self.first = first_string;
        let term = self.truth(&rule.condition);
        self.rules.insert(&rule.name, number);
        (term, std::mem::take(&mut self.asked))
    }

    /// What is asked for its truth.
    fn truth(&mut self, expression: &'b Expression) -> Term {
        if let Some(aside) = self.aside(expression) {
            return Term::Aside(aside);
        }
        match &expression.expr {
            Kind::And(all) => Term::And(all.iter().map(|one| self.truth(one)).collect()),
            Kind::Or(all) => Term::Or(all.iter().map(|one| self.truth(one)).collect()),
            Kind::Not(one) => Term::Not(Box::new(self.truth(one))),
            _ => self.value(expression),
        }
    }

    /// What programs are made of and names of files, and nothing else.
    fn aside(&mut self, expression: &Expression) -> Option<u32> {
        let mut bound = Vec::new();
        each(expression, &mut |one| {
            if let Kind::ForIdentifiers { identifiers, .. } = &one.expr {
                bound.extend(identifiers.iter().map(String::as_str));
            }
        });
        let (mut is_aside, mut of_programs, mut of_names) = (true, false, false);
        let mut mentions = |identifier: &Identifier| {
            let (name, is_plain) = (identifier.name.as_str(), identifier.operations.is_empty());
            let is_free = !self.rules.contains_key(name) && !bound.contains(&name);
            let of_program = is_free && PROGRAM_MODULES.contains(&name);
            let of_name = is_free && is_plain && EXTERNALS.contains(&name);
            of_programs |= of_program;
            of_names |= of_name;
            is_aside &= of_program || of_name || bound.contains(&name);
        };
        let mut asks = false;
        each(expression, &mut |one| match &one.expr {
            Kind::Identifier(name) => mentions(name),
            Kind::ForIdentifiers { iterator: ForIterator::Identifier(name), .. } => mentions(name),
            other => asks |= asks_for_region(other),
        });
        is_aside &= !asks;
        let text = self.text.get(expression.span.clone())?;
        (is_aside && (of_programs || of_names)).then(|| self.asides.add(text, of_programs, of_names))
    }

    fn values<const N: usize>(&mut self, all: [&'b Expression; N]) -> Box<[Term; N]> {
        Box::new(all.map(|one| self.value(one)))
    }

    fn boxed(&mut self, one: &'b Expression) -> Box<Term> {
        Box::new(self.value(one))
    }

    fn arithmetic(&mut self, operator: Operator, one: &'b Expression, other: &'b Expression) -> Term {
        Term::Arithmetic(operator, self.values([one, other]))
    }

    fn value(&mut self, expression: &'b Expression) -> Term {
        match &expression.expr {
            Kind::Filesize => Term::FileSize,
            Kind::ReadInteger { ty, addr } => Term::Read(*ty, self.boxed(addr)),
            Kind::Integer(number) => Term::Integer(*number),
            Kind::Boolean(truth) => Term::Boolean(*truth),
            Kind::Neg(one) => Term::Negative(self.boxed(one)),
            Kind::BitwiseNot(one) => Term::Complement(self.boxed(one)),
            Kind::Defined(one) => Term::Defined(self.boxed(one)),
            Kind::Add(one, other) => self.arithmetic(Operator::Add, one, other),
            Kind::Sub(one, other) => self.arithmetic(Operator::Subtract, one, other),
            Kind::Mul(one, other) => self.arithmetic(Operator::Multiply, one, other),
            Kind::Div(one, other) => self.arithmetic(Operator::Divide, one, other),
            Kind::Mod(one, other) => self.arithmetic(Operator::Remainder, one, other),
            Kind::BitwiseXor(one, other) => self.arithmetic(Operator::Xor, one, other),
            Kind::BitwiseAnd(one, other) => self.arithmetic(Operator::And, one, other),
            Kind::BitwiseOr(one, other) => self.arithmetic(Operator::Or, one, other),
            Kind::ShiftLeft(one, other) => self.arithmetic(Operator::ShiftLeft, one, other),
            Kind::ShiftRight(one, other) => self.arithmetic(Operator::ShiftRight, one, other),
            Kind::Eq(one, other) => Term::Compare(Relation::Equal, self.values([one, other])),
            Kind::NotEq(one, other) => Term::Compare(Relation::Unequal, self.values([one, other])),
            Kind::Cmp { left, right, less_than, can_be_equal } => {
                let relation = match (less_than, can_be_equal) {
                    (true, false) => Relation::Less,
                    (true, true) => Relation::AtMost,
                    (false, false) => Relation::Greater,
                    (false, true) => Relation::AtLeast,
                };
                Term::Compare(relation, self.values([left, right]))
            }
            Kind::And(_) | Kind::Or(_) | Kind::Not(_) => self.truth(expression),
            Kind::Identifier(name) if name.operations.is_empty() => self.named(&name.name),
            _ => self.of_strings(expression).unwrap_or(Term::Unknown),
        }
    }

    fn named(&mut self, name: &str) -> Term {
        if let Some(depth) = self.bound.iter().rposition(|bound| *bound == name) {
            return Term::Bound(depth);
        }
        let Some(rule) = self.rules.get(name).copied() else { return Term::Unknown };
        self.asked.push(rule);
        Term::Rule(rule)
    }

    /// What is said of strings and in loops.
    fn of_strings(&mut self, expression: &'b Expression) -> Option<Term> {
        Some(match &expression.expr {
            Kind::Count(name) => Term::Count(self.which(name)?),
            Kind::CountInRange { variable_name, from, to, .. } => {
                Term::CountIn(self.which(variable_name)?, self.values([from, to]))
            }
            Kind::Offset { variable_name, occurence_number } => {
                Term::Offset(self.which(variable_name)?, self.boxed(occurence_number))
            }
            Kind::Length { variable_name, occurence_number } => {
                Term::Length(self.which(variable_name)?, self.boxed(occurence_number))
            }
            Kind::Variable(name) => Term::Matches(self.which(name)?),
            Kind::VariableAt { variable_name, offset, .. } => {
                Term::At(self.which(variable_name)?, self.boxed(offset))
            }
            Kind::VariableIn { variable_name, from, to, .. } => {
                Term::In(self.which(variable_name)?, self.values([from, to]))
            }
            Kind::For { selection, set, body } => {
                let strings = self.set(&set.elements)?;
                let body = match body {
                    Some(body) => self.truth(body),
                    None => Term::Matches(Which::Current),
                };
                Term::Of(self.selection(selection), strings, Box::new(body))
            }
            Kind::ForIn { selection, set, from, to } => {
                let body = Term::In(Which::Current, self.values([from, to]));
                Term::Of(self.selection(selection), self.set(&set.elements)?, Box::new(body))
            }
            Kind::ForAt { selection, set, offset } => {
                let body = Term::At(Which::Current, self.boxed(offset));
                Term::Of(self.selection(selection), self.set(&set.elements)?, Box::new(body))
            }
            Kind::ForIdentifiers { selection, identifiers, iterator, body, .. } => {
                let (ForIterator::Range { from, to }, [name]) = (iterator, &identifiers[..]) else {
                    return None;
                };
                let selection = self.selection(selection);
                let [from, to] = *self.values([from, to]);
                self.bound.push(name);
                let body = self.truth(body);
                self.bound.pop();
                Term::OfNumbers(selection, Box::new([from, to, body]))
            }
            Kind::ForRules { selection, set } => {
                let chosen = |(name, _): &(&&str, &u32)| chooses(&set.elements, name);
                let rules: Box<[u32]> = self.rules.iter().filter(chosen).map(|(_, number)| *number).collect();
                self.asked.extend(&rules);
                Term::OfRules(self.selection(selection), rules)
            }
            _ => return None,
        })
    }

    fn selection(&mut self, selection: &'b ForSelection) -> Selection {
        match selection {
            ForSelection::Any => Selection::AtLeast(Box::new(Term::Integer(1))),
            ForSelection::All => Selection::All,
            ForSelection::None => Selection::None,
            ForSelection::Expr { expr, as_percent: false } => Selection::AtLeast(self.boxed(expr)),
            ForSelection::Expr { expr, as_percent: true } => Selection::Percent(self.boxed(expr)),
        }
    }

    fn which(&self, name: &str) -> Option<Which> {
        if name.is_empty() {
            return Some(Which::Current);
        }
        let index = self.strings.iter().position(|string| *string == name)?;
        Some(Which::Number(self.first.checked_add(u32::try_from(index).ok()?)?))
    }

    fn set(&self, elements: &[SetElement]) -> Option<Box<[u32]>> {
        let chosen = |name: &&str| elements.is_empty() || chooses(elements, name);
        let numbers = self.strings.iter().zip(self.first..).filter(|(name, _)| chosen(name));
        let numbers: Box<[u32]> = numbers.map(|(_, number)| number).collect();
        (!numbers.is_empty()).then_some(numbers)
    }
}

fn chooses(elements: &[SetElement], name: &str) -> bool {
    elements.iter().any(
        |one| {
            if one.is_wildcard { name.starts_with(one.name.as_str()) } else { name == one.name }
        },
    )
}

/// Whether something is said of the region that is scanned.
fn asks_for_region(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Filesize
            | Kind::Entrypoint
            | Kind::ReadInteger { .. }
            | Kind::Count(_)
            | Kind::CountInRange { .. }
            | Kind::Offset { .. }
            | Kind::Length { .. }
            | Kind::Variable(_)
            | Kind::VariableAt { .. }
            | Kind::VariableIn { .. }
            | Kind::For { .. }
            | Kind::ForIn { .. }
            | Kind::ForAt { .. }
            | Kind::ForRules { .. }
    )
}
