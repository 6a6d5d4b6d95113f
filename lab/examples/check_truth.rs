//! Reads saved answers to `TRUTH` and says what each holds and lacks: `check_truth FILE...`.

use anyhow::{Context, Result};
use lynceus_lab::{Scenery, scenery, truth::Truth};

fn main() -> Result<()> {
    for path in std::env::args().skip(1) {
        let truth = Truth::parse(&std::fs::read(&path)?).context(path.clone())?;
        let tasks = truth.tasks()?;
        let count = |each: &dyn Fn(u32) -> Result<usize>| {
            tasks.iter().map(|task| each(task.pid)).sum::<Result<usize>>()
        };
        println!(
            "{path}: {}\n  {} tasks, {} maps, {} open files, {} mounts, {} sockets, {} interfaces, {} modules, {} log records",
            truth.version()?,
            tasks.len(),
            count(&|pid| Ok(truth.maps(pid)?.len()))?,
            count(&|pid| Ok(truth.fds(pid)?.len()))?,
            truth.mounts(1)?.len(),
            truth.sockets()?.len(),
            truth.interfaces()?.len(),
            truth.modules()?.len(),
            truth.log()?.len(),
        );
        println!("  {:?}, booted at {}", truth.clocks()?, truth.boot_time()?);
        for note in truth.notes() {
            println!("  note: {note}");
        }
        for item in scenery::missing(&truth, Scenery::Full)? {
            println!("  MISSING {item}");
        }
    }
    Ok(())
}
