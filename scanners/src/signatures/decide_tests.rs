//! What is said of a region by its matches and its first bytes is what the engine says of the whole of it, for conditions of all kinds.

use super::Rules;
use super::cache::ScanCache;
use super::conditions::rules as rules_in;
use super::rescan_tests::{PIECES, Region, Scanner};
use boreal_parser::hex_string::Token;
use boreal_parser::rule::VariableDeclarationValue as Value;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

const PAGE: usize = 4096;

/// Conditions over four strings and another rule: what is said of strings, bytes, sizes, programs, names and rules.
const LEAVES: &[&str] = &[
    "$a",
    "$b",
    "$c",
    "$d",
    "#a > 1",
    "#b == 1",
    "#b * 2 - #a >= 0",
    "@a[1] < @b[1]",
    "@a[2] > 5000",
    "@a + 10 == @b",
    "!c[1] > 4",
    "!b[1] == 4",
    "$a at 0",
    "$b at @a[1] + 5",
    "$b in (0..4096)",
    "$a in (#b..filesize)",
    "uint16(0) == 0x6c61",
    "uint32be(0) == 0x616c7068",
    "int8(3) < 0",
    "int16be(0) > 24940",
    "uint8(@a[1] + 1) == 0x6c",
    "uint32(uint8(0)) == 0",
    "uint8(5000) == 0",
    "uint8(-1) == 0",
    "uint16(filesize - 2) == 0",
    "filesize > 8000",
    "filesize < 9000",
    "defined filesize",
    "any of them",
    "all of them",
    "none of them",
    "2 of ($a, $b)",
    "all of ($a*)",
    "none of ($b)",
    "60% of them",
    "#a of them",
    "any of them in (0..9000)",
    "any of ($a, $b) at 0",
    "#a in (0..5000) > 1",
    "for any of them : ($ in (100..9000))",
    "for all of ($a, $b) : (# > 1)",
    "for 2 of them : (@ < 60000)",
    "for any i in (1..#a) : (@a[i] > 4000)",
    "for all i in (1..2) : (uint8(i) == 0x6c)",
    "for none i in (0..3) : (uint8(i) == 0)",
    "for 2 i in (1..3) : (i > 1 and $a)",
    "for any i in (1..2) : (for any j in (1..2) : (i + j == #b))",
    "for any i in (0..pe.number_of_sections) : (pe.sections[i].name == \"x\")",
    "for any s in elf.sections : (s.name == \"x\")",
    "pe.is_pe",
    "pe.is_pe == 0",
    "pe.number_of_sections > 3",
    "pe.imphash() == \"x\"",
    "pe.exports(\"x\")",
    "elf.type == 2",
    "elf.machine == elf.EM_X86_64",
    "defined pe.machine",
    "filename == \"\"",
    "filename matches /^x/",
    "extension != \"so\"",
    "filename == \"\" and elf.type == 2",
    "entrypoint == 3",
    "math.entropy(0, 100) > 1.0",
    "1.5 < #a",
    "other",
    "any of (oth*)",
    "not other and $a",
    "1 \\ #c == 1",
    "7 % #b == 1",
    "(#a << 3) + 1 > 8",
    "(#a >> 70) == 0",
    "~#a == -1",
    "-#b < 0",
    "(#a ^ 1) & 3 | 4 == 5",
    "true",
    "false",
    "0 of them",
    "#c",
    "uint8(0) and $a",
];

fn condition() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(LEAVES).prop_map(str::to_owned);
    leaf.prop_recursive(4, 12, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|one| format!("not ({one})")),
            two.clone().prop_map(|(one, other)| format!("({one}) and ({other})")),
            two.prop_map(|(one, other)| format!("({one}) or ({other})")),
        ]
    })
}

fn rules(conditions: &[String], far: bool) -> String {
    // With a marker, and without one.
    let (c, d) = if far {
        ("{ 7a 65 74 61 [0-9000] 65 74 61 }", "/[km]u?[ap]+/")
    } else {
        ("\"zeta\"", "/mu.{1,9}nu/")
    };
    let strings = format!("strings: $a = \"alpha\" $b = \"beta\" $c = {c} $d = {d}");
    let mut text = "import \"pe\" import \"elf\" import \"math\"\nprivate rule other { strings: $o = \"gamma\" condition: $o }\n".to_owned();
    for (number, condition) in conditions.iter().enumerate() {
        // Every string must be used.
        text.push_str(&format!(
            "rule r{number} {{ {strings} condition: ({condition}) and ($a or $b or $c or $d or true) }}\n"
        ));
    }
    text
}

#[test]
fn decisions_are_those_of_the_engine() {
    let (silent, clean) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let config = ProptestConfig { failure_persistence: None, cases: 160, ..ProptestConfig::default() };
    let place = prop_oneof![Just(0), 0..40 * PAGE, Just(4), Just(5), (0..3 * PAGE)];
    let writes = prop::collection::vec((place, 0..PIECES.len()), 0..12);
    let regions = prop::collection::vec((writes, any::<bool>(), prop::option::of(0..40usize)), 1..8);
    let input = (prop::collection::vec(condition(), 1..4), any::<bool>(), regions);
    let result = proptest::test_runner::TestRunner::new(config).run(&input, |(conditions, far, regions)| {
        let mut scanner = Scanner::new(&rules(&conditions, far));
        let cache = ScanCache::new(1 << 20).expect("random numbers");
        for (writes, is_file, hole) in regions {
            let region = Region::new(hole.as_slice(), 0);
            let mut region = if is_file { region.of_file(100) } else { region };
            writes.iter().for_each(|(at, piece)| region.write(*at, *piece));
            let full = scanner.scan(&region, None);
            let before = scanner.by_silence;
            prop_assert_eq!(&scanner.scan(&region, Some(&cache)), &full);
            clean.set(clean.get() + usize::from(full.hits.is_empty()));
            silent.set(silent.get() + scanner.by_silence - before);
        }
        Ok(())
    });
    result.expect("equal verdicts");
    let (silent, clean) = (silent.get(), clean.get());
    assert!(clean > 50 && silent * 3 > clean * 2, "{silent} of {clean} were decided");
}

