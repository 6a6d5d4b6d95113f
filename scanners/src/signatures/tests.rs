//! Rule files, sound and broken, and what is told of a rule.

use super::*;
use std::fs;
use std::path::{Path, PathBuf};

const GOOD: &str = r#"rule good : tag { meta: severity = "medium" strings: $a = "needle" condition: $a }"#;

fn folder(files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
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
    told.into_iter().for_each(|(text, expected)| assert_eq!(severity(text), expected, "{text:?}"));
}
