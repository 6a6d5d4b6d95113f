//! The children's half: locked down as a worker is, they try one thing, or look at a guest.

use super::Line;
use crate::attach::Prepared;
use crate::cli::SandboxArgs;
use crate::output::Outcome;
use crate::sandbox::{
    ATTEMPTS, AttemptTarget, Layer, Limits, Went, close_inherited, lock_down, lock_down_but, prepare_attempt,
};
use anyhow::{Context, Result};
use lynceus_scanners::signatures::{self, Rules, ScanCache, Scope, Wanted};
use lynceus_scanners::{DETECTORS, Finding};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::process::parent_id;
use std::time::Instant;

/// Threads of the scan: more than one, to see that they can be started.
const THREADS: usize = 2;
/// What a scan may remember.
const CACHE_BYTES: usize = 16 << 20;
/// What every Linux kernel has in its memory.
const RULE: &str = "rule linux_banner { strings: $banner = \"Linux version \" condition: $banner }";

/// What a locked-down process did with a guest.
#[derive(Serialize, Deserialize)]
pub(super) struct Work {
    /// The kernel that it found.
    release: String,
    /// What the kernel's code was compared with.
    image: Option<String>,
    detectors: usize,
    /// What the detectors found.
    findings: Vec<Finding>,
    /// What the rules matched.
    matches: Vec<Finding>,
    scanned_bytes: u64,
    /// What could not be read.
    pub(super) gaps: u64,
    /// Profiles that it would hand back to its supervisor.
    learned: usize,
    took_ms: u64,
}

impl Work {
    pub(super) fn summary(&self, target: &str) -> String {
        format!(
            "{target}: locked down, attached to {}, ran {} detectors ({} findings), scanned {} MiB ({} matches), {} gaps, {} ms",
            self.release,
            self.detectors,
            self.findings.len(),
            self.scanned_bytes >> 20,
            self.matches.len(),
            self.gaps,
            self.took_ms
        )
    }
}

/// Locks this process down and makes one attempt.
pub(super) fn attempt(name: &str, args: &SandboxArgs) -> Result<Outcome> {
    let attempt = ATTEMPTS.iter().find(|attempt| attempt.name == name).context("no such attempt")?;
    close_inherited(&[])?;
    prepare_attempt()?;
    let at = AttemptTarget { parent: parent_id(), port: args.port };
    let left_out = args.without_filter.then_some(Layer::Filter);
    say(&Line::LockedDown(lock_down_but(&Limits::default(), left_out)?))?;
    match (attempt.go)(&at) {
        Went::Through => say(&Line::Through)?,
        Went::Refused(errno) => say(&Line::Refused(errno))?,
    }
    Ok(Outcome::Clean)
}

/// Opens a target, locks this process down, and looks at it in every way.
pub(super) fn work(target: &str, args: &SandboxArgs) -> Result<Outcome> {
    close_inherited(&[])?;
    let prepared = Prepared::open(target, &args.look)?.with_image(None)?.for_worker(target, None)?;
    let rules = match args.rules.as_slice() {
        [] => Rules::from_text("selftest", RULE)?,
        paths => Rules::load(paths)?,
    };
    say(&Line::LockedDown(lock_down(&Limits::default())?))?;
    let started = Instant::now();
    let mut guest = prepared.attach()?;
    let image = guest.find_image()?;
    let found = guest.look(|_| true);
    let scope = Scope { processes: true, files: true, kernel: true, physical: false, pid: None };
    let cache = ScanCache::new(CACHE_BYTES)?;
    let wanted = Wanted { threads: THREADS, cache: Some(&cache), ..Wanted::new(&rules, scope) };
    let (matched, summary) = signatures::scan(guest.linux(), &guest.options, &wanted, &mut |_| ());
    let gaps = [&found, &matched].map(|look| (look.gaps.len() as u64).saturating_add(look.more_gaps));
    say(&Line::Worked(Box::new(Work {
        release: guest.linux().kernel().profile.identity.release.clone(),
        image,
        detectors: DETECTORS.len(),
        findings: found.items,
        matches: matched.items,
        scanned_bytes: summary.bytes,
        gaps: gaps.iter().sum(),
        learned: guest.take_learned().len(),
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })))?;
    Ok(Outcome::Clean)
}

/// A line for the parent.
fn say(line: &Line) -> Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
