//! What happens to the disk and to the process: killed, full, damaged. Nothing that was promised is lost, and what is lost is told.

mod crash;
mod disk;
mod full;

use anyhow::Result;
use lynceus_alerts::{About, Alert, Config, Health, SinkConfig, SinkKind};
use lynceus_scanners::{Finding, Severity, Subject};
use std::path::Path;
use std::time::{Duration, SystemTime};

const PATIENCE: Duration = Duration::from_secs(60);

/// The `number`th alert. Each VM has few, so that no limit cuts in.
fn alert(number: u32) -> Alert {
    let finding = Finding {
        detector: "hidden_task".into(),
        technique: "T1014".into(),
        severity: Severity::High,
        summary: format!("task {number} hides"),
        subject: Subject::Task { pid: number, tgid: number, comm: "x".repeat(600), address: 1 },
        seen_in: vec!["slab pages".into()],
        missing_from: vec!["task list".into()],
        rule: None,
    };
    Alert::new(&format!("vm-{}", number / 50), finding, SystemTime::now())
}

/// A pipeline with one file beside its spool.
fn config(spool: &Path, log: &Path) -> Config {
    let mut config: Config = toml::from_str("spool = 'x'").expect("the defaults are complete");
    config.spool = spool.to_owned();
    let mut file = SinkConfig::new("log", SinkKind::File);
    file.address = Some(log.display().to_string());
    config.sinks = vec![file];
    config
}

/// What a file sink has written. A line that was cut off by a crash is none.
fn written(log: &Path) -> Vec<Alert> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The numbers of the alerts among `alerts`.
fn numbers(alerts: &[Alert]) -> Vec<u32> {
    let findings = alerts.iter().filter(|alert| alert.finding().is_some());
    findings.map(|alert| alert.summary().split(' ').nth(1).expect("a number").parse().expect("one")).collect()
}

/// What the pipeline said of its spool: state and words.
fn told(alerts: &[Alert]) -> Vec<(String, String)> {
    let health = alerts.iter().filter_map(|alert| match &alert.about {
        About::Health(Health { component, state, summary, .. }) if component == "spool" => {
            Some((state.clone(), summary.clone()))
        }
        _ => None,
    });
    health.collect()
}

/// Waits until `done`.
fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    lynceus_lab::until_so(what, PATIENCE, || Ok(done()))
}
