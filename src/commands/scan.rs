//! `lynceus scan`: YARA signatures and file hashes over the memory of guests, once or again and again.

use super::alerts;
use super::check::write_evidence;
use crate::attach::Guest;
use crate::cli::{ScanArgs, ScanScope};
use crate::output::{Outcome, Output, escape};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use lynceus_alerts::Alert;
use lynceus_introspect::Partial;
use lynceus_introspect::memory::ram_bytes;
use lynceus_scanners::signatures::{
    self, HashList, Keeper, PathPattern, Progress, Rules, ScanCache, Scope, Summary, Unserved, Wanted,
};
use lynceus_scanners::{Finding, evidence};
use serde::Serialize;
use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Rules that no scope serves are named up to so many; JSON names all of them.
const UNSERVED_NAMED: usize = 10;

/// What is the same for all scans of a command.
struct Plan {
    rules: Rules,
    hashes: Option<HashList>,
    path: Option<PathPattern>,
    scope: Scope,
    threads: usize,
    cache: Option<ScanCache>,
    evidence: Option<PathBuf>,
}

/// Scans. Rule files that cannot be used make the scan incomplete.
pub(super) fn run(output: Output, args: &ScanArgs) -> Result<Outcome> {
    let mut plan = plan(args)?;
    let mut outcome = Outcome::Clean;
    for bad in plan.rules.bad() {
        eprintln!("lynceus: {}: {}", bad.path.display(), escape(&bad.why));
        outcome = Outcome::Incomplete;
    }
    tell_unserved(output, &plan)?;
    let guests =
        args.targets.iter().map(|target| Guest::attach(target, &args.look)).collect::<Result<Vec<_>>>()?;
    // In one scan of one guest as well: many processes map the same libraries.
    let ram = guests.iter().map(|guest| ram_bytes(&**guest.linux().memory())).sum();
    let cache = ScanCache::for_ram(ram);
    plan.cache = Some(cache.context("no random numbers for the keys of the cache")?);
    let mut told = HashSet::new();
    for turn in 0.. {
        if turn > 0 {
            let Some(every) = args.every.filter(|_| args.times.is_none_or(|times| turn < times)) else {
                break;
            };
            std::thread::sleep(every);
        }
        for guest in &guests {
            outcome = outcome.and(scan(output, guest, &plan, &mut told)?);
        }
        if let Some(cache) = &plan.cache {
            cache.end_turn();
        }
    }
    Ok(outcome)
}

fn plan(args: &ScanArgs) -> Result<Plan> {
    let rules = match &args.rules {
        none if none.is_empty() => Rules::none(),
        #[cfg(feature = "libyara")]
        rules if args.libyara => Rules::load_for_libyara(rules)?,
        rules => Rules::load(rules)?,
    };
    let hashes = args.hashes.as_deref().map(HashList::load).transpose()?;
    // A path or hashes alone ask for files.
    let files_alone = args.path.is_some() || args.rules.is_empty();
    let default: &[ScanScope] = if files_alone {
        &[ScanScope::Files]
    } else {
        &[ScanScope::Process, ScanScope::Files, ScanScope::Kernel]
    };
    let scope = if args.scope.is_empty() { default } else { &args.scope };
    let has = |part| scope.contains(&part);
    let scope = Scope {
        processes: has(ScanScope::Process),
        files: has(ScanScope::Files),
        kernel: has(ScanScope::Kernel),
        physical: has(ScanScope::Physical),
        pid: args.pid,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.jobs.map_or(cores, |jobs| usize::from(jobs.get()));
    Ok(Plan {
        rules,
        hashes,
        path: args.path.as_deref().map(PathPattern::new),
        scope,
        threads,
        cache: None,
        evidence: args.evidence.clone(),
    })
}

/// One scan of one guest. Findings that were told before are not told again.
fn scan(output: Output, guest: &Guest, plan: &Plan, told: &mut HashSet<String>) -> Result<Outcome> {
    let Plan { rules, hashes, path, scope, threads, cache, evidence } = plan;
    let keeper = evidence.is_some().then(Keeper::default);
    let wanted = Wanted {
        rules,
        hashes: hashes.as_ref(),
        scope: *scope,
        path: path.as_ref(),
        threads: *threads,
        cache: cache.as_ref(),
        keep: keeper.as_ref(),
    };
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes} in {msg} regions, {bytes_per_sec}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let started = Instant::now();
    let (mut found, summary) =
        signatures::scan(guest.linux(), &guest.options, &wanted, &mut |progress: Progress| {
            bar.set_position(progress.bytes);
            bar.set_message(progress.regions.to_string());
        });
    bar.finish_and_clear();
    guest.note_missing(&mut found);
    let mut all = Partial { items: guest.disagreements(), ..Partial::default() };
    let findings = all.absorb(found);
    all.items.extend(findings);
    let seen_before = all.items.len();
    all.items.retain(|finding| told.insert(lynceus_alerts::id(&guest.name, finding)));
    let again = seen_before - all.items.len();
    if let (Some(folder), Some(keeper)) = (evidence, &keeper) {
        all.items.iter().try_for_each(|finding| keep(guest, finding, keeper, folder))?;
    }
    let closing = closing(&guest.name, plan, &summary, started.elapsed(), again);
    let outcome = alerts::tell(output, &guest.name, all, &closing)?;
    if output.is_json() {
        let line = ScanLine { scan: &summary, vm: &guest.name, rules: rules.len(), again };
        writeln!(std::io::stderr().lock(), "{}", serde_json::to_string(&line)?)?;
    }
    Ok(if again > 0 { outcome.and(Outcome::Findings) } else { outcome })
}

