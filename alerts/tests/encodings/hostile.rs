//! Strings that a guest chose to do harm.

use crate::{FORMATS, cef, json, origin, samples, syslog};
use lynceus_alerts::encode::line;
use lynceus_alerts::{Alert, Format};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::time::UNIX_EPOCH;

/// Characters that mean something to one of the formats, or to a terminal.
const NASTY: &[char] = &[
    '\n',
    '\r',
    '\0',
    '\t',
    '\u{1b}',
    '\u{7f}',
    '\u{9b}',
    '\u{85}',
    '\u{2028}',
    '\u{202e}',
    '\u{feff}',
    '|',
    '=',
    ']',
    '[',
    '\\',
    '"',
    '\'',
    '<',
    '>',
    '{',
    '}',
    ' ',
    'n',
    'x',
    'ü',
    '日',
    '\u{10ffff}',
];

fn nasty() -> impl Strategy<Value = String> {
    let parts = prop_oneof![
        4 => prop::sample::select(NASTY).prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
        1 => prop::sample::select(&[
            "CEF:0|", " act=allow", "\\=", "\\|", "\\n", "\"] [x y=\"", "<34>1 ", "\\u0000", "\",\"kind\":\"health",
        ][..])
        .prop_map(String::from),
    ];
    prop::collection::vec(parts, 0..40).prop_map(|parts| parts.concat())
}

fn harmless(text: &str) -> bool {
    let turns = |c| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !text.chars().any(|c| c.is_control() || turns(c))
}

fn check(alert: &Alert) {
    for (format, name) in FORMATS {
        let text = line(alert, format, &origin());
        assert!(harmless(&text), "{name}: {text:?}");
    }
    let mut back: Alert = serde_json::from_value(json(alert, Format::Json)).expect("it is an alert");
    back.sequence = alert.sequence;
    assert_eq!(&back, alert);
    assert_eq!(json(alert, Format::Ecs)["message"], alert.summary());
    assert_eq!(json(alert, Format::Ocsf)["message"], alert.summary());
    syslog::check(alert, Format::Json);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_string_leaves_its_field(text in nasty()) {
        for alert in samples::with(&text) {
            check(&alert);
        }
    }
}

#[test]
fn no_string_makes_a_field_for_another_projects_parser() -> anyhow::Result<()> {
    let mut random = proptest::test_runner::TestRunner::deterministic();
    let mut alerts = Vec::new();
    for _ in 0..100 {
        let text = nasty().new_tree(&mut random).expect("a string").current();
        alerts.extend(samples::with(&text));
    }
    let lines: Vec<String> = alerts.iter().map(|alert| line(alert, Format::Cef, &origin())).collect();
    let read = cef::normalized(&lines)?;
    anyhow::ensure!(read.len() == alerts.len());
    for (alert, read) in alerts.iter().zip(&read) {
        cef::check(alert, read)?;
    }
    Ok(())
}

#[test]
fn a_megabyte_in_every_field_stays_bounded() {
    for huge in ["\u{1}".repeat(1 << 20), "=|]\\\"\n".repeat(1 << 18)] {
        for alert in samples::with(&huge) {
            assert!(line(&alert, Format::Cef, &origin()).len() < 64 << 10);
            let about = alert.about.clone();
            assert_eq!(Alert::about(Some(&huge), about, UNIX_EPOCH).id.len(), 32);
        }
    }
}
