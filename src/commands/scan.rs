//! `lynceus scan`: YARA signatures over a guest's memory.

use super::alerts;
use crate::attach::Guest;
use crate::cli::{ScanArgs, ScanScope};
use crate::output::{Outcome, Output, escape};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use lynceus_introspect::{GapReason, Partial};
use lynceus_scanners::signatures::{self, Progress, Rules, Scope};
use std::time::{Duration, Instant};

/// Scans. Rule files that cannot be used make the scan incomplete.
pub(super) fn run(output: Output, args: &ScanArgs) -> Result<Outcome> {
    let rules = Rules::load(&args.rules)?;
    for bad in rules.bad() {
        eprintln!("lynceus: {}: {}", bad.path.display(), escape(&bad.why));
    }
    let guest = Guest::attach(&args.target.target, &args.target.look)?;
    let has = |scope| args.scope.contains(&scope);
    let scope = Scope {
        processes: has(ScanScope::Process),
        files: has(ScanScope::Files),
        kernel: has(ScanScope::Kernel),
        physical: has(ScanScope::Physical),
        pid: args.pid,
    };
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes} in {msg} regions, {bytes_per_sec}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let (started, mut last) = (Instant::now(), Progress::default());
    let mut found = signatures::scan(guest.linux(), &guest.options, &rules, scope, &mut |progress| {
        last = progress;
        bar.set_position(progress.bytes);
        bar.set_message(progress.regions.to_string());
    });
    bar.finish_and_clear();
    if guest.damaged {
        found.gap("memory", None, GapReason::Inconsistent("the dump is damaged"));
    }
    let mut all = Partial { items: guest.disagreements(), ..Partial::default() };
    let findings = all.absorb(found);
    all.items.extend(findings);
    let closing = format!(
        "{} rules of {} files over {} MiB in {} regions, {:.1} s",
        rules.len(),
        rules.files(),
        last.bytes >> 20,
        last.regions,
        started.elapsed().as_secs_f32()
    );
    let outcome = alerts::tell(output, &guest.name, all, &closing)?;
    Ok(if rules.bad().is_empty() { outcome } else { outcome.and(Outcome::Incomplete) })
}