/// Writes what shows a rule's match to a file of its own; what is no match of a rule has none.
fn keep(guest: &Guest, finding: &Finding, keeper: &Keeper, folder: &Path) -> Result<()> {
    if finding.rule.is_none() {
        return Ok(());
    }
    let alert = Alert::new(&guest.name, finding.clone(), SystemTime::now());
    match evidence::of_match(guest.linux(), &guest.name, alert.time_ms, finding, keeper) {
        Some(evidence) => write_evidence(&evidence, &alert.id, folder),
        None => {
            eprintln!("lynceus: {}: {}: too much to keep what shows it", guest.name, alert.id);
            Ok(())
        }
    }
}

/// What a scan covered, in a line.
fn closing(vm: &str, plan: &Plan, summary: &Summary, took: Duration, again: usize) -> String {
    let Plan { rules, hashes, .. } = plan;
    let mut line = format!(
        "{}: {} rules of {} files over {} MiB in {} regions, {:.1} s",
        escape(vm),
        rules.len(),
        rules.files(),
        summary.bytes >> 20,
        summary.regions,
        took.as_secs_f32()
    );
    if summary.reused_regions > 0 {
        let (regions, mib) = (summary.reused_regions, summary.reused_bytes >> 20);
        line.push_str(&format!("; {regions} regions ({mib} MiB) with content that was scanned before"));
    }
    if let Some(hashes) = hashes {
        line.push_str(&format!(
            "; {} hashes against {} of {} files, the others are not wholly in memory",
            hashes.len(),
            summary.whole_files,
            summary.files
        ));
    }
    if summary.allowed_files > 0 {
        line.push_str(&format!(
            "; {} files allowed, {} findings in them not told",
            summary.allowed_files, summary.allowed_findings
        ));
    }
    if again > 0 {
        line.push_str(&format!("; {again} findings told before"));
    }
    line
}

/// Names the rules that can match in none of the chosen scopes.
fn tell_unserved(output: Output, plan: &Plan) -> Result<()> {
    let Scope { processes, files, kernel, physical, .. } = plan.scope;
    let memory = processes || kernel || physical;
    let mut err = std::io::stderr().lock();
    for (scope, chosen) in [("memory", memory), ("files", files)] {
        let rules: Vec<&Unserved> = plan.rules.unserved().iter().filter(|rule| rule.scope == scope).collect();
        if !chosen || rules.is_empty() {
            continue;
        }
        if output.is_json() {
            rules.iter().try_for_each(|unserved| {
                writeln!(err, "{}", serde_json::to_string(&UnservedLine { unserved })?)?;
                anyhow::Ok(())
            })?;
            continue;
        }
        let named = rules.iter().take(UNSERVED_NAMED);
        let named: Vec<String> = named.map(|rule| format!("{} ({})", rule.rule, rule.needs)).collect();
        let more = rules.len().saturating_sub(UNSERVED_NAMED);
        let more = if more > 0 { format!(" and {more} more (--json lists them)") } else { String::new() };
        writeln!(
            err,
            "{} of {} rules cannot match in {scope}, which lacks what they need: {}{more}",
            rules.len(),
            plan.rules.len(),
            escape(&named.join(", "))
        )?;
    }
    Ok(())
}

#[derive(Serialize)]
struct UnservedLine<'u> {
    unserved: &'u Unserved,
}

#[derive(Serialize)]
struct ScanLine<'s> {
    scan: &'s Summary,
    vm: &'s str,
    rules: usize,
    again: usize,
}
