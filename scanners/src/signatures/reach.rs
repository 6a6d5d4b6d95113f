//! How far a string of a rule can reach: whether a match depends on bytes near its beginning alone.
//!
//! *Never*: gives a number that a match may exceed. What it cannot bound has no bound.

use boreal_parser::hex_string::Token;
use boreal_parser::regex::{AssertionKind, Node, RepetitionKind};
use boreal_parser::rule::{VariableDeclaration, VariableDeclarationValue as Value};

/// Longest match of a string in bytes; none if it has no bound, or depends on where a region begins or ends.
pub(super) fn reach(string: &VariableDeclaration) -> Option<u64> {
    let modifiers = &string.modifiers;
    let bytes = match &string.value {
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::HexString(tokens) => of_tokens(tokens)?,
        Value::Regex(regex) => of_node(&regex.ast)?,
    };
    // Four characters of base64 for three bytes, and those that share bits with what lies around.
    let encoded = if modifiers.base64.is_some() { bytes.checked_mul(2)?.checked_add(8)? } else { bytes };
    // Two bytes a character.
    encoded.checked_mul(2)
}

fn of_tokens(tokens: &[Token]) -> Option<u64> {
    tokens.iter().try_fold(0u64, |sum, token| {
        let longest = match token {
            Token::Jump(jump) => u64::from(jump.to?),
            Token::Alternatives(all) => longest(all.iter().map(|tokens| of_tokens(tokens)))?,
            _ => 1,
        };
        sum.checked_add(longest)
    })
}

fn of_node(node: &Node) -> Option<u64> {
    match node {
        Node::Alternation(all) => longest(all.iter().map(of_node)),
        Node::Assertion(AssertionKind::WordBoundary | AssertionKind::NonWordBoundary) | Node::Empty => {
            Some(0)
        }
        // The beginning or end of a region.
        Node::Assertion(_) => None,
        Node::Literal(_) | Node::Dot => Some(1),
        // In UTF-8.
        Node::Class(_) | Node::Char(_) => Some(4),
        Node::Concat(all) => all.iter().try_fold(0u64, |sum, node| sum.checked_add(of_node(node)?)),
        Node::Group(node) => of_node(node),
        Node::Repetition { node, kind, .. } => {
            let times = match kind {
                RepetitionKind::ZeroOrOne => 1,
                RepetitionKind::Range(range) => most(range)?,
                RepetitionKind::ZeroOrMore | RepetitionKind::OneOrMore => return None,
            };
            of_node(node)?.checked_mul(times)
        }
    }
}

fn most(range: &boreal_parser::regex::RepetitionRange) -> Option<u64> {
    use boreal_parser::regex::RepetitionRange::{AtLeast, Bounded, Exactly};
    match range {
        Exactly(most) | Bounded(_, most) => Some(u64::from(*most)),
        AtLeast(_) => None,
    }
}

fn longest(all: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    all.into_iter().try_fold(0, |longest: u64, one| Some(longest.max(one?)))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;
    use boreal_parser::file::YaraFileComponent;

    fn of(string: &str) -> Option<u64> {
        let text = format!("rule r {{ strings: $a = {string} condition: $a }}");
        let file = boreal_parser::parse(&text).expect("a rule");
        let YaraFileComponent::Rule(rule) = &file.components[0] else { panic!("a rule") };
        reach(&rule.variables[0])
    }

    #[test]
    fn strings_reach_as_far_as_their_longest_match() {
        for (string, expected) in [
            ("\"abc\"", Some(6)),
            ("\"abc\" wide", Some(6)),
            ("{ 01 ?2 [3-7] (04 | 05 06) }", Some(22)),
            ("{ 01 [3-] 02 }", None),
            ("/ab{2,9}c?/", Some(22)),
            ("/ab{2,}/", None),
            ("/ab*/", None),
            ("/^ab/", None),
            ("/(ab|cde$)/", None),
            (r"/\bab{3}\B/", Some(8)),
        ] {
            assert_eq!(of(string), expected, "{string}");
        }
        assert!(of("\"abcdef\" base64").is_some_and(|reach| reach >= 16));
    }
}
