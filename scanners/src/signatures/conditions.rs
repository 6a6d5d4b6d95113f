//! What conditions of rules ask of a region besides which strings match where in it.
//!
//! *Does*: says what a set of rules can be told without the whole region: whether a region without a match can have a verdict other
//! than none, whether modules take programs apart, whether a file can be judged by parts of it, and where its size is asked for.
//! *Never*: promises what it has not understood: what it cannot decide counts as asking.

use boreal_parser::expression::{
    Expression, ExpressionKind as Kind, ForIterator, ForSelection, Identifier, IdentifierOperationType,
};
use boreal_parser::file::{YaraFile, YaraFileComponent};
use boreal_parser::rule::Rule;
use std::collections::HashSet;
use std::ops::Range;

/// Modules that never look at a region by themselves.
const PLAIN_MODULES: [&str; 5] = ["console", "hash", "math", "string", "time"];
/// Of these, those that say nothing of its bytes.
const BLIND_MODULES: [&str; 3] = ["console", "string", "time"];
/// Functions of `math` that count in all of a file where they are given no range; over fragments they have no value.
const WHOLE_FUNCTIONS: [&str; 3] = ["count", "mode", "percentage"];
/// Stands for `filesize` where a file is judged by fragments, which the engine gives no size.
pub(super) const FILE_SIZE: &str = "lynceus_filesize";

/// What all conditions of some rules ask for together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Asked {
    /// A rule may hold where no string matches.
    pub(super) of_nothing: bool,
    /// Where programs are is looked into, beginning with their first bytes.
    pub(super) of_programs: bool,
    /// Something is said of a file only where the engine has all of it in one piece.
    pub(super) of_whole_files: bool,
    /// The size of a file.
    pub(super) of_sizes: bool,
    /// Bytes, besides which strings match where.
    pub(super) of_bytes: bool,
}

impl Asked {
    /// By these rule files.
    pub(super) fn by<'f>(files: impl Iterator<Item = &'f YaraFile>) -> Asked {
        let mut asked = Asked::default();
        for file in files {
            asked.of_nothing |= !is_quiet(file);
            asked.of_programs |= file.components.iter().any(|one| imports_beside(one, &PLAIN_MODULES));
            asked.of_bytes |= file.components.iter().any(|one| imports_beside(one, &BLIND_MODULES));
            for rule in rules(file) {
                each(&rule.condition, &mut |one| {
                    asked.of_programs |= matches!(one.expr, Kind::Entrypoint);
                    asked.of_whole_files |= matches!(&one.expr, Kind::Identifier(name) if wants_whole(name));
                    asked.of_sizes |= matches!(one.expr, Kind::Filesize);
                    asked.of_bytes |= matches!(one.expr, Kind::ReadInteger { .. } | Kind::Entrypoint);
                });
            }
        }
        asked
    }
}

/// A rule file's text with [`FILE_SIZE`] for every `filesize`; none where that cannot be done for sure.
pub(super) fn with_sizes_told(text: &str) -> Option<String> {
    if text.contains(FILE_SIZE) {
        return None;
    }
    let file = boreal_parser::parse(text).ok()?;
    let mut sizes: Vec<Range<usize>> = Vec::new();
    for rule in rules(&file) {
        each(&rule.condition, &mut |one| {
            if matches!(one.expr, Kind::Filesize) {
                sizes.push(one.span.clone());
            }
        });
    }
    sizes.sort_by_key(|span| span.start);
    let (mut told, mut done) = (String::with_capacity(text.len()), 0);
    for span in sizes {
        told.push_str(text.get(done..span.start)?);
        if text.get(span.clone())? != "filesize" {
            return None;
        }
        told.push_str(FILE_SIZE);
        done = span.end;
    }
    told.push_str(text.get(done..)?);
    Some(told)
}

/// The rules of a file, without its imports and includes.
pub(super) fn rules(file: &YaraFile) -> impl Iterator<Item = &Rule> {
    file.components.iter().filter_map(|component| match component {
        YaraFileComponent::Rule(rule) => Some(&**rule),
        _ => None,
    })
}

fn imports_beside(component: &YaraFileComponent, modules: &[&str]) -> bool {
    matches!(component, YaraFileComponent::Import(import) if !modules.contains(&import.name.as_str()))
}

fn wants_whole(name: &Identifier) -> bool {
    let is_whole = |one: &IdentifierOperationType| matches!(one, IdentifierOperationType::Subfield(field) if WHOLE_FUNCTIONS.contains(&field.as_str()));
    name.operations.iter().any(|operation| is_whole(&operation.op))
}

/// Whether no rule of a file holds where none of its strings match.
fn is_quiet(file: &YaraFile) -> bool {
    let mut quiet = HashSet::new();
    rules(file).all(|rule| {
        let is_quiet = unmatched(&rule.condition, &quiet) == Some(false);
        if is_quiet {
            quiet.insert(rule.name.as_str());
        }
        is_quiet || rule.is_private
    })
}

