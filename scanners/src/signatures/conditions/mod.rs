//! What conditions of rules ask of a region besides which strings match where in it.
//!
//! *Does*: says what a set of rules can be told without the whole region: whether one of them may hold ([`Conditions`]), which programs
//! modules take apart, and whether a file can be judged by parts of it.
//! *Never*: promises what it has not understood: what it cannot decide counts as asking.

mod asides;
mod decide;
mod evaluate;
mod terms;

pub(super) use decide::{Certain, Conditions, Facts, Uncertain};

use super::rules::EXTERNALS;
use boreal_parser::expression::{
    Expression, ExpressionKind as Kind, ForIterator, ForSelection, Identifier, IdentifierOperationType,
};
use boreal_parser::file::{YaraFile, YaraFileComponent};
use boreal_parser::rule::Rule;
use std::collections::BTreeSet;

/// Modules that take programs apart, and how these begin: PE, ELF, DEX, Mach-O.
const PROGRAM_MODULES: [&str; 5] = ["pe", "dotnet", "elf", "dex", "macho"];
const PE: [&[u8]; 1] = [b"MZ"];
const ELF: [&[u8]; 1] = [b"\x7fELF"];
const DEX: [&[u8]; 1] = [b"dex\n"];
const MACHO: [&[u8]; 7] = [
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"\xca\xfe\xba\xbf",
    b"\xbe\xba\xfe\xca",
];
/// Modules that never look at a region by themselves.
const PLAIN_MODULES: [&str; 5] = ["console", "hash", "math", "string", "time"];
/// Functions of `math` that count in all of a file where they are given no range; over fragments they have no value.
const WHOLE_FUNCTIONS: [&str; 3] = ["count", "mode", "percentage"];

/// What all conditions of some rules ask for together.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Asked {
    /// How programs begin that are taken apart.
    pub(super) magics: Vec<&'static [u8]>,
    /// Something is said of a file only where the engine has all of it in one piece.
    pub(super) of_whole_files: bool,
}

impl Asked {
    /// By these rule files.
    pub(super) fn by<'f>(files: impl Iterator<Item = &'f YaraFile>) -> Asked {
        let mut asked = Asked::default();
        let mut magics: BTreeSet<&'static [u8]> = BTreeSet::new();
        for file in files {
            for component in &file.components {
                if let YaraFileComponent::Import(import) = component {
                    magics.extend(magics_of(&import.name));
                }
            }
            for rule in rules(file) {
                each(&rule.condition, &mut |one| {
                    if matches!(one.expr, Kind::Entrypoint) {
                        magics.extend(PE.iter().chain(&ELF));
                    }
                    asked.of_whole_files |= match &one.expr {
                        Kind::Filesize => true,
                        Kind::Identifier(name) => wants_whole(name),
                        _ => false,
                    };
                });
            }
        }
        asked.magics = magics.into_iter().collect();
        asked
    }
}

/// How what a module takes apart begins; with anything, where the module is not known.
fn magics_of(module: &str) -> &'static [&'static [u8]] {
    match module {
        "pe" | "dotnet" => &PE,
        "elf" => &ELF,
        "dex" => &DEX,
        "macho" => &MACHO,
        _ if PLAIN_MODULES.contains(&module) => &[],
        _ => &[b""],
    }
}

/// The rules of a file, without its imports and includes.
pub(super) fn rules(file: &YaraFile) -> impl Iterator<Item = &Rule> {
    file.components.iter().filter_map(|component| match component {
        YaraFileComponent::Rule(rule) => Some(&**rule),
        _ => None,
    })
}

fn wants_whole(name: &Identifier) -> bool {
    let is_whole = |one: &IdentifierOperationType| matches!(one, IdentifierOperationType::Subfield(field) if WHOLE_FUNCTIONS.contains(&field.as_str()));
    name.operations.iter().any(|operation| is_whole(&operation.op))
}

/// Visits an expression and all that it is made of.
fn each<'e>(expression: &'e Expression, visit: &mut dyn FnMut(&'e Expression)) {
    visit(expression);
    for part in parts(&expression.expr) {
        each(part, visit);
    }
}

fn parts(kind: &Kind) -> Vec<&Expression> {
    match kind {
        Kind::Filesize
        | Kind::Entrypoint
        | Kind::Integer(_)
        | Kind::Double(_)
        | Kind::Count(_)
        | Kind::Boolean(_)
        | Kind::Variable(_)
        | Kind::Bytes(_)
        | Kind::Regex(_) => Vec::new(),
        Kind::ReadInteger { addr: one, .. }
        | Kind::Offset { occurence_number: one, .. }
        | Kind::Length { occurence_number: one, .. }
        | Kind::Neg(one)
        | Kind::BitwiseNot(one)
        | Kind::Not(one)
        | Kind::Matches(one, _)
        | Kind::Defined(one)
        | Kind::VariableAt { offset: one, .. } => vec![one],
        Kind::Add(one, other)
        | Kind::Sub(one, other)
        | Kind::Mul(one, other)
        | Kind::Div(one, other)
        | Kind::Mod(one, other)
        | Kind::BitwiseXor(one, other)
        | Kind::BitwiseAnd(one, other)
        | Kind::BitwiseOr(one, other)
        | Kind::ShiftLeft(one, other)
        | Kind::ShiftRight(one, other)
        | Kind::Eq(one, other)
        | Kind::NotEq(one, other)
        | Kind::IEquals(one, other)
        | Kind::Cmp { left: one, right: other, .. }
        | Kind::Contains { haystack: one, needle: other, .. }
        | Kind::StartsWith { expr: one, prefix: other, .. }
        | Kind::EndsWith { expr: one, suffix: other, .. }
        | Kind::CountInRange { from: one, to: other, .. }
        | Kind::VariableIn { from: one, to: other, .. } => vec![one, other],
        Kind::And(all) | Kind::Or(all) => all.iter().collect(),
        Kind::For { selection, body, .. } => of_selection(selection).chain(body.as_deref()).collect(),
        Kind::ForIn { selection, from, to, .. } => of_selection(selection).chain([&**from, &**to]).collect(),
        Kind::ForAt { selection, offset, .. } => of_selection(selection).chain([&**offset]).collect(),
        Kind::ForIdentifiers { selection, iterator, body, .. } => {
            of_selection(selection).chain(of_iterator(iterator)).chain([&**body]).collect()
        }
        Kind::ForRules { selection, .. } => of_selection(selection).collect(),
        Kind::Identifier(name) => of_name(name).collect(),
    }
}

