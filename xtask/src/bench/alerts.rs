//! Alerts: how many a second reach the disk and a sink, and what it costs to encode one.

use super::goals::{Goal, Limit, figure};
use super::report::{cell, short, verdict};
use super::{measure, peers};
use crate::shell::cargo;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Alerts a second, nanoseconds and bytes by their names.
pub(crate) type Alerts = Result<BTreeMap<String, f64>, String>;

/// What the benchmark of the alerts prints.
pub(crate) fn measure() -> Alerts {
    println!("alerts");
    let bench = ["bench", "--quiet", "--package", "lynceus-alerts", "--bench", "alerts"];
    let (text, _) =
        measure::output(&mut cargo(&bench)).map_err(|why| format!("cargo bench of lynceus-alerts: {why}"))?;
    Ok(peers::figures(&String::from_utf8_lossy(&text)))
}

/// The section of the report.
pub(crate) fn markdown(alerts: &Alerts) -> String {
    let get = |name: &str| figure(alerts.as_ref().map_err(Clone::clone)?, name);
    let goal = Goal {
        what: "alerts on disk a second, raised 256 at a time, in thousands",
        limit: Limit::Times(20.0),
        values: vec![get("raised together, 256 at a time").map(|rate| rate / 1e3)],
    };
    let value = match goal.values.first() {
        Some(Ok(value)) => short(*value),
        Some(Err(why)) => cell(why),
        None => String::new(),
    };
    let mut out = String::from("\n## Alerts\n\n| goal | wanted | | |\n|---|---|---|---|\n");
    let _ = writeln!(out, "| {} | ≥ 20 | {value} | {} |", goal.what, verdict(&goal));
    out.push_str("\n| | |\n|---|---|\n");
    for (name, value) in alerts.iter().flatten() {
        let unit = match name.split(' ').next() {
            Some("encode") => format!("{} µs", short(value / 1e3)),
            Some("bytes") => format!("{} bytes", short(*value)),
            _ => format!("{} a second", short(*value)),
        };
        let _ = writeln!(out, "| {name} | {unit} |");
    }
    out.push_str(METHOD);
    out
}

const METHOD: &str = "
Different alerts of 200 VMs, 100,000 of them where they are raised together, 2,000 where one by one; the best of three rounds. On disk
means synced: `raise` does not return before. The spool lies on the disk that the target folder is on. *Delivered* means that a file sink has
written and synced them, in batches of its own, beside the raising.
";
