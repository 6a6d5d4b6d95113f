//! Every encoding against its public schema or somebody else's parser, and against hostile strings.
//!
//! The files in `tests/golden` are written anew with `LYNCEUS_GOLDEN=1`.

mod cef;
mod ecs;
mod hostile;
mod ocsf;
mod samples;
mod syslog;

use lynceus_alerts::encode::{self, Origin};
use lynceus_alerts::{Alert, Format};
use std::path::Path;

const FORMATS: [(Format, &str); 4] =
    [(Format::Json, "json"), (Format::Ecs, "ecs"), (Format::Ocsf, "ocsf"), (Format::Cef, "cef")];

fn origin() -> Origin {
    Origin { hostname: "host-1".to_owned(), pid: 42, version: "0.1.0" }
}

fn json(alert: &Alert, format: Format) -> serde_json::Value {
    serde_json::from_str(&encode::line(alert, format, &origin())).expect("it is JSON")
}

#[test]
fn encodings_are_what_they_were() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (format, name) in FORMATS {
        let lines: Vec<String> =
            samples::all().iter().map(|alert| encode::line(alert, format, &origin())).collect();
        golden(&folder.join(format!("alerts.{name}")), &lines);
    }
    let messages: Vec<String> =
        samples::all().iter().map(|alert| encode::syslog_message(alert, Format::Cef, &origin())).collect();
    golden(&folder.join("alerts.syslog"), &messages);
}

fn golden(path: &Path, lines: &[String]) {
    let text = lines.join("\n") + "\n";
    if std::env::var_os("LYNCEUS_GOLDEN").is_some() {
        std::fs::write(path, &text).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs; if it should, run again with LYNCEUS_GOLDEN=1", path.display());
}
