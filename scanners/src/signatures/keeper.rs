//! What shows a match, kept: the pages around it, and what it takes to scan them again with no guest.
//!
//! *Does*: takes the bytes from the very copy that was scanned, tries less first, and keeps what the rules match in again.
//! *Trusts*: nothing in a region that was read from a file: its parts are limited and must follow each other.
//! *Never*: keeps what does not show its match, or more than [`MAX_KEPT_BYTES`] of all matches of a scan.

use super::content::Content;
use super::engine::{Externals, Hit};
use super::judge::Bench;
use super::layout::{Layout, Part};
use super::walk::Job;
use super::{RuleMatch, Rules};
use crate::evidence::Pages;
use crate::{Finding, Subject};
use lynceus_introspect::{Gpa, GpaRange, GuestMemory};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};

const PAGE: u64 = 4096;
/// Most bytes kept of one region at first: its beginning, and what lies around matches.
const WINDOWS_BYTES: u64 = 1 << 20;
/// Bytes kept before and behind a match.
const AROUND_BYTES: u64 = 16 * PAGE;
/// Largest region that is kept as a whole where that does not suffice.
const WHOLE_BYTES: u64 = 8 << 20;
/// Most bytes that are kept of all matches of a scan.
const MAX_KEPT_BYTES: u64 = 256 << 20;
/// Most parts of a region, and the largest file, in what was kept.
const MAX_PARTS: usize = 4096;
const MAX_FILE_BYTES: u64 = 128 << 20;

/// Where matches' pages are put while a guest is scanned.
#[derive(Default, Debug)]
pub struct Keeper(Mutex<Vec<Kept>>);

/// A match and its pages.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    finding: Finding,
    pub(crate) region: Region,
    pub(crate) pages: Pages,
}

/// What is kept of a region that was scanned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Region {
    /// Its first address; 0 for a file.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
    /// Matches from this offset on were another region's.
    pub own_bytes: u64,
    /// Whether it was scanned as a file, with holes as zeros.
    pub is_file: bool,
    /// Offset in the region, guest-physical address and length of each part that is kept.
    pub parts: Vec<(u64, u64, u64)>,
    /// What rules were told of a file: name, path, ending, owner.
    pub names: [String; 4],
    /// Digest of the text of all rules that were used.
    pub rules: String,
}

/// A region of a file that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the parts of the region are too many, too large, or overlap")]
pub struct BadRegion;

impl Keeper {
    /// Keeps what shows a match, as far as there is room.
    pub(super) fn keep(&self, rules: &Rules, job: &Job, content: &Content, hit: &Hit, finding: &Finding) {
        let used = |kept: &[Kept]| kept.iter().map(|one| one.region.kept_bytes()).sum::<u64>();
        if used(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) >= MAX_KEPT_BYTES {
            return;
        }
        let all = [windows(job, hit), vec![(0, job.layout.region_bytes())]];
        for (wanted, most) in all.iter().zip([WINDOWS_BYTES, WHOLE_BYTES]) {
            let (region, pages) = cut(rules, job, content, wanted, most);
            let again = rescan(&region, finding.subject.clone(), &pages, rules).unwrap_or_default();
            if again.iter().any(|found| is_same(found, finding)) {
                let kept = Kept { finding: finding.clone(), region, pages };
                return self.0.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
            }
        }
    }

    /// What shows this finding.
    pub(crate) fn kept(&self, finding: &Finding) -> Option<Kept> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|kept| kept.finding == *finding).cloned()
    }
}

impl Region {
    fn kept_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, (_, _, len)| sum.saturating_add(*len))
    }

    fn layout(&self) -> Result<Layout, BadRegion> {
        let size = self.end.checked_sub(self.start).ok_or(BadRegion)?;
        let mut after = 0;
        for (offset, gpa, len) in &self.parts {
            let end = offset.checked_add(*len).filter(|end| *end <= size && *offset >= after);
            after = end.filter(|_| gpa.checked_add(*len).is_some()).ok_or(BadRegion)?;
        }
        let is_large = self.kept_bytes() > WHOLE_BYTES || self.is_file && size > MAX_FILE_BYTES;
        if is_large || self.parts.len() > MAX_PARTS {
            return Err(BadRegion);
        }
        let parts =
            self.parts.iter().map(|(offset, gpa, len)| Part { offset: *offset, gpa: Gpa(*gpa), len: *len });
        Ok(Layout {
            start: self.start,
            end: self.end,
            own_bytes: self.own_bytes,
            is_file: self.is_file,
            parts: parts.collect(),
            ..Layout::default()
        })
    }
}

