//! YARA signatures over the memory of processes, cached files, the kernel and all RAM.
//!
//! *Does*: compiles rule files ([`Rules`]), gathers what each process has in memory, map by map, and scans each map as one
//! region with holes, so that a match may cross pages and a condition may need several strings of one map.
//! *Trusts*: the rule files, as far as their author is the admin; they are limited nevertheless. Nothing in the guest: a region has a
//! limit in bytes and in time, and one that reaches it is a gap.
//! *Never*: scans a page that is not there as zeros, or reports a match without the address that it is at.
//!
//! *Evaded by*: what is swapped out, encrypted while it rests, or in memory for less time than passes between two looks.
//!
//! Engine: boreal, whose rules are YARA's. Conditions on `filesize` and `uintN(0)` hold for no region with holes: rules of files
//! want files, which the page cache has.

#![warn(clippy::indexing_slicing)]

mod gather;
mod rules;
#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests;

pub use rules::{BadRules, Rules, RulesError};

use crate::{Finding, Severity, Subject};
use boreal::Scanner;
use boreal::scanner::{FragmentedScanMode, ScanError, ScanParams, ScanResult};
use gather::Region;
use lynceus_introspect::linux::{LinuxGuest, Map, Mm, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gva, Partial};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::time::Duration;

/// Name of the detector.
pub const NAME: &str = "signature";
/// The technique of rules that name none.
const TECHNIQUE: &str = "T1027";
/// Longest scan of one region. A region that is made to be slow must not keep the others waiting.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Strings of one rule that a finding tells, and matches of one string.
const MAX_STRINGS: usize = 16;
const MAX_MATCHES: u32 = 64;
/// Longest match that is told, in bytes.
const MAX_MATCH_BYTES: usize = 128;
/// Bytes told on either side of a match.
const AROUND_BYTES: u64 = 64;

/// Where to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// The memory of processes.
    pub processes: bool,
    /// Every file that the kernel holds pages of, as a file.
    pub files: bool,
    /// The kernel's image and its modules.
    pub kernel: bool,
    /// All RAM, page after page, whoever owns it.
    pub physical: bool,
    /// Of the processes this one alone.
    pub pid: Option<u32>,
}

/// A match of one of a rule's strings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StringMatch {
    /// The string's name in the rule.
    pub name: String,
    /// Where it is: a virtual address, or a guest-physical one for all RAM.
    pub address: u64,
    /// How long it is, in bytes.
    pub len_bytes: u64,
    /// Its bytes, hexadecimal, the first 128 of them.
    pub bytes: String,
    /// What lies before and behind it, hexadecimal, up to 64 bytes each.
    pub around: (String, String),
}

/// The rule that matched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RuleMatch {
    /// Its name.
    pub rule: String,
    /// The file that it came from, without folder and ending, and a mark of its path.
    pub namespace: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its metadata.
    pub meta: Vec<(String, String)>,
    /// What matched.
    pub strings: Vec<StringMatch>,
    /// Bytes of the region that were there to be scanned.
    pub scanned_bytes: u64,
    /// The region's size in bytes.
    pub region_bytes: u64,
}

/// What has been done so far, for whoever waits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// Regions scanned.
    pub regions: u64,
    /// Bytes scanned.
    pub bytes: u64,
}

/// Scans a guest. `progress` is told after every region.
pub fn scan(
    guest: &LinuxGuest,
    options: &Options,
    rules: &Rules,
    scope: Scope,
    progress: &mut dyn FnMut(Progress),
) -> Partial<Finding> {
    let mut scan = Scan { rules, found: Partial::default(), progress: Progress::default(), tell: progress };
    if scope.processes {
        scan.processes(guest, options, scope.pid);
    }
    if scope.files {
        scan.files(guest, options);
    }
    let view = guest.view();
    if scope.kernel {
        scan.kernel(&view);
    }
    if scope.physical {
        scan.physical(guest);
    }
    scan.found
}

struct Scan<'s> {
    rules: &'s Rules,
    found: Partial<Finding>,
    progress: Progress,
    tell: &'s mut dyn FnMut(Progress),
}

