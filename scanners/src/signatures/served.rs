//! Rules that can never match in a scope, and why: a rule that is silently dead is worse than none.
//!
//! *Does*: reads conditions and finds those that hold only where something is known that a scope does not have. In memory there is
//! no file: no `filesize`, no name, no owner. Nobody tells `filetype` anywhere.
//! *Never*: calls a rule dead that might match. It may miss some that are: what it cannot decide it takes for alive.

use super::conditions::rules;
use boreal_parser::expression::{
    Expression, ExpressionKind as Kind, ForIterator, ForSelection, Identifier, IdentifierOperationType,
};
use boreal_parser::file::YaraFile;
use boreal_parser::rule::Rule;
use serde::Serialize;
use std::collections::HashMap;

/// What only files have, and what nobody tells.
const NAMES: [&str; 4] = ["filename", "filepath", "extension", "owner"];
const UNTOLD: &str = "filetype";

/// A rule that can match in none of these scopes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Unserved {
    /// The rule.
    pub rule: String,
    /// The file that it came from.
    pub namespace: String,
    /// `memory` (processes, the kernel, all RAM) or `files`.
    pub scope: &'static str,
    /// What its condition needs.
    pub needs: String,
}

/// Rules of a namespace that some scopes cannot serve.
pub(super) fn unserved(namespace: &str, file: &YaraFile) -> Vec<Unserved> {
    let rules: Vec<&Rule> = rules(file).collect();
    let mut found = Vec::new();
    for scope in ["memory", "files"] {
        let mut reader = Reader { in_memory: scope == "memory", dead: HashMap::new() };
        // A global rule that cannot match takes all others of its file with it.
        let global = rules.iter().filter(|rule| rule.is_global).find_map(|rule| reader.dead(&rule.condition));
        for rule in &rules {
            let Some(needs) = global.clone().or_else(|| reader.dead(&rule.condition)) else { continue };
            reader.dead.insert(rule.name.clone(), needs.clone());
            if !rule.is_private {
                let (rule, namespace) = (rule.name.clone(), namespace.to_owned());
                found.push(Unserved { rule, namespace, scope, needs });
            }
        }
    }
    found
}

/// Whether a condition asks for the name or owner of a file.
pub(super) fn asks_for_names(text: &str) -> bool {
    NAMES.iter().any(|name| text.contains(name))
}

struct Reader {
    in_memory: bool,
    /// Rules that cannot match, and what they need.
    dead: HashMap<String, String>,
}

impl Reader {
    /// What a condition needs that is not there, so that it never holds.
    fn dead(&self, condition: &Expression) -> Option<String> {
        match &condition.expr {
            Kind::And(all) => all.iter().find_map(|one| self.dead(one)),
            Kind::Or(all) => {
                let mut dead = all.iter().map(|one| self.dead(one));
                let first = dead.next()??;
                dead.all(|one| one.is_some()).then_some(first)
            }
            Kind::Not(_) | Kind::Boolean(_) => None,
            Kind::Eq(left, right) | Kind::IEquals(left, right) => {
                self.unknown(left).or_else(|| self.unknown(right)).or_else(|| self.is_text(left, right))
            }
            Kind::Contains { haystack: text, needle: part, .. }
            | Kind::StartsWith { expr: text, prefix: part, .. }
            | Kind::EndsWith { expr: text, suffix: part, .. } => self.is_text(text, part),
            Kind::Matches(text, _) => self.empty(text),
            Kind::Identifier(name) if name.operations.is_empty() => self.dead.get(&name.name).cloned(),
            Kind::For { selection, body: Some(body), .. } if wants_some(selection) => self.dead(body),
            Kind::ForIdentifiers { selection, iterator, body, .. } if wants_some(selection) => {
                self.unknown_iterator(iterator).or_else(|| self.dead(body))
            }
            Kind::For { .. } | Kind::ForIdentifiers { .. } | Kind::ForIn { .. } | Kind::ForAt { .. } => None,
            _ => self.unknown(condition),
        }
    }

    /// What a value needs to be one. A comparison with an undefined value does not hold.
    fn unknown(&self, value: &Expression) -> Option<String> {
        let two = |a, b| self.unknown(a).or_else(|| self.unknown(b));
        match &value.expr {
            Kind::Filesize if self.in_memory => Some("filesize".to_owned()),
            Kind::Neg(one) | Kind::BitwiseNot(one) | Kind::Defined(one) => self.unknown(one),
            Kind::ReadInteger { addr, .. } => self.unknown(addr),
            Kind::Offset { occurence_number: one, .. } | Kind::Length { occurence_number: one, .. } => {
                self.unknown(one)
            }
            Kind::VariableAt { offset, .. } => self.unknown(offset),
            Kind::CountInRange { from, to, .. } | Kind::VariableIn { from, to, .. } => two(from, to),
            Kind::Add(a, b)
            | Kind::Sub(a, b)
            | Kind::Mul(a, b)
            | Kind::Div(a, b)
            | Kind::Mod(a, b)
            | Kind::BitwiseXor(a, b)
            | Kind::BitwiseAnd(a, b)
            | Kind::BitwiseOr(a, b)
            | Kind::ShiftLeft(a, b)
            | Kind::ShiftRight(a, b)
            | Kind::NotEq(a, b)
            | Kind::Cmp { left: a, right: b, .. } => two(a, b),
            Kind::Identifier(name) => self.unknown_argument(name),
            _ => None,
        }
    }

    fn unknown_argument(&self, name: &Identifier) -> Option<String> {
        name.operations.iter().find_map(|operation| match &operation.op {
            IdentifierOperationType::FunctionCall(arguments) => {
                arguments.iter().find_map(|argument| self.unknown(argument))
            }
            IdentifierOperationType::Subscript(index) => self.unknown(index),
            IdentifierOperationType::Subfield(_) => None,
        })
    }

    fn unknown_iterator(&self, iterator: &ForIterator) -> Option<String> {
        match iterator {
            ForIterator::Range { from, to } => self.unknown(from).or_else(|| self.unknown(to)),
            _ => None,
        }
    }

    /// A text that is empty here, held against one that is not.
    fn is_text(&self, one: &Expression, other: &Expression) -> Option<String> {
        let full = |text: &Expression| matches!(&text.expr, Kind::Bytes(bytes) if !bytes.is_empty());
        let one_way = |text, known| self.empty(text).filter(|_| full(known));
        one_way(one, other).or_else(|| one_way(other, one))
    }

    /// A text that nobody fills here.
    fn empty(&self, text: &Expression) -> Option<String> {
        let Kind::Identifier(name) = &text.expr else { return None };
        let is_empty = name.name == UNTOLD || (self.in_memory && NAMES.contains(&name.name.as_str()));
        (is_empty && name.operations.is_empty()).then(|| name.name.clone())
    }
}

/// Whether a selection needs one at least for which the body holds.
fn wants_some(selection: &ForSelection) -> bool {
    match selection {
        ForSelection::Any | ForSelection::All => true,
        ForSelection::None => false,
        ForSelection::Expr { expr, .. } => matches!(&expr.expr, Kind::Integer(count) if *count > 0),
    }
}
