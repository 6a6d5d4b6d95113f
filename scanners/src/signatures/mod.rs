//! YARA signatures and file hashes over the memory of processes, cached files, the kernel and all RAM.
//!
//! *Does*: compiles rule files ([`Rules`]), finds what there is to scan region by region — a map, a file, a part of the kernel, a
//! piece of RAM — copies each out once and scans it with its holes, so that a match may cross pages and a condition may need several
//! strings of one region. What was scanned before, here or in another guest, is not scanned again ([`ScanCache`]).
//! *Trusts*: the rule files, as far as their author is the admin; they are limited nevertheless. Nothing in the guest: a region has a
//! limit in bytes and in time, and one that reaches it is a gap; a guest that has many of them is reported.
//! *Never*: scans a page that is not there as zeros, except in a file; reports a match without the address that it is at.
//!
//! *Evaded by*: what is swapped out, encrypted while it rests, or in memory for less time than passes between two looks.
//!
//! Every region begins at offset 0, so that `uint16(0)` and `$a at 0` are its first bytes; a region in memory has no `filesize` and
//! no name. Rules that can therefore never match in a scope are listed: [`Rules::unserved`].

#![warn(clippy::indexing_slicing)]

mod cache;
mod conditions;
mod content;
#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod decide_tests;
mod engine;
mod finder;
mod fingerprint;
mod frames;
mod hashes;
mod heads;
mod judge;
mod keeper;
mod layout;
#[cfg(feature = "libyara")]
mod libyara;
#[cfg(all(test, feature = "libyara"))]
#[allow(clippy::indexing_slicing)]
mod libyara_tests;
mod markers;
mod parts;
mod paths;
mod pending;
#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod pending_tests;
mod pool;
mod reach;
#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod rescan_tests;
mod rules;
mod served;
mod sketch;
#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod sketch_tests;
mod sources;
mod table;
mod tell;
#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests;
mod walk;
mod windows;

pub use cache::ScanCache;
pub use hashes::{BadLine, HashList, HashesError, Listed};
pub use keeper::{BadRegion, Keeper, Region};
pub(crate) use keeper::{is_same, rescan};
pub use paths::PathPattern;
pub use rules::{BadRules, Rules, RulesError};
pub use served::Unserved;

use crate::Finding;
use judge::Bench;
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Partial};
use serde::{Deserialize, Serialize};
use sketch::Seen;
use walk::Walker;

/// Name of the detector.
pub const NAME: &str = "signature";
/// Name of the detector of files by their hashes.
pub const HASH_NAME: &str = "denied_file";
/// The technique of rules that name none.
const TECHNIQUE: &str = "T1027";

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

/// What to look for, and how.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'w> {
    /// Signatures.
    pub rules: &'w Rules,
    /// Hashes of files.
    pub hashes: Option<&'w HashList>,
    /// Where.
    pub scope: Scope,
    /// Of the files these alone.
    pub path: Option<&'w PathPattern>,
    /// Threads that scan.
    pub threads: usize,
    /// What earlier scans found out.
    pub cache: Option<&'w ScanCache>,
    /// Where what shows matches is kept.
    pub keep: Option<&'w Keeper>,
}

impl<'w> Wanted<'w> {
    /// Rules over a scope, on one thread.
    pub fn new(rules: &'w Rules, scope: Scope) -> Wanted<'w> {
        Wanted { rules, hashes: None, scope, path: None, threads: 1, cache: None, keep: None }
    }
}

/// A match of one of a rule's strings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StringMatch {
    /// The string's name in the rule.
    pub name: String,
    /// Where it is: a virtual address, a guest-physical one for all RAM, an offset in a file.
    pub address: u64,
    /// How long it is, in bytes.
    pub len_bytes: u64,
    /// Its bytes, hexadecimal, the first 128 of them.
    pub bytes: String,
    /// The same as text, with all but printable ASCII escaped.
    pub text: String,
    /// What lies before and behind it, hexadecimal, up to 64 bytes each.
    pub around: (String, String),
    /// The same as text.
    pub around_text: (String, String),
}

/// The rule that matched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
    /// SHA-256 of the bytes that were scanned, one run after the other.
    pub sha256: Option<String>,
}

/// What has been done so far, for whoever waits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// Regions scanned.
    pub regions: u64,
    /// Bytes scanned.
    pub bytes: u64,
}

/// What a scan covered.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Regions with bytes in memory.
    pub regions: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Regions whose content was scanned before, here or elsewhere.
    pub reused_regions: u64,
    /// Their bytes.
    pub reused_bytes: u64,
    /// Regions that used up their time.
    pub cut_regions: u64,
    /// Files of the page cache among the regions.
    pub files: u64,
    /// Of these wholly in memory: the others have no hash.
    pub whole_files: u64,
    /// Files whose hash is allowed.
    pub allowed_files: u64,
    /// What signatures said of those and was not told.
    pub allowed_findings: u64,
}

impl Summary {
    fn add(&mut self, other: &Summary) {
        let sum = |a: &mut u64, b: u64| *a = a.saturating_add(b);
        sum(&mut self.regions, other.regions);
        sum(&mut self.bytes, other.bytes);
        sum(&mut self.reused_regions, other.reused_regions);
        sum(&mut self.reused_bytes, other.reused_bytes);
        sum(&mut self.cut_regions, other.cut_regions);
        sum(&mut self.files, other.files);
        sum(&mut self.whole_files, other.whole_files);
        sum(&mut self.allowed_files, other.allowed_files);
        sum(&mut self.allowed_findings, other.allowed_findings);
    }
}

/// Scans a guest. `progress` is told as regions are done.
pub fn scan(
    guest: &LinuxGuest,
    options: &Options,
    wanted: &Wanted<'_>,
    progress: &mut dyn FnMut(Progress),
) -> (Partial<Finding>, Summary) {
    let Wanted { rules, hashes, cache, keep, threads, .. } = *wanted;
    // Worth reading a region before it is copied: verdicts of it, or pages of it that were searched elsewhere.
    let is_worth = |cache: &ScanCache| cache.knows_something() || rules.parts().is_some();
    let seen = cache.map_or_else(Seen::default, |cache| Seen::new(is_worth(cache)).expecting(cache.frames()));
    let bench = Bench { hashes, keep, seen, threads, ..Bench::new(&**guest.memory(), rules, cache) };
    let (mut found, summary) = pool::run(&bench, progress, |hand_on| {
        let mut walker = Walker::new(guest, options, hand_on);
        walker.all(wanted.scope, wanted.path);
        walker.gaps
    });
    if let Some(cache) = cache {
        cache.expect_frames(bench.seen.len());
    }
    if summary.cut_regions > 0 {
        let slow = found.gaps.iter().find(|gap| matches!(gap.reason, GapReason::Time(_)));
        let first = slow.and_then(|gap| gap.at).map(|at| at.0);
        found.items.push(tell::starving(&summary, first));
    }
    (found, summary)
}