impl Scan<'_> {
    fn processes(&mut self, guest: &LinuxGuest, options: &Options, pid: Option<u32>) {
        // Those that hide from the task list are scanned as well.
        let tasks = guest.observe(options, |view| view.processes()).result;
        let tasks = self.found.absorb(tasks);
        for (task, _) in tasks.iter().filter(|(task, _)| pid.is_none_or(|pid| pid == task.pid)) {
            if task.mm.is_null() {
                continue;
            }
            let maps = guest.observe(options, |view| {
                let mut maps = Partial::default();
                if let Some(mm) = maps.ok("mm", task.mm, view.mm(task.mm)) {
                    let found = view.maps(&mm);
                    maps.items = maps.absorb(found).into_iter().map(|map| (mm, map)).collect();
                }
                maps
            });
            let maps = self.found.absorb(maps.result);
            let view = guest.view();
            for (mm, map) in maps {
                self.map(&view, task, &mm, &map);
            }
        }
    }

    fn map(&mut self, view: &View<'_>, task: &Task, mm: &Mm, map: &Map) {
        let space = match view.process_space(mm) {
            Ok(space) => space,
            Err(why) => return self.found.gap("page tables", mm.at, why),
        };
        let region = Region::of_space(&space, map.start, map.end, &mut self.found);
        let subject = || Subject::Memory {
            pid: Some(task.pid),
            comm: Some(task.comm.clone()),
            start: map.start.0,
            end: map.end.0,
            path: map.path.clone(),
        };
        self.region(&region, &subject);
    }

    /// Files at their true size, so that conditions on size and offsets hold. A page that is not in memory reads as zeros there:
    /// how much of the file there was is told with each match.
    fn files(&mut self, guest: &LinuxGuest, options: &Options) {
        let files = guest.observe(options, |view| view.cached_files()).result;
        for file in self.found.absorb(files) {
            let region = Region::of_file(&**guest.memory(), &file, &mut self.found);
            let content = region.flat();
            let path = file.path.clone().unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            let extension = name.rsplit_once('.').map_or("", |(_, ending)| ending);
            let mut scanner = self.scanner();
            for (symbol, value) in [("filename", name), ("filepath", &path), ("extension", extension)] {
                // No rule uses it: nothing to define.
                let _ = scanner.define_symbol(symbol, value.to_owned());
            }
            let result = scanner.scan_mem(&content);
            let subject = || Subject::File {
                path: path.clone(),
                fs: file.fs.clone(),
                inode: file.number,
                size_bytes: file.size_bytes,
                deleted: file.links == 0,
                sha256: file.is_whole().then(|| hex(&Sha256::digest(&content))),
            };
            self.judge(&scanner, result, &region, &subject);
        }
    }

    fn kernel(&mut self, view: &View<'_>) {
        let kernel = view.kernel();
        for (first, last, name) in
            [("_text", "_etext", "kernel text"), ("__start_rodata", "__end_rodata", "kernel rodata")]
        {
            let (Ok(start), Ok(end)) = (kernel.symbol(first), kernel.symbol(last)) else { continue };
            let region = Region::of_space(view.space(), start, end, &mut self.found);
            self.region(&region, &|| of_kernel(start, end, name.to_owned()));
        }
        let modules = view.modules();
        for module in self.found.absorb(modules) {
            let end = Gva(module.base.0.saturating_add(module.size_bytes));
            let region = Region::of_space(view.space(), module.base, end, &mut self.found);
            self.region(&region, &|| of_kernel(module.base, end, format!("module {}", module.name)));
        }
    }

    fn physical(&mut self, guest: &LinuxGuest) {
        for range in guest.memory().ram().to_vec() {
            for region in Region::of_ram(&**guest.memory(), range) {
                let subject = || Subject::Memory {
                    pid: None,
                    comm: None,
                    start: region.start(),
                    end: region.end(),
                    path: "physical memory".to_owned(),
                };
                self.region(&region, &subject);
            }
        }
    }

    fn region(&mut self, region: &Region, subject: &dyn Fn() -> Subject) {
        if region.len_bytes() == 0 {
            return;
        }
        let scanner = self.scanner();
        let result = scanner.scan_fragmented(region.fragments());
        self.judge(&scanner, result, region, subject);
    }

    fn scanner(&self) -> Scanner {
        let params = ScanParams::default()
            .compute_full_matches(true)
            .match_max_length(MAX_MATCH_BYTES)
            .string_max_nb_matches(MAX_MATCHES)
            .timeout_duration(Some(MAX_TIME))
            .fragmented_scan_mode(FragmentedScanMode::single_pass())
            .process_memory(true);
        let mut scanner = self.rules.scanner().clone();
        scanner.set_scan_params(params);
        scanner
    }

    fn judge(
        &mut self,
        scanner: &Scanner,
        result: Result<ScanResult<'_>, (ScanError, ScanResult<'_>)>,
        region: &Region,
        subject: &dyn Fn() -> Subject,
    ) {
        let result = match result {
            Ok(result) => result,
            Err((error, result)) => {
                let reason = match error {
                    ScanError::Timeout => GapReason::Limit(MAX_TIME.as_secs()),
                    _ => GapReason::Inconsistent("the scan of a region failed"),
                };
                self.found.gap("signature scan, seconds", Gva(region.start()), reason);
                result
            }
        };
        for rule in result.rules {
            let strings = strings(&rule.matches, region);
            if strings.is_empty() && rule.matches.iter().any(|string| !string.matches.is_empty()) {
                continue;
            }
            let told = RuleMatch {
                rule: rule.name.to_owned(),
                namespace: rule.namespace.to_owned(),
                tags: rule.tags.iter().map(|tag| scanner.get_string_symbol(*tag).to_owned()).collect(),
                meta: rules::metadata(scanner, rule.metadatas),
                strings,
                scanned_bytes: region.len_bytes(),
                region_bytes: region.end().saturating_sub(region.start()),
            };
            self.found.items.push(finding(told, subject()));
        }
        self.progress.regions = self.progress.regions.saturating_add(1);
        self.progress.bytes = self.progress.bytes.saturating_add(region.len_bytes());
        (self.tell)(self.progress);
    }
}

