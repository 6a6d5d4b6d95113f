//! `lynceus check`: runs the detectors, prints alerts, once or again and again; keeps the evidence.

use super::{alerts, cohort};
use crate::attach::{Guest, Prepared};
use crate::cli::CheckArgs;
use crate::daemon::some_time;
use crate::output::{Outcome, Output};
use anyhow::{Context, Result};
use lynceus_alerts::Alert;
use lynceus_scanners::evidence::{self, Evidence};
use lynceus_scanners::{DETECTORS, Finding};
use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Runs every detector. Exit code 1 where one of them found something.
pub(super) fn run(output: Output, args: &CheckArgs) -> Result<Outcome> {
    let mut guests = Vec::new();
    for target in &args.targets {
        let mut guest = Prepared::open(target, &args.look)?.with_image(args.kernel.as_deref())?.attach()?;
        let compared =
            Compared { kernel: guest.find_image()?, modules: guest.find_modules(args.modules.as_deref())? };
        guests.push((guest, compared));
    }
    let (mut outcome, mut told) = (Outcome::Clean, HashSet::new());
    let chance = RandomState::new();
    for turn in 0u32.. {
        if turn > 0 {
            let Some(every) = args.every.filter(|_| args.times.is_none_or(|times| turn < times)) else {
                break;
            };
            std::thread::sleep(some_time(every, chance.hash_one(turn) as f64 / u64::MAX as f64));
        }
        for (guest, compared) in &guests {
            let started = Instant::now();
            let mut found = guest.look(|_| true);
            let took = started.elapsed();
            found.items.retain(|finding| told.insert(lynceus_alerts::id(&guest.name, finding)));
            if let Some(folder) = &args.evidence {
                found.items.iter().try_for_each(|finding| keep(guest, finding, folder))?;
            }
            if turn == 0 || !found.items.is_empty() || !found.is_complete() {
                outcome = outcome.and(alerts::tell(output, &guest.name, found, &closing(compared, took))?);
            }
        }
        if args.cohort {
            let guests: Vec<&Guest> = guests.iter().map(|(guest, _)| guest).collect();
            outcome = outcome.and(cohort::run(output, &guests, &mut told)?);
        }
    }
    Ok(outcome)
}

/// What a guest is compared with: the kernel's file, and the folder of its modules.
struct Compared {
    kernel: Option<String>,
    modules: Option<String>,
}

fn closing(compared: &Compared, took: Duration) -> String {
    let names: Vec<&str> = DETECTORS.iter().map(|detector| detector.name).collect();
    let kernel = match &compared.kernel {
        Some(from) => format!("kernel code and constants compared with {from}"),
        None => {
            "kernel code and constants compared with nothing: import the kernel's vmlinuz, or give it with --kernel"
                .to_owned()
        }
    };
    let modules = match &compared.modules {
        Some(from) => format!("code of modules compared with {from}"),
        None => "code of modules compared with nothing: give their folder with --modules".to_owned(),
    };
    let (count, took, names) = (names.len(), took.as_millis(), names.join(", "));
    format!("{count} detectors ran in {took} ms: {names}\n{kernel}\n{modules}")
}

/// Writes what shows a finding to a file of its own, named by the alert's id.
fn keep(guest: &Guest, finding: &Finding, folder: &Path) -> Result<()> {
    let alert = Alert::new(&guest.name, finding.clone(), SystemTime::now());
    let Some(evidence) = evidence::collect(guest.linux(), &guest.name, alert.time_ms, finding) else {
        eprintln!("lynceus: {}: {} does not show any more: no evidence was kept", guest.name, alert.id);
        return Ok(());
    };
    write_evidence(&evidence, &alert.id, folder)
}

/// Writes evidence to a file that is named by the alert's id.
pub(super) fn write_evidence(evidence: &Evidence, id: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(format!("{id}.evidence"));
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    let mut file = BufWriter::new(file);
    let digest = evidence.write(&mut file).and_then(|digest| file.flush().map(|()| digest));
    let digest = digest.with_context(|| path.display().to_string())?;
    eprintln!("evidence: {} ({} pages, digest {digest})", path.display(), evidence.about.pages);
    Ok(())
}