/// What a condition is where no string matches; none if that depends on something else.
fn unmatched(condition: &Expression, quiet: &HashSet<&str>) -> Option<bool> {
    match &condition.expr {
        Kind::Boolean(truth) => Some(*truth),
        Kind::Variable(_) | Kind::VariableAt { .. } | Kind::VariableIn { .. } => Some(false),
        Kind::And(all) => {
            let mut truths = all.iter().map(|one| unmatched(one, quiet));
            if truths.clone().any(|truth| truth == Some(false)) {
                return Some(false);
            }
            truths.all(|truth| truth == Some(true)).then_some(true)
        }
        Kind::Or(all) => {
            let mut truths = all.iter().map(|one| unmatched(one, quiet));
            if truths.clone().any(|truth| truth == Some(true)) {
                return Some(true);
            }
            truths.all(|truth| truth == Some(false)).then_some(false)
        }
        // Of anything else the opposite of what has no value has none.
        Kind::Not(one) => matches!(one.expr, Kind::Variable(_)).then_some(true),
        Kind::For { selection, body, .. } => {
            let body = body.as_ref().map_or(Some(false), |body| unmatched(body, quiet));
            if body == Some(false) { of_none(selection) } else { None }
        }
        Kind::ForIn { selection, .. } | Kind::ForAt { selection, .. } => of_none(selection),
        Kind::Identifier(name) if name.operations.is_empty() && quiet.contains(name.name.as_str()) => {
            Some(false)
        }
        _ => None,
    }
}

/// Whether a selection is content with none of a set that is not empty.
fn of_none(selection: &ForSelection) -> Option<bool> {
    match selection {
        ForSelection::None => Some(true),
        ForSelection::Any | ForSelection::All => Some(false),
        ForSelection::Expr { expr, as_percent: false } => match &expr.expr {
            Kind::Integer(count) => Some(*count <= 0),
            _ => None,
        },
        ForSelection::Expr { .. } => None,
    }
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

    fn asked(text: &str) -> Asked {
        Asked::by([boreal_parser::parse(text).expect("rules")].iter())
    }

    fn rule(condition: &str) -> String {
        format!("rule r {{ strings: $a = \"abc\" $b = \"def\" condition: {condition} }}")
    }

    #[test]
    fn rules_are_quiet_where_they_want_a_match() {
        let quiet = [
            "$a",
            "any of them",
            "2 of them",
            "$a at 0 or $b in (0..10)",
            "uint16(0) == 0x5a4d and all of them",
            "for any of them : ($ at 0)",
            "any of them in (0..100)",
            "not $a and $b",
            "false",
        ];
        for condition in quiet {
            assert!(!asked(&rule(condition)).of_nothing, "{condition}");
        }
        let loud = [
            "not $a",
            "not $a or $b",
            "none of them",
            "0 of them",
            "1% of them",
            "#a == 0",
            "$a or filesize < 10",
            "not (not ($a at uint32(0)) or $b)",
            "for all of them : (not $)",
            "for any i in (1..2) : ($a or i == 1)",
            "true or $a",
        ];
        for condition in loud {
            assert!(asked(&rule(condition)).of_nothing, "{condition}");
        }
        let quiet = "rule one { strings: $a = \"abc\" condition: $a } rule other { condition: one }";
        assert!(!asked(quiet).of_nothing);
        let loud = "private rule one { condition: true } rule other { condition: one }";
        assert!(asked(loud).of_nothing);
        assert!(!asked("private rule one { condition: true }").of_nothing, "what is private is not told");
    }

    #[test]
    fn what_takes_programs_apart_or_wants_all_of_a_file_is_found() {
        assert!(!asked(&rule("$a")).of_programs);
        assert!(!asked(&format!("import \"math\" {}", rule("$a"))).of_programs);
        assert!(asked(&format!("import \"elf\" {}", rule("$a"))).of_programs);
        assert!(asked(&rule("$a at entrypoint")).of_programs);
        let math = |condition: &str| asked(&format!("import \"math\" {}", rule(condition))).of_whole_files;
        assert!(!math("math.entropy(0, filesize) > 1.0"));
        assert!(math("$a and (math.count(1) > 2 or $b)"));
        assert!(math("for any i in (math.mode()..10) : (@a[i] > 1)"));
    }

    #[test]
    fn sizes_are_told_by_another_name() {
        let text = "rule r { meta: a = \"filesize\" strings: $a = \"filesize\" // filesize\n condition: $a at filesize - 10 and (filesize<10KB or uint8(filesize) == 1 or for any i in (1..filesize) : ( @a[i] == filesize )) }";
        let told = with_sizes_told(text).expect("a text");
        assert_eq!(told.matches(FILE_SIZE).count(), 5);
        assert!(told.contains("meta: a = \"filesize\" strings: $a = \"filesize\" // filesize\n"));
        assert_eq!(told.replace(FILE_SIZE, "filesize"), text);
        assert!(asked(text).of_sizes && !asked(&told).of_sizes);
        assert_eq!(with_sizes_told(&told), None, "nobody else may use the name");
    }
}