fn of_kernel(start: Gva, end: Gva, path: String) -> Subject {
    Subject::Memory { pid: None, comm: None, start: start.0, end: end.0, path }
}

/// Matches that are the region's own, in ascending order of address.
fn strings(matches: &[boreal::scanner::StringMatches<'_>], region: &Region) -> Vec<StringMatch> {
    let mut told = Vec::new();
    for string in matches.iter().filter(|string| !string.matches.is_empty()).take(MAX_STRINGS) {
        for found in &string.matches {
            let address = (found.base as u64).saturating_add(found.offset as u64);
            if !region.owns(address) {
                continue;
            }
            let end = address.saturating_add(found.length as u64);
            told.push(StringMatch {
                name: string.name.to_owned(),
                address,
                len_bytes: found.length as u64,
                bytes: hex(&found.data),
                around: (
                    hex(region.bytes(address.saturating_sub(AROUND_BYTES), address)),
                    hex(region.bytes(end, end.saturating_add(AROUND_BYTES))),
                ),
            });
        }
    }
    told.sort_by_key(|found| found.address);
    told
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn finding(rule: RuleMatch, subject: Subject) -> Finding {
    let place = match &subject {
        Subject::Memory { pid: Some(pid), comm: Some(comm), path, .. } if !path.is_empty() => {
            format!("process {pid} ({comm}), {path}")
        }
        Subject::Memory { pid: Some(pid), comm: Some(comm), start, .. } => {
            format!("process {pid} ({comm}), anonymous memory at {start:#x}")
        }
        Subject::Memory { path, .. } => path.clone(),
        Subject::File { path, fs, inode, deleted, .. } => {
            let name = if path.is_empty() { format!("inode {inode}") } else { path.clone() };
            format!("file {name} on {fs}{}", if *deleted { ", deleted" } else { "" })
        }
        _ => String::new(),
    };
    let address = rule.strings.first().map_or_else(String::new, |found| format!(" at {:#x}", found.address));
    let meta = |name: &str| {
        rule.meta.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let technique = meta("attack")
        .or_else(|| meta("mitre_attack"))
        .map_or(TECHNIQUE.into(), |told| Cow::Owned(told.clone()));
    let summary = format!("rule {} matches{address} in {place}", rule.rule);
    let severity = severity(meta("severity").map(String::as_str));
    Finding { rule: Some(rule), ..Finding::new(NAME, technique, severity, summary, subject) }
}

/// What a rule says of itself, in words or as a number up to 100 as field rules have it.
fn severity(told: Option<&str>) -> Severity {
    match told.map(str::to_ascii_lowercase).as_deref() {
        Some("low" | "info" | "informational") => Severity::Low,
        Some("medium") => Severity::Medium,
        Some("critical") => Severity::Critical,
        Some(text) => match text.parse::<u32>() {
            Ok(0..40) => Severity::Low,
            Ok(40..70) => Severity::Medium,
            Ok(90..) => Severity::Critical,
            _ => Severity::High,
        },
        None => Severity::High,
    }
}
