//! CEF lines, read by liblognorm's CEF parser.

use crate::{origin, samples};
use anyhow::{Context, Result, ensure};
use lynceus_alerts::encode::line;
use lynceus_alerts::{Alert, Format};
use lynceus_lab::packages;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

/// What liblognorm reads in `lines`.
pub(crate) fn normalized(lines: &[String]) -> Result<Vec<Value>> {
    packages::ensure(packages::ALL)?;
    let folder = tempfile::tempdir()?;
    let rules = folder.path().join("cef.rulebase");
    std::fs::write(&rules, "version=2\nrule=:%f:cef%\n")?;
    let mut reader = Command::new("lognormalizer")
        .arg("-r")
        .arg(&rules)
        .args(["-e", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("lognormalizer")?;
    let mut input = reader.stdin.take().context("stdin")?;
    let text: String = lines.iter().map(|line| with_a_space(line) + "\n").collect();
    let writes = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let out = reader.wait_with_output()?;
    writes.join().expect("it does not panic")?;
    let out = String::from_utf8(out.stdout)?;
    Ok(out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// liblognorm 2.0.6 skips one character behind the header, which the specification does not put there.
fn with_a_space(line: &str) -> String {
    let header = line.match_indices("|externalId=").map(|(at, _)| at);
    // A guest's `|` has a backslash before it, the header's last one the severity.
    let end = header.into_iter().find(|at| line[..*at].ends_with(|before: char| before.is_ascii_digit()));
    let (header, extension) = line.split_at(end.map_or(line.len(), |at| at + 1));
    format!("{header} {extension}")
}

/// What the parser should say of an alert's line.
pub(crate) fn check(alert: &Alert, read: &Value) -> Result<()> {
    ensure!(read["f"]["DeviceVendor"] == "Lynceus", "{read:#}");
    let fields = &read["f"]["Extensions"];
    ensure!(fields["externalId"] == alert.id.as_str(), "{read:#}");
    ensure!(fields["rt"].as_str() == Some(&alert.time_ms.to_string()), "{read:#}");
    ensure!(fields["cat"] == alert.kind(), "{read:#}");
    let allowed = "externalId rt start end cnt cat dvchost dhost msg cs1 cs1Label cs2 cs2Label cs3 cs3Label cs4 cs4Label \
                   cs5 cs5Label cs6 cs6Label dpid dproc filePath fsize fileId fileHash destinationServiceName act outcome \
                   proto src spt dst dpt c6a2 c6a2Label c6a3 c6a3Label deviceDirection reason";
    for (name, _) in fields.as_object().context("extensions")? {
        ensure!(allowed.split_whitespace().any(|key| key == name), "a value made the field {name}: {read:#}");
    }
    Ok(())
}

#[test]
fn lines_are_read_as_they_were_meant() -> Result<()> {
    let alerts = samples::all();
    let lines: Vec<String> = alerts.iter().map(|alert| line(alert, Format::Cef, &origin())).collect();
    let read = normalized(&lines)?;
    ensure!(read.len() == alerts.len());
    for (alert, read) in alerts.iter().zip(&read) {
        check(alert, read)?;
        ensure!(read["f"]["Extensions"]["msg"] == alert.summary(), "{read:#}");
    }
    Ok(())
}
