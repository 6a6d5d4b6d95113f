//! Waiting for what takes as long as it takes: never a sleep that a loaded machine outlasts.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks again and again until there is an answer, for `patience` at most.
///
/// # Errors
/// What the question fails with, or that no answer came: `what` names it.
pub fn until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if started.elapsed() > patience {
            bail!("waited {patience:?} in vain for {what}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// The same, for what is so or is not.
///
/// # Errors
/// As [`until`].
pub fn until_so(what: &str, patience: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, patience, || Ok(is_so()?.then_some(())))
}
