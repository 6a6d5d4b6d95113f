//! A disk that is full, and one that loses bytes.

use crate::{PATIENCE, alert, config, numbers, told, until, written};
use anyhow::{Result, bail, ensure};
use lynceus_alerts::{Pipeline, PipelineError};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A small file system in memory, for as long as it lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Result<SmallDisk> {
        let folder = tempfile::tempdir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "lynceus-test"])
            .arg(folder.path())
            .status()?;
        if !mounted.success() {
            bail!("mount failed: this test needs root");
        }
        Ok(SmallDisk(folder))
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.path()).status().ok();
    }
}

/// Fills what is left of the disk.
fn fill(ballast: &Path) -> Result<()> {
    let block = vec![1; 4096];
    let mut file = fs::File::create(ballast)?;
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    Ok(())
}

#[test]
fn a_full_disk_is_an_error_and_when_there_is_room_everything_is_told() -> Result<()> {
    let disk = SmallDisk::mount(4 << 20)?;
    let folder = tempfile::tempdir()?;
    let (log, ballast) = (folder.path().join("log"), disk.path().join("ballast"));
    let pipeline = Pipeline::open(&config(&disk.path().join("spool"), &log))?;
    pipeline.raise_all((0..100).map(alert).collect())?;
    fill(&ballast)?;
    let mut refused = 0;
    for number in 100..400 {
        match pipeline.raise(alert(number)) {
            Ok(()) => {}
            Err(PipelineError::Spool(error)) => {
                ensure!(error.to_string().contains("No space left on device"), "{error}");
                refused += 1;
            }
            Err(other) => return Err(other.into()),
        }
    }
    ensure!(refused > 0, "none was refused: the disk was not full");
    ensure!(pipeline.stats().refused >= refused);
    fs::remove_file(&ballast)?;
    pipeline.raise_all((400..500).map(alert).collect())?;
    // Those that were refused are known and told as soon as the disk takes them.
    until("everything arrived", || {
        let mut all = numbers(&written(&log));
        all.sort_unstable();
        all.dedup();
        all.into_iter().eq(0..500)
    })?;
    until("it is told", || told(&written(&log)).iter().any(|(state, _)| state == "writing"))?;
    pipeline.close(PATIENCE);
    Ok(())
}

#[test]
fn what_is_damaged_in_the_middle_is_told_with_its_place_and_the_rest_arrives() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (spool, log) = (folder.path().join("spool"), folder.path().join("log"));
    // A folder in the file's place: nothing can be delivered yet.
    fs::create_dir(&log)?;
    let pipeline = Pipeline::open(&config(&spool, &log))?;
    pipeline.raise_all((0..200).map(alert).collect())?;
    pipeline.close(Duration::ZERO);
    fs::remove_dir(&log)?;
    let entries = fs::read_dir(&spool)?.flatten();
    let segment =
        entries.map(|entry| entry.path()).find(|path| path.display().to_string().contains("segment-"));
    let Some(segment) = segment else { bail!("there is no segment") };
    let mut bytes = fs::read(&segment)?;
    let middle = bytes.len() / 2;
    bytes[middle..middle + 2000].fill(0xff);
    fs::write(&segment, bytes)?;
    let pipeline = Pipeline::open(&config(&spool, &log))?;
    until("it is told", || !told(&written(&log)).is_empty())?;
    pipeline.close(PATIENCE);
    let alerts = written(&log);
    let arrived = numbers(&alerts).len();
    ensure!((195..200).contains(&arrived), "{arrived} of 200 arrived");
    let told = told(&alerts);
    let [(state, words)] = told.as_slice() else { bail!("told not once: {told:?}") };
    ensure!(state == "damaged" && words.contains(&segment.display().to_string()), "{words}");
    ensure!(words.contains("at offset") && words.contains("bytes"), "{words}");
    Ok(())
}