fn of_selection(selection: &ForSelection) -> impl Iterator<Item = &Expression> {
    let count = if let ForSelection::Expr { expr, .. } = selection { Some(&**expr) } else { None };
    count.into_iter()
}

fn of_iterator(iterator: &ForIterator) -> Vec<&Expression> {
    match iterator {
        ForIterator::Identifier(name) => of_name(name).collect(),
        ForIterator::Range { from, to } => vec![from, to],
        ForIterator::List(all) => all.iter().collect(),
    }
}

fn of_name(name: &Identifier) -> impl Iterator<Item = &Expression> {
    name.operations.iter().flat_map(|operation| match &operation.op {
        IdentifierOperationType::Subscript(index) => std::slice::from_ref(&**index),
        IdentifierOperationType::Subfield(_) => &[],
        IdentifierOperationType::FunctionCall(arguments) => arguments,
    })
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::signatures::engine::Externals;

    fn asked(text: &str) -> Asked {
        Asked::by([boreal_parser::parse(text).expect("rules")].iter())
    }

    fn rule(condition: &str) -> String {
        format!("rule r {{ strings: $a = \"abc\" $b = \"def\" condition: {condition} }}")
    }

    /// Whether a rule may hold where nothing matches and nothing else is known, in memory and in a file.
    fn is_loud(text: &str) -> [bool; 2] {
        let file = boreal_parser::parse(text).expect("rules");
        let conditions = Conditions::new(&[(text, file)], &Certain, Vec::new());
        let names = Externals::default();
        [None, Some((9000, &names))]
            .map(|file| conditions.may_match(&Facts { places: &[], uncertain: &Certain, heads: None, file }))
    }

    #[test]
    fn rules_that_want_a_match_hold_nowhere_without_one() {
        let quiet = [
            "$a",
            "any of them",
            "2 of them",
            "1% of them",
            "$a at 0 or $b in (0..10)",
            "$a at uint32(0)",
            "not (not ($a at uint32(0)) or uint8(0) == 1) and $b",
            "uint16(0) == 0x5a4d and all of them",
            "for any of them : ($ at 0)",
            "any of them in (0..100)",
            "for any i in (1..#a) : (uint8(@a[i] + 4) == 7)",
            "for any i in (1..uint8(0)) : ($a at i)",
            "not $a and $b",
            "#a > #b",
            "uint32(@a + 0x13b) == 7",
            "filesize < 10",
            "pe.number_of_sections == 3",
            "not pe.is_pe and $a",
            "pe.is_pe or elf.type == 2",
            "for any s in pe.sections : (s.name == \"x\")",
            "filename == \"x\" or filepath matches /x$/",
            "false",
        ];
        let rule = |condition: &str| format!("import \"pe\" import \"elf\" {}", rule(condition));
        for condition in quiet {
            assert_eq!(is_loud(&rule(condition)), [false; 2], "{condition}");
        }
        let loud = [
            "not $a",
            "not $a or $b",
            "none of them",
            "0 of them",
            "#a == 0",
            "not (not ($a at uint32(0)) or $b)",
            "for all of them : (not $)",
            "for any i in (1..2) : ($a or i == 1)",
            "uint16(0) == 0x5a4d",
            "not pe.is_pe",
            "not filename matches /x/",
            "math.entropy(0, 10) > 1.0",
            "true or $a",
        ];
        for condition in loud {
            let text = format!("import \"math\" {}", rule(condition));
            assert_eq!(is_loud(&text), [true; 2], "{condition}");
        }
        assert_eq!(is_loud(&rule("$a or filesize < 9001")), [false, true]);
        assert_eq!(is_loud(&rule("not defined filesize")), [true, false]);
        let quiet = "rule one { strings: $a = \"abc\" condition: $a } rule other { condition: one }";
        assert_eq!(is_loud(quiet), [false; 2]);
        let loud = "private rule one { condition: true } rule other { condition: one }";
        assert_eq!(is_loud(loud), [true; 2]);
        assert_eq!(
            is_loud("private rule one { condition: true }"),
            [false; 2],
            "what is private is not told"
        );
    }

    #[test]
    fn what_takes_programs_apart_or_wants_all_of_a_file_is_found() {
        assert!(asked(&rule("$a")).magics.is_empty());
        assert!(asked(&format!("import \"math\" {}", rule("$a"))).magics.is_empty());
        assert_eq!(asked(&format!("import \"elf\" {}", rule("$a"))).magics, ELF);
        assert_eq!(asked(&rule("$a at entrypoint")).magics.len(), 2);
        let math = |condition: &str| asked(&format!("import \"math\" {}", rule(condition))).of_whole_files;
        assert!(!math("math.entropy(0, 1000) > 1.0"));
        assert!(math("$a at filesize - 10"));
        assert!(math("$a and (math.count(1) > 2 or $b)"));
        assert!(math("for any i in (math.mode()..10) : (@a[i] > 1)"));
    }
}
