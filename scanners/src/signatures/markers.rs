//! What must be there wherever a string matches whose matches may reach far: some bytes of it that lie close together.
//!
//! *Does*: gives a string a shorter one, its marker: where the marker is found nowhere in a region, neither is the string.
//! *Never*: gives a marker that a match can do without. Where none is long enough there is none.

use boreal_parser::hex_string::Token;
use boreal_parser::regex::{Node, RepetitionKind, RepetitionRange};
use boreal_parser::rule::{VariableDeclaration, VariableDeclarationValue as Value, VariableModifiers};
use std::fmt::Write;

/// A shorter marker would be found everywhere.
const MIN_BYTES: usize = 3;
/// A longer one finds nothing less.
const MAX_BYTES: usize = 32;

/// The marker of a string as it stands in a rule, with modifiers.
pub(super) fn marker(string: &VariableDeclaration) -> Option<String> {
    let VariableModifiers { wide, ascii, nocase, xor, base64, .. } = &string.modifiers;
    if xor.is_some() || base64.is_some() {
        return None;
    }
    let mut pieces = Pieces::default();
    let mut any_case = *nocase;
    match &string.value {
        Value::Bytes(bytes) => bytes.iter().for_each(|byte| pieces.byte(*byte)),
        Value::HexString(tokens) => tokens.iter().for_each(|token| match token {
            Token::Byte(byte) => pieces.byte(*byte),
            _ => pieces.end(),
        }),
        Value::Regex(regex) => {
            any_case |= regex.case_insensitive;
            pieces.node(&regex.ast);
        }
    }
    let mut marker = match pieces.best()?.as_slice() {
        [one] => format!("\"{}\"", escaped(one)),
        more => format!("/({})/", more.iter().map(|one| escaped(one)).collect::<Vec<_>>().join("|")),
    };
    for (name, is_set) in [("wide", *wide), ("ascii", *ascii), ("nocase", any_case)] {
        if is_set {
            marker.push(' ');
            marker.push_str(name);
        }
    }
    Some(marker)
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().saturating_mul(4));
    for byte in bytes {
        // Writing into a string does not fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
    text
}

/// Bytes next to each other that every match has; of some pieces one.
#[derive(Default)]
struct Pieces {
    all: Vec<Vec<Vec<u8>>>,
    last: Vec<u8>,
}

impl Pieces {
    fn byte(&mut self, byte: u8) {
        self.last.push(byte);
        if self.last.len() >= MAX_BYTES {
            self.end();
        }
    }

    /// What comes now may be anything, or nothing.
    fn end(&mut self) {
        self.all.push(vec![std::mem::take(&mut self.last)]);
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Literal(literal) => self.byte(literal.byte),
            Node::Concat(all) => all.iter().for_each(|node| self.node(node)),
            Node::Group(node) => self.node(node),
            // It takes no room.
            Node::Assertion(_) | Node::Empty => {}
            Node::Repetition { node, kind, .. } => {
                self.end();
                if is_needed(kind) {
                    self.node(node);
                    self.end();
                }
            }
            Node::Alternation(all) => {
                self.end();
                let best = |node: &Node| {
                    let mut pieces = Pieces::default();
                    pieces.node(node);
                    pieces.best()
                };
                let of_each: Option<Vec<_>> = all.iter().map(best).collect();
                self.all.extend(of_each.map(|of_each| of_each.concat()));
            }
            Node::Class(_) | Node::Dot | Node::Char(_) => self.end(),
        }
    }

    /// The piece with most different bytes, of these the longest; all of one that is several.
    fn best(mut self) -> Option<Vec<Vec<u8>>> {
        self.end();
        let variety = |bytes: &Vec<u8>| {
            let mut bytes = bytes.clone();
            bytes.sort_unstable();
            bytes.dedup();
            bytes.len()
        };
        let is_long = |piece: &Vec<Vec<u8>>| piece.iter().all(|bytes| bytes.len() >= MIN_BYTES);
        let of_poorest = |piece: &Vec<Vec<u8>>| piece.iter().map(|bytes| (variety(bytes), bytes.len())).min();
        self.all.into_iter().filter(is_long).max_by_key(of_poorest)
    }
}

/// Whether there is at least one of what is repeated.
fn is_needed(kind: &RepetitionKind) -> bool {
    use RepetitionRange::{AtLeast, Bounded, Exactly};
    match kind {
        RepetitionKind::ZeroOrOne | RepetitionKind::ZeroOrMore => false,
        RepetitionKind::OneOrMore => true,
        RepetitionKind::Range(Exactly(least) | AtLeast(least) | Bounded(least, _)) => *least > 0,
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;
    use boreal_parser::file::YaraFileComponent;

    #[test]
    fn a_marker_is_what_every_match_has() {
        for (string, expected) in [
            ("{ 01 02 03 [0-9000] 04 05 06 07 ?? 08 }", Some(r#""\x04\x05\x06\x07""#)),
            ("{ 01 02 [-] (03 04 05 06 | 07) }", None),
            ("{ 00 00 00 00 [-] 01 02 03 }", Some(r#""\x01\x02\x03""#)),
            ("/ab(cd)+efgh.*[hi]jkl/ wide", Some(r#""\x65\x66\x67\x68" wide"#)),
            ("/ab(cd)?e.*f/", None),
            ("/(abc|abde)+x*/", Some(r"/(\x61\x62\x63|\x61\x62\x64\x65)/")),
            (
                "/(abc|(bcd|cde)f?|x+defg)x*/ wide",
                Some(r"/(\x61\x62\x63|\x62\x63\x64|\x63\x64\x65|\x64\x65\x66\x67)/ wide"),
            ),
            ("/(abc|ab)x*/", None),
            ("/(abc|)x*/", None),
            ("/(abcd){2,}x*/i ascii wide", Some(r#""\x61\x62\x63\x64" wide ascii nocase"#)),
            ("/(abcd){0,}x*/", None),
            ("/^abc\\bd/ nocase", Some(r#""\x61\x62\x63\x64" nocase"#)),
            ("\"abcd\" xor", None),
            ("\"abcd\" base64", None),
            ("\"abcd\" fullword private", Some(r#""\x61\x62\x63\x64""#)),
        ] {
            let text = format!("rule r {{ strings: $a = {string} condition: $a }}");
            let file = boreal_parser::parse(&text).expect("a rule");
            let YaraFileComponent::Rule(rule) = &file.components[0] else { panic!("a rule") };
            assert_eq!(marker(&rule.variables[0]).as_deref(), expected, "{string}");
        }
        let long = "abcdefghij".repeat(200);
        let text = format!("rule r {{ strings: $a = \"{long}\" condition: $a }}");
        let file = boreal_parser::parse(&text).expect("a rule");
        let YaraFileComponent::Rule(rule) = &file.components[0] else { panic!("a rule") };
        assert_eq!(marker(&rule.variables[0]).map(|marker| marker.len()), Some(2 + 4 * MAX_BYTES));
    }
}
