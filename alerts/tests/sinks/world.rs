//! Alerts, pipelines, and waiting for what should happen.

use anyhow::Result;
use lynceus_alerts::{About, Alert, Config, Pipeline, SinkConfig, SinkKind, SinkState, SinkStats, TlsConfig};
use lynceus_lab::siem::{Authority, Pair};
use lynceus_scanners::{Finding, Severity, Subject};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long anything may take before the test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The `number`th alert. Each VM has few, so that no limit cuts in.
pub(crate) fn alert(number: u32) -> Alert {
    let finding = Finding {
        detector: "hidden_task".into(),
        technique: "T1014".into(),
        severity: Severity::High,
        summary: format!("task {number} hides \"]\\ |=\u{1b}"),
        subject: Subject::Task { pid: number, tgid: number, comm: "x\ny".to_owned(), address: u64::MAX },
        seen_in: vec!["slab pages".into()],
        missing_from: vec!["task list".into()],
        rule: None,
    };
    Alert::new(&format!("vm-{}", number / 50), finding, SystemTime::now())
}

/// A pipeline with these sinks and its spool in `folder`.
pub(crate) fn config(folder: &Path, sinks: Vec<SinkConfig>) -> Config {
    let mut config: Config = toml::from_str("spool = 'x'").expect("the defaults are complete");
    config.spool = folder.join("spool");
    config.sinks = sinks;
    config
}

/// What a sink needs to trust an authority and to show `own`.
pub(crate) fn trusted(authority: &Authority, own: Option<&Pair>) -> TlsConfig {
    TlsConfig {
        ca: Some(authority.ca.clone()),
        cert: own.map(|own| own.cert.clone()),
        key: own.map(|own| own.key.clone()),
    }
}

/// A file beside the sink that is tested: it gets what the pipeline says of itself.
pub(crate) fn log(folder: &Path) -> SinkConfig {
    let mut sink = SinkConfig::new("log", SinkKind::File);
    sink.address = Some(log_path(folder).display().to_string());
    sink
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// The states that the pipeline told of a sink, in order, with the words.
pub(crate) fn told(folder: &Path, sink: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(log_path(folder)).unwrap_or_default();
    let alerts = text.lines().map(|line| serde_json::from_str::<Alert>(line).expect("an alert a line"));
    alerts
        .filter_map(|alert| match alert.about {
            About::Health(health) if health.component == format!("sink {sink}") => {
                Some((health.state, health.summary))
            }
            _ => None,
        })
        .collect()
}

/// Waits until `done`.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    lynceus_lab::until_so(what, PATIENCE, || Ok(done()))
}

/// How a sink is.
pub(crate) fn stats(pipeline: &Pipeline, sink: &str) -> SinkStats {
    let all = pipeline.stats().sinks;
    all.into_iter().find(|it| it.name == sink).expect("the sink is there")
}

/// Waits until a sink is in `state`.
pub(crate) fn until_state(pipeline: &Pipeline, sink: &str, state: SinkState) -> Result<()> {
    until(&format!("{sink} is {state:?}"), || stats(pipeline, sink).state == state)
}
