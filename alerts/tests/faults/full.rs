//! A spool that is full because a sink takes nothing.

use crate::{PATIENCE, alert, config, numbers, told, until, written};
use anyhow::{Result, ensure};
use lynceus_alerts::Pipeline;
use std::fs;

#[test]
fn a_full_spool_is_told_keeps_what_it_has_and_goes_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (spool, log) = (folder.path().join("spool"), folder.path().join("log"));
    fs::create_dir(&log)?;
    let mut config = config(&spool, &log);
    config.max_bytes = 1 << 20;
    let pipeline = Pipeline::open(&config)?;
    for number in 0..2000 {
        // No error: it is counted, and who raises can do nothing about it.
        pipeline.raise(alert(number))?;
    }
    let stats = pipeline.stats();
    ensure!(stats.refused > 500 && stats.spool_bytes <= config.max_bytes, "{stats:?}");
    fs::remove_dir(&log)?;
    until("there is room again", || told(&written(&log)).iter().any(|(state, _)| state == "writing"))?;
    // Nothing that the spool had taken was dropped, and what it refused is known and told now.
    until("everything arrived", || {
        let mut all = numbers(&written(&log));
        all.sort_unstable();
        all.dedup();
        all.into_iter().eq(0..2000)
    })?;
    let states: Vec<String> = told(&written(&log)).into_iter().map(|(state, _)| state).collect();
    ensure!(states.first().is_some_and(|state| state == "refusing"), "{states:?}");
    pipeline.close(PATIENCE);
    Ok(())
}

/// What is due at once is more than the spool holds: it is told in parts, as room comes.
#[test]
fn more_than_fits_at_once_is_told_in_parts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (spool, log) = (folder.path().join("spool"), folder.path().join("log"));
    fs::create_dir(&log)?;
    let mut config = config(&spool, &log);
    config.max_bytes = 1 << 20;
    (config.funnel.per_second, config.funnel.burst) = (100_000, 100_000);
    let pipeline = Pipeline::open(&config)?;
    pipeline.raise_all((0..4000).map(alert).collect())?;
    ensure!(pipeline.stats().refused > 2000, "{:?}", pipeline.stats());
    fs::remove_dir(&log)?;
    until("everything arrived", || {
        let mut all = numbers(&written(&log));
        all.sort_unstable();
        all.dedup();
        all.into_iter().eq(0..4000)
    })?;
    pipeline.close(PATIENCE);
    Ok(())
}
