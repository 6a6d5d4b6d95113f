//! A storm of short-lived processes, with witnesses that must be seen through it.
//!
//! The task list changes as fast as the guest can make it, while `lab-witness-1` to `lab-witness-8` live on: a look
//! from outside that misses a witness, or invents a task, is wrong.

use std::time::{Duration, Instant};

use crate::{scenery, sys};

/// How many processes of the storm live at once at most.
const CROWD: usize = 16;

/// Starts the witnesses (once) and the storm, and returns when the witnesses stand.
pub(crate) fn start(seconds: u64) -> Result<String, String> {
    for number in 1..=8 {
        let name = format!("lab-witness-{number}");
        if !std::path::Path::new(&format!("/lab/{name}")).exists() {
            let (_, pipe) = scenery::start(&name, &[], &[]).map_err(|error| error.to_string())?;
            scenery::wait_ready(&name, pipe);
        }
    }
    scenery::start("lab-storm", &[&seconds.to_string()], &[]).map_err(|error| error.to_string())?;
    Ok(format!("storming for {seconds} s\n"))
}

/// The storm itself: forks children that exit at once, until the time is over.
pub(crate) fn rage(seconds: u64) -> ! {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut alive = 0;
    let mut born = 0u64;
    while Instant::now() < end {
        match sys::fork() {
            Ok(0) => sys::exit_now(0),
            Ok(_) => (alive, born) = (alive + 1, born + 1),
            Err(_) => {}
        }
        while alive > 0 && sys::reap(alive >= CROWD).is_some() {
            alive -= 1;
        }
    }
    while sys::reap(true).is_some() {}
    let _ = std::fs::write("/run/lab-storm", format!("{born}\n"));
    sys::exit_now(0)
}
