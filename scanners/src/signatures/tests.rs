//! Rule files, sound and broken, and what is told of a rule.

use super::*;
use crate::Severity;
use lynceus_introspect::{Gpa, GpaRange, GuestMemory, ReadError};
use std::fs;
use std::path::{Path, PathBuf};

const GOOD: &str = r#"rule good : tag { meta: severity = "medium" strings: $a = "needle" condition: $a }"#;

/// A folder with these files, and the one in it that is called `rules`.
pub(super) fn folder(files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("its folder");
        fs::write(path, content).expect("a file");
    }
    let rules = folder.path().join("rules");
    (folder, rules)
}

fn load(path: &Path) -> Result<Rules, RulesError> {
    Rules::load(&[path.to_owned()])
}

#[test]
fn a_folder_gives_the_rules_of_all_its_files() {
    let (_folder, rules) = folder(&[
        ("rules/one.yar", GOOD.as_bytes()),
        ("rules/deep/one.yara", GOOD.as_bytes()),
        ("rules/readme.md", b"# not rules"),
        ("rules/latin.yar", b"rule latin { meta: author = \"M\xfcller\" condition: false }"),
        (
            "rules/file.yar",
            b"rule file { condition: filename == \"x\" or extension == \"exe\" or owner == \"root\" }",
        ),
    ]);
    let rules = load(&rules).expect("rules");
    assert_eq!((rules.files(), rules.len(), rules.bad()), (4, 4, &[][..]));
}

#[test]
fn a_broken_file_is_named_with_its_line_and_the_others_load() {
    let (_folder, rules) = folder(&[
        ("rules/good.yar", GOOD.as_bytes()),
        ("rules/bad.yar", b"rule half { condition: true }\n\nrule bad { condition: $missing }\n"),
        ("rules/twice.yar", b"rule a { condition: true } rule a { condition: true }"),
    ]);
    let rules = load(&rules).expect("rules");
    assert_eq!((rules.files(), rules.len()), (1, 1), "nothing of a broken file is used");
    let bad: Vec<_> =
        rules.bad().iter().map(|bad| (bad.path.file_name().unwrap().to_str().unwrap(), &bad.why)).collect();
    assert_eq!(bad.len(), 2);
    assert!(bad[0].0 == "bad.yar" && bad[0].1.starts_with("3:"), "{bad:?}");
    assert!(bad[1].0 == "twice.yar", "{bad:?}");
}

#[test]
fn includes_stay_in_the_folder() {
    let (_folder, rules) = folder(&[
        ("rules/main.yar", b"include \"parts/part.yar\""),
        ("rules/parts/part.yar", GOOD.as_bytes()),
        ("rules/escape.yar", b"include \"../secret.yar\""),
        ("rules/absolute.yar", b"include \"/etc/passwd\""),
        ("secret.yar", GOOD.as_bytes()),
    ]);
    let rules = load(&rules).expect("rules");
    assert_eq!(rules.files(), 2);
    assert_eq!(rules.bad().len(), 2);
    assert!(rules.bad().iter().all(|bad| bad.why.contains("leaves the folder")), "{:?}", rules.bad());
}

#[test]
fn what_gives_no_rules_says_why() {
    let (_folder, rules) = folder(&[("rules/readme.md", b"# nothing")]);
    assert!(matches!(load(&rules), Err(RulesError::None(_))));
    assert!(matches!(load(Path::new("/nowhere/at/all")), Err(RulesError::Io { .. })));
    let (_folder, rules) = folder(&[("rules/bad.yar", b"rule {")]);
    assert!(matches!(load(&rules), Err(RulesError::AllBad(_))));
}

#[test]
fn severities_are_words_or_numbers() {
    let told = [
        (Some("low"), Severity::Low),
        (Some("Critical"), Severity::Critical),
        (Some("100"), Severity::Critical),
        (Some("75"), Severity::High),
        (Some("50"), Severity::Medium),
        (Some("1"), Severity::Low),
        (Some("who knows"), Severity::High),
        (None, Severity::High),
    ];
    told.into_iter().for_each(|(text, expected)| assert_eq!(tell::severity(text), expected, "{text:?}"));
}