/// Numbers that are the same in every run.
fn numbers() -> impl FnMut() -> usize {
    let mut state = 7usize;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 24
    }
}

/// Each kind of condition by itself, so that none is left to chance.
#[test]
fn every_kind_of_condition_is_decided_as_by_the_engine() {
    let mut undecided = Vec::new();
    for leaf in LEAVES {
        for far in [false, true] {
            let text = rules(&[(*leaf).to_owned(), format!("not ({leaf})")], far);
            let mut scanner = Scanner::new(&text);
            let cache = ScanCache::new(1 << 20).expect("random numbers");
            let mut next = numbers();
            for round in 0..12 {
                let region = Region::new(if round % 3 == 0 { &[2] } else { &[] }, 0);
                let mut region = if round % 2 == 0 { region.of_file(100) } else { region };
                for _ in 0..round {
                    let at = if next().is_multiple_of(4) { 0 } else { next() % (4 * PAGE) };
                    region.write(at, next() % PIECES.len());
                }
                let full = scanner.scan(&region, None);
                assert_eq!(scanner.scan(&region, Some(&cache)), full, "{leaf}");
            }
        }
        // Of a condition by itself, over nothing but zeros.
        let mut scanner = Scanner::new(&rules(&[(*leaf).to_owned()], false));
        let cache = ScanCache::new(1 << 20).expect("random numbers");
        let region = Region::new(&[], 0);
        let full = scanner.scan(&region, None);
        assert_eq!(scanner.scan(&region, Some(&cache)), full, "{leaf}");
        if full.hits.is_empty() && scanner.by_silence == 0 {
            undecided.push(*leaf);
        }
    }
    assert_eq!(undecided, ["entrypoint == 3", "math.entropy(0, 100) > 1.0", "1.5 < #a"]);
}

/// Bytes that strings of each rule match, as far as they are told without a choice.
fn strings_below(path: &Path, found: &mut Vec<Vec<Vec<u8>>>) {
    if path.is_dir() {
        let mut inner: Vec<PathBuf> =
            path.read_dir().expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        inner.sort();
        return inner.iter().for_each(|path| strings_below(path, found));
    }
    let text = String::from_utf8_lossy(&std::fs::read(path).expect("a file")).into_owned();
    let Ok(file) = boreal_parser::parse(&text) else { return };
    found.extend(rules_in(&file).map(|rule| {
        let bytes = |value: &Value| match value {
            Value::Bytes(bytes) => Some(bytes.clone()),
            Value::HexString(tokens) => {
                let byte = |token: &Token| if let Token::Byte(byte) = token { *byte } else { b'.' };
                Some(tokens.iter().map(byte).collect())
            }
            Value::Regex(_) => None,
        };
        rule.variables.iter().filter_map(|string| bytes(&string.value)).collect()
    }));
}

/// Rules from the field over regions and files with what their strings match, written to again and again.
#[test]
fn field_rules_are_decided_as_by_the_engine() {
    let Some(field) = std::env::var_os("LYNCEUS_FIELD_RULES") else {
        eprintln!("SKIPPED: field rule sets. LYNCEUS_FIELD_RULES names none.");
        return;
    };
    for path in std::env::split_paths(&field) {
        let mut strings = Vec::new();
        strings_below(&path, &mut strings);
        let mut scanner = Scanner::of(Rules::load(std::slice::from_ref(&path)).expect("rules"));
        let (mut next, mut hits, mut clean) = (numbers(), 0, 0);
        for round in 0..400 {
            let cache = ScanCache::new(1 << 20).expect("random numbers");
            let region = Region::new(if round % 3 == 0 { &[2] } else { &[] }, 0);
            let mut region = if round % 2 == 0 { region.of_file(100) } else { region };
            let head: &[u8] =
                [b"MZ".as_slice(), b"\x7fELF\x02\x01\x01", b"PK\x03\x04", b"<?php ", b""][round % 5];
            region.bytes[..head.len()].copy_from_slice(head);
            for _ in 0..3 {
                for string in &strings[next() % strings.len()] {
                    let at = next() % (38 * PAGE);
                    let len = string.len().min(PAGE);
                    // Not all of them.
                    if !next().is_multiple_of(8) {
                        region.bytes[at..at + len].copy_from_slice(&string[..len]);
                    }
                }
                let full = scanner.scan(&region, None);
                assert_eq!(scanner.scan(&region, Some(&cache)), full, "round {round}");
                hits += full.hits.len();
                clean += usize::from(full.hits.is_empty());
            }
        }
        let silent = scanner.by_silence;
        println!("{}: {hits} matches, {silent} of {clean} without one decided", path.display());
        assert!(hits > 300 && silent > 0);
    }
}
