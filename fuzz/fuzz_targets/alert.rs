//! Alerts of any JSON, in every encoding: one line each, with nothing in it that acts on a terminal; what is JSON stays JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_alerts::encode::{self, Origin};
use lynceus_alerts::{Alert, Format};

fuzz_target!(|data: &[u8]| {
    let Ok(alert) = serde_json::from_slice::<Alert>(data) else { return };
    let origin = Origin { hostname: "host".to_owned(), pid: 1, version: "0" };
    for format in [Format::Json, Format::Ecs, Format::Ocsf, Format::Cef] {
        let line = encode::line(&alert, format, &origin);
        assert!(!line.chars().any(char::is_control));
        if format != Format::Cef {
            serde_json::from_str::<serde_json::Value>(&line).expect("JSON");
        }
        let message = encode::syslog_message(&alert, format, &origin);
        assert!(message.starts_with('<') && message.ends_with(&line));
    }
    let json = encode::line(&alert, Format::Json, &origin);
    assert_eq!(serde_json::from_str::<Alert>(&json).expect("an alert"), alert);
});