#[test]
fn a_rule_file_of_100_mb_is_refused_unread() {
    let (_folder, rules) = folder(&[("rules/good.yar", GOOD.as_bytes()), ("rules/huge.yar", b"")]);
    let huge = fs::OpenOptions::new().write(true).open(rules.join("huge.yar")).expect("a file");
    huge.set_len(100 << 20).expect("a hole");
    let loaded = load(&rules).expect("rules");
    assert_eq!((loaded.files(), loaded.bad().len()), (1, 1));
    assert_eq!(loaded.bad()[0].why, "104857600 bytes, more than 67108864");
}

#[test]
fn a_regex_too_large_to_compile_is_an_error_of_its_file() {
    let (_folder, rules) = folder(&[
        ("rules/good.yar", GOOD.as_bytes()),
        ("rules/monster.yar", b"rule m {\n strings: $a = /((a{1,999}){1,999}){1,999}b/\n condition: $a }"),
        ("rules/open.yar", b"rule o {\n strings:\n  $a = /(a|b/\n condition: $a }"),
    ]);
    let loaded = load(&rules).expect("rules");
    let names: Vec<_> = loaded.bad().iter().map(|bad| bad.path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["monster.yar", "open.yar"]);
    assert!(loaded.bad()[0].why.starts_with("2:"), "{:?}", loaded.bad());
    assert!(loaded.bad()[1].why.starts_with("3:"), "{:?}", loaded.bad());
}

/// Backtracking engines need 2³⁰ steps for each position of such bytes.
#[test]
fn a_regex_that_backtracks_for_ever_elsewhere_is_linear_here() {
    let (_folder, rules) = folder(&[(
        "rules/evil.yar",
        b"rule evil { strings: $a = /x(a|a|aa)+y/ condition: $a } rule end { strings: $a = \"END\" condition: $a }",
    )]);
    let rules = load(&rules).expect("rules");
    let mut bytes = b"xa".repeat(2000);
    bytes.extend(vec![b'a'; 60_000]);
    bytes.extend(b"END");
    let verdict = scan_bytes(&rules, &bytes);
    assert_eq!(verdict.cut, None);
    assert_eq!(names(&verdict), ["end"]);
}

#[test]
fn the_same_name_twice_is_an_error_in_one_file_and_none_in_two() {
    let (_folder, rules) = folder(&[
        ("rules/a/same.yar", GOOD.as_bytes()),
        ("rules/b/same.yar", GOOD.as_bytes()),
        ("rules/twice.yar", format!("{GOOD}\n{GOOD}").as_bytes()),
    ]);
    let rules = load(&rules).expect("rules");
    assert_eq!((rules.files(), rules.len()), (2, 2));
    let why = &rules.bad()[0].why;
    assert!(why.starts_with("2:") && why.contains("good"), "{why}");
    let verdict = scan_bytes(&rules, b"a needle");
    assert_eq!(names(&verdict), ["good", "good"]);
    assert_ne!(verdict.hits[0].rule.namespace, verdict.hits[1].rule.namespace);
}

#[test]
fn includes_that_include_each_other_are_an_error() {
    let (_folder, rules) = folder(&[
        ("rules/a.yar", b"include \"b.yar\""),
        ("rules/b.yar", b"include \"a.yar\""),
        ("rules/bomb.yar", &b"include \"bomb.yar\"\n".repeat(200)),
        ("rules/good.yar", GOOD.as_bytes()),
    ]);
    let rules = load(&rules).expect("rules");
    assert_eq!((rules.files(), rules.bad().len()), (1, 3), "{:?}", rules.bad());
    assert!(rules.bad().iter().all(|bad| bad.why.contains("in a circle")), "{:?}", rules.bad());
}

