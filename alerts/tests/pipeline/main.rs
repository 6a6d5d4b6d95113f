//! The pipeline, from `raise` to a file, through restarts, floods and changes of its configuration.

use anyhow::{Result, ensure};
use lynceus_alerts::{Alert, Config, Pipeline, PipelineError, SinkConfig, SinkKind};
use lynceus_scanners::{Finding, Severity, Subject};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

const PATIENCE: Duration = Duration::from_secs(30);

fn finding(pid: u32, severity: Severity) -> Finding {
    Finding {
        detector: "hidden_task".into(),
        technique: "T1014".into(),
        severity,
        summary: format!("task {pid} hides"),
        subject: Subject::Task { pid, tgid: pid, comm: "x\ny".to_owned(), address: 1 },
        seen_in: vec!["slab pages".into()],
        missing_from: vec!["task list".into()],
        rule: None,
    }
}

fn alert(vm: &str, pid: u32) -> Alert {
    Alert::new(vm, finding(pid, Severity::High), SystemTime::now())
}

/// A pipeline with one file in `folder`.
fn config(folder: &Path) -> Config {
    let mut config: Config = toml::from_str("spool = 'x'").expect("the defaults are complete");
    config.spool = folder.join("spool");
    config.sinks = vec![file(folder, "file")];
    config
}

fn file(folder: &Path, name: &str) -> SinkConfig {
    let mut sink = SinkConfig::new(name, SinkKind::File);
    sink.address = Some(folder.join(format!("{name}.log")).display().to_string());
    sink
}

/// The alerts in a sink's file.
fn lines(folder: &Path, name: &str) -> Result<Vec<Alert>> {
    let text = fs::read_to_string(folder.join(format!("{name}.log")))?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[test]
fn what_is_raised_is_in_the_file_once_and_numbered() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let pipeline = Pipeline::open(&config(folder.path()))?;
    pipeline.raise_all((0..50).map(|pid| alert("web-1", pid)).collect())?;
    pipeline.raise_all((0..50).map(|pid| alert("web-1", pid)).collect())?;
    pipeline.close(PATIENCE);
    let alerts = lines(folder.path(), "file")?;
    ensure!(alerts.is_sorted_by(|a, b| a.sequence < b.sequence), "not in order");
    // 50 at once, and at the end 50 updates that say that each was seen twice.
    let counts: Vec<u64> = alerts.iter().map(|alert| alert.count).collect();
    ensure!(counts == [[1; 50], [2; 50]].concat(), "{counts:?}");
    ensure!(alerts.iter().all(|alert| alert.vm.as_deref() == Some("web-1")));
    Ok(())
}

#[test]
fn a_flood_of_one_vm_is_counted_and_the_others_are_heard() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let pipeline = Pipeline::open(&config(folder.path()))?;
    for second in 0..5 {
        let flood = (0..1000).map(|pid| alert("bad", second * 1000 + pid));
        pipeline.raise_all(flood.collect())?;
        pipeline.raise(alert("good", second))?;
    }
    let critical = finding(9999, Severity::Critical);
    pipeline.raise(Alert::new("bad", critical, SystemTime::now()))?;
    pipeline.close(PATIENCE);
    let alerts = lines(folder.path(), "file")?;
    let of = |vm: &str| alerts.iter().filter(|alert| alert.vm.as_deref() == Some(vm)).collect::<Vec<_>>();
    ensure!(of("good").len() == 5);
    ensure!(of("bad").iter().any(|alert| alert.severity() == Severity::Critical), "drowned");
    ensure!(of("bad").len() < 1000, "{} of one guest", of("bad").len());
    let counted: u64 = of("bad").iter().map(|alert| alert.count).sum();
    ensure!(counted == 5001, "{counted} told or counted");
    Ok(())
}

#[test]
fn sinks_come_and_go_and_a_bad_configuration_changes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut config = config(folder.path());
    let pipeline = Pipeline::open(&config)?;
    pipeline.raise(alert("web-1", 1))?;
    let mut bad = config.clone();
    bad.sinks.push(SinkConfig::new("No Name", SinkKind::File));
    let Err(PipelineError::Config(errors)) = pipeline.reconfigure(&bad) else {
        anyhow::bail!("a bad configuration was taken")
    };
    let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
    ensure!(keys == ["sinks[1].name", "sinks.No Name.address"], "{keys:?}");
    config.sinks = vec![file(folder.path(), "second")];
    pipeline.reconfigure(&config)?;
    pipeline.raise(alert("web-1", 2))?;
    ensure!(pipeline.stats().sinks.iter().map(|sink| &sink.name).eq(["second"]));
    pipeline.close(PATIENCE);
    let last = lines(folder.path(), "second")?.pop();
    ensure!(last.is_some_and(|alert| alert.summary() == "task 2 hides"));
    Ok(())
}

#[test]
fn what_a_sink_could_not_take_is_taken_after_a_restart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = config(folder.path());
    // A folder has the file's name: no line can be written.
    let blocked = folder.path().join("file.log");
    let pipeline = Pipeline::open(&config)?;
    fs::create_dir(&blocked)?;
    pipeline.raise_all((0..10).map(|pid| alert("web-1", pid)).collect())?;
    pipeline.close(Duration::from_millis(500));
    fs::remove_dir(&blocked)?;
    let pipeline = Pipeline::open(&config)?;
    pipeline.close(PATIENCE);
    ensure!(lines(folder.path(), "file")?.len() == 10);
    Ok(())
}