/// What rules find in a region that was kept.
pub(crate) fn rescan(
    region: &Region,
    subject: Subject,
    memory: &(dyn GuestMemory + Send + Sync),
    rules: &Rules,
) -> Result<Vec<Finding>, BadRegion> {
    let [filename, filepath, extension, owner] = region.names.clone();
    let externals = Externals { filename, filepath, extension, owner };
    let job = Job { index: 0, subject, externals, layout: region.layout()? };
    let bench = Bench::new(memory, rules, None);
    Ok(bench.whole(job, &mut Content::default()).found.items)
}

/// Whether the same rule matches: each string that matched does so at one of the same places. A file of rules may be elsewhere now.
pub(crate) fn is_same(found: &Finding, wanted: &Finding) -> bool {
    let (Some(found), Some(wanted)) = (&found.rule, &wanted.rule) else { return false };
    let again = |name: &str| {
        let places = |rule: &RuleMatch| -> Vec<(u64, u64)> {
            let own = rule.strings.iter().filter(|string| string.name == name);
            own.map(|string| (string.address, string.len_bytes)).collect()
        };
        let there = places(found);
        places(wanted).iter().any(|place| there.contains(place))
    };
    found.rule == wanted.rule && wanted.strings.iter().all(|string| again(&string.name))
}

/// The beginning of a region, and what lies around a rule's matches: ascending, none in another.
fn windows(job: &Job, hit: &Hit) -> Vec<(u64, u64)> {
    let around = |offset: u64, len: u64| {
        (offset.saturating_sub(AROUND_BYTES), offset.saturating_add(len).saturating_add(AROUND_BYTES))
    };
    let mut all: Vec<(u64, u64)> =
        hit.strings.iter().map(|string| around(string.offset, string.len)).collect();
    all.push((0, PAGE));
    // The last bytes are what conditions on the end of a file look at.
    let size = job.layout.region_bytes();
    all.push((size.saturating_sub(PAGE), size));
    all.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (from, to) in all {
        match joined.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// The parts of a region that lie in windows, page by page, up to so many bytes, with their bytes.
fn cut(rules: &Rules, job: &Job, content: &Content, windows: &[(u64, u64)], most: u64) -> (Region, Pages) {
    let Layout { start, end, own_bytes, is_file, ref parts, .. } = job.layout;
    let names = job.externals.pairs().map(|(_, value)| value.to_owned());
    let rules = rules.text_digest();
    let mut region = Region { start, end, own_bytes, is_file, parts: Vec::new(), names, rules };
    let mut pages = Pages::default();
    let mut left = most;
    for part in parts {
        let mut done = 0;
        while done < part.len && region.parts.len() < MAX_PARTS {
            let (offset, gpa) = (part.offset.saturating_add(done), part.gpa.0.saturating_add(done));
            let len = (PAGE - gpa % PAGE).min(part.len - done);
            done = done.saturating_add(len);
            let last = offset.saturating_add(len);
            let bytes = content.bytes(offset, last);
            let is_wanted = windows.iter().any(|(from, to)| *from < last && *to > offset);
            if !is_wanted || bytes.is_empty() || left < len {
                continue;
            }
            left -= len;
            pages.put(Gpa(gpa), bytes);
            match region.parts.last_mut() {
                Some((at, from, so_far)) if *at + *so_far == offset && *from + *so_far == gpa => {
                    *so_far += len
                }
                _ => region.parts.push((offset, gpa, len)),
            }
        }
    }
    pages.ram = ranges(&pages);
    (region, pages)
}

/// RAM that is just these pages.
fn ranges(pages: &Pages) -> Vec<GpaRange> {
    let mut ranges: Vec<GpaRange> = Vec::new();
    for frame in pages.pages.keys() {
        match ranges.last_mut() {
            Some(last) if last.start.0 + last.len_bytes == frame * PAGE => last.len_bytes += PAGE,
            _ => ranges.push(GpaRange { start: Gpa(frame * PAGE), len_bytes: PAGE }),
        }
    }
    ranges
}