#[test]
fn rules_that_no_scope_can_serve_are_listed() {
    let text = br#"
        rule size { strings: $a = "x" condition: $a and filesize < 1MB }
        rule either { strings: $a = "x" condition: $a or filesize < 1MB }
        rule both { condition: filesize < 1MB or filename == "x" }
        rule needs { condition: size and uint16(0) == 1 }
        rule header { condition: uint16(0) == 0x5a4d and not filename == "x" }
        rule kind { condition: filetype contains "EXE" }
        rule each { strings: $a = "x" condition: for any i in (0..filesize) : (uint8(i) == 1 and $a) }
        rule deep { strings: $a = "x" condition: for all of them : ($ at filesize - 10) }
        rule none { condition: for none i in (0..2) : (filesize == i) }
        rule owner { condition: owner matches /^0$/ and extension icontains "so" }
    "#;
    let (_folder, rules) = folder(&[
        ("rules/some.yar", text),
        ("rules/part.inc", b"rule inner { condition: filesize == 3 }"),
        ("rules/with.yar", b"include \"part.inc\" rule outer { condition: inner }"),
        ("rules/global.yar", b"global rule g { condition: filesize > 1 } rule other { condition: true }"),
    ]);
    let rules = load(&rules).expect("rules");
    let of = |scope: &str| {
        let rules = rules.unserved().iter().filter(|rule| rule.scope == scope);
        let mut names: Vec<_> = rules.map(|rule| (rule.rule.as_str(), rule.needs.as_str())).collect();
        names.sort();
        names
    };
    let filesize = ["both", "deep", "each", "g", "inner", "needs", "other", "outer", "size"];
    let mut memory: Vec<_> = filesize.map(|name| (name, "filesize")).into();
    memory.extend([("kind", "filetype"), ("owner", "owner")]);
    memory.sort();
    assert_eq!(of("memory"), memory);
    assert_eq!(of("files"), [("kind", "filetype")]);
    // What is listed does not match, and what is not does.
    let verdict = scan_bytes(&rules, b"MZ  x");
    assert_eq!(names(&verdict), ["either", "header", "none"]);
}

/// A region with these bytes at its start.
fn scan_bytes(rules: &Rules, bytes: &[u8]) -> engine::Verdict {
    let mut content = content::Content::default();
    let memory = Flat::new(bytes);
    let mut layout = layout::Layout { end: bytes.len() as u64, ..layout::Layout::default() };
    layout.own_bytes = layout.end;
    layout.parts.push(layout::Part { offset: 0, gpa: Gpa(0), len: layout.end });
    content.fill(&memory, &layout, None, &mut Partial::<()>::default());
    let budget = std::time::Duration::from_secs(60);
    rules.engine().scan(&content, &engine::Externals::default(), layout.own_bytes, budget, None)
}

fn names(verdict: &engine::Verdict) -> Vec<&str> {
    verdict.hits.iter().map(|hit| hit.rule.name.as_str()).collect()
}

/// RAM that is a piece of memory.
pub(super) struct Flat {
    bytes: Vec<u8>,
    /// As in [`GuestMemory::step_bytes`].
    step: usize,
    ram: [GpaRange; 1],
}

impl Flat {
    pub(super) fn new(bytes: &[u8]) -> Flat {
        let ram = [GpaRange { start: Gpa(0), len_bytes: bytes.len() as u64 }];
        Flat { bytes: bytes.to_vec(), ram, step: 4096 }
    }

    /// The same, to be read in steps of so many bytes.
    pub(super) fn by(self, step: usize) -> Flat {
        Flat { step, ..self }
    }
}

impl GuestMemory for Flat {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let part = self.bytes.get(at.0 as usize..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(part.ok_or(ReadError::Absent { at })?);
        Ok(())
    }

    fn step_bytes(&self) -> usize {
        self.step
    }

    fn ram(&self) -> &[GpaRange] {
        &self.ram
    }
}
