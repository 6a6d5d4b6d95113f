//! kill -9, ten times, while four threads raise alerts.

use crate::{PATIENCE, alert, config, numbers, written};
use anyhow::{Context, Result, ensure};
use lynceus_alerts::Pipeline;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder for the child, and where its numbers begin.
const FOLDER: &str = "LYNCEUS_TEST_CRASH_FOLDER";
const FROM: &str = "LYNCEUS_TEST_CRASH_FROM";
const ROUNDS: u32 = 10;
/// Numbers that a child may use.
const EACH: u32 = 100_000;

/// Raises alerts until it is killed, and prints the number of each that `raise` returned for.
#[test]
#[ignore = "the child of nothing_is_lost_when_killed_ten_times"]
fn child() -> Result<()> {
    let folder = PathBuf::from(std::env::var_os(FOLDER).context("the folder")?);
    let from: u32 = std::env::var(FROM)?.parse()?;
    let pipeline = Pipeline::open(&config(&folder.join("spool"), &folder.join("log")))?;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let pipeline = &pipeline;
            scope.spawn(move || {
                for number in (from + thread..from + EACH).step_by(4) {
                    pipeline.raise(alert(number)).expect("it is kept");
                    writeln!(std::io::stdout(), "raised {number}").expect("the parent reads");
                }
            });
        }
    });
    Ok(())
}

/// Runs a child until it has raised `enough`, kills it, and gives what it said.
fn run_and_kill(folder: &Path, from: u32, enough: usize) -> Result<BTreeSet<u32>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["crash::child", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(FROM, from.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut raised = BTreeSet::new();
    for line in BufReader::new(child.stdout.take().context("stdout")?).lines() {
        if let Some(number) = line?.strip_prefix("raised ").and_then(|number| number.parse().ok()) {
            raised.insert(number);
        }
        if raised.len() == enough {
            child.kill()?;
        }
    }
    child.wait()?;
    ensure!(raised.len() >= enough, "the child ended by itself");
    Ok(raised)
}

#[test]
fn nothing_is_lost_when_killed_ten_times() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut raised = BTreeSet::new();
    for round in 0..ROUNDS {
        raised.extend(run_and_kill(folder.path(), round * EACH, 50 + 37 * round as usize)?);
    }
    let log = folder.path().join("log");
    let pipeline = Pipeline::open(&config(&folder.path().join("spool"), &log))?;
    pipeline.close(PATIENCE);
    let alerts = written(&log);
    let arrived: BTreeSet<u32> = numbers(&alerts).into_iter().collect();
    let lost: Vec<&u32> = raised.difference(&arrived).collect();
    ensure!(lost.is_empty(), "lost: {lost:?}");
    // What came twice has the same number in the spool, and nothing else has it.
    let mut by_sequence = BTreeMap::new();
    for alert in &alerts {
        let first = by_sequence.entry(alert.sequence.context("a number")?).or_insert(alert);
        ensure!(*first == alert, "two alerts have one number: {first:?} {alert:?}");
    }
    let of_alerts = by_sequence.values().filter(|alert| alert.finding().is_some()).count();
    ensure!(of_alerts == arrived.len(), "one alert has two numbers");
    println!("{} raised, {} arrived, {} lines", raised.len(), arrived.len(), alerts.len());
    Ok(())
}
