//! A region of which little changed: only what changed is searched, and only what surrounds matches is judged.
//!
//! *Does*: cuts the runs of a region into windows of a page and remembers which strings match in each, by a digest of the window and of
//! what its matches can depend on: some bytes before it and the head of the page behind it. A region that is not as it was is then searched in the windows
//! that are not known; its verdict comes from the rules themselves, over fragments of the region that hold every match. Strings
//! whose matches may reach far are searched for in the whole region. A file is such a region as well: one run, holes as zeros.
//! *Trusts*: nothing: before a verdict is taken from fragments, they are searched for all strings, and must hold the very matches that
//! are known of the region. Otherwise all of it is scanned. Conditions that read bytes of the region read the whole region.
//! *Never*: remembers a window in which the engine stopped counting, or cuts a program into pieces where rules take programs apart.

use super::cache::{Places, ScanCache};
use super::content::Content;
use super::finder::{Finder, Place};
use super::fingerprint::{Digester, HEAD_BYTES, PageDigest, Surroundings, TAIL_BYTES, WindowKey};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A window is a page: whatever is mapped or cached of the same file is cut alike.
const PAGE_BYTES: u64 = 4096;
/// Bytes before and behind a match that it can depend on: a character of two bytes, for whole words.
const AROUND_BYTES: u64 = TAIL_BYTES as u64;
/// Bytes behind a window that matches in it can depend on.
const BEHIND_BYTES: u64 = HEAD_BYTES as u64;
/// The longest match of which that is true.
pub(super) const MAX_NEAR_BYTES: u64 = BEHIND_BYTES - AROUND_BYTES;
/// Matches in a window that are remembered; one with more is searched again each time.
const MAX_PLACES: usize = 64;
/// A smaller region is scanned as it is: to start the engine some times over costs more.
const MIN_REGION_BYTES: u64 = 64 << 10;
/// A region whose fragments are more than a part of it is scanned as it is.
const MIN_GAIN: u64 = 3;
/// What modules take for a program when a region begins with it: PE, ELF, DEX, Mach-O.
const MAGICS: [&[u8]; 9] = [
    b"MZ",
    b"\x7fELF",
    b"dex\n",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"\xbe\xba\xfe\xca",
];

/// A match that begins in a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Near {
    string: u32,
    at: u16,
    len: u16,
}

/// A page of a run.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Offsets in the region.
    pub(super) span: Range<u64>,
    /// The run that it is part of.
    pub(super) run: Range<u64>,
    /// Its page's number among those that were digested.
    pub(super) page: usize,
}

/// Runs cut into windows; none where pages were not digested one by one: every run but the last must be whole pages.
pub(super) fn cut(runs: impl Iterator<Item = Range<u64>>) -> Option<Vec<Window>> {
    let mut windows: Vec<Window> = Vec::new();
    for run in runs {
        if windows.last().is_some_and(|last| last.len_bytes() != PAGE_BYTES) {
            return None;
        }
        let mut start = run.start;
        while start < run.end {
            let end = start.saturating_add(PAGE_BYTES).min(run.end);
            windows.push(Window { span: start..end, run: run.clone(), page: windows.len() });
            start = end;
        }
    }
    Some(windows)
}

/// What stands for each of these windows of a region with these pages.
pub(super) fn keys(
    windows: &[Window],
    pages: &[PageDigest],
    digester: &Digester,
    rules: &[u8; blake3::OUT_LEN],
) -> Option<Vec<WindowKey>> {
    windows.iter().map(|window| window.key(digester, pages, rules)).collect()
}

impl Window {
    pub(super) fn len_bytes(&self) -> u64 {
        self.span.end.saturating_sub(self.span.start)
    }

    /// What matches that begin in it can depend on: itself, some bytes before it and some behind it.
    fn key(
        &self,
        digester: &Digester,
        pages: &[PageDigest],
        rules: &[u8; blake3::OUT_LEN],
    ) -> Option<WindowKey> {
        Some(digester.window(Surroundings {
            page: pages.get(self.page)?,
            before: self.before(pages),
            behind: self.behind(pages),
            len_bytes: self.len_bytes(),
            behind_bytes: self.behind_bytes(),
            rules,
        }))
    }

    /// The page before it in its run, of all pages' digests.
    pub(super) fn before<'p>(&self, pages: &'p [PageDigest]) -> Option<&'p PageDigest> {
        pages.get(self.page.checked_sub(1)?).filter(|_| self.span.start > self.run.start)
    }

    /// The page behind it in its run.
    pub(super) fn behind<'p>(&self, pages: &'p [PageDigest]) -> Option<&'p PageDigest> {
        pages.get(self.page.checked_add(1)?).filter(|_| self.span.end < self.run.end)
    }

    /// How many bytes there are of what its matches can depend on behind it.
    pub(super) fn behind_bytes(&self) -> u64 {
        self.run.end.saturating_sub(self.span.end).min(BEHIND_BYTES)
    }

    /// Whether it is the page behind another in the same run.
    pub(super) fn follows(&self, other: &Window) -> bool {
        self.run.start == other.run.start && self.span.start == other.span.end
    }
}

/// Fragments of a region on which the rules' verdict is that of the whole; none if the region must be scanned as it is.
pub(super) fn fragments(
    content: &Content,
    finder: &Finder,
    programs_whole: bool,
    rules: &[u8; blake3::OUT_LEN],
    cache: &ScanCache,
    budget: Duration,
) -> Option<Vec<Range<u64>>> {
    let programs = if programs_whole { around(content, &[], true) } else { Vec::new() };
    let is_small = |bytes: u64| bytes.saturating_mul(MIN_GAIN) <= content.present_bytes();
    if content.present_bytes() < MIN_REGION_BYTES || !is_small(bytes_of(&programs)) {
        return None;
    }
    let windows = cut(content.run_offsets())?;
    let keys = keys(&windows, content.page_digests(), cache.digester(), rules)?;
    let known = cache.windows(&keys);
    let unknown = windows.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(window, _)| window);
    let spans = spans(unknown);
    let all_new = known.iter().all(Option::is_none);
    let found = finder.all(content, &spans, budget)?;
    let mut places = if all_new { Vec::new() } else { finder.far(content, budget)? };
    let mut fresh = Vec::new();
    let mut found = found.as_slice();
    for ((window, key), known) in windows.iter().zip(&keys).zip(&known) {
        if let Some(known) = known {
            places.extend(within(known, window.span.start));
            continue;
        }
        let (_, from) = found.split_at(found.partition_point(|place| place.offset < window.span.start));
        let (own, behind) = from.split_at(from.partition_point(|place| place.offset < window.span.end));
        found = behind;
        let near = |place: &&Place| !finder.is_far(place.string);
        places.extend(own.iter().filter(|place| all_new || near(place)));
        if let Some(own) = remembered(own.iter().filter(near), window.span.start) {
            fresh.push((*key, own));
        }
    }
    cache.put_windows(fresh);
    places.sort_unstable();
    let fragments = around(content, &places, programs_whole);
    if !is_small(bytes_of(&fragments)) {
        return None;
    }
    // Where nothing matches there is nothing to hold against what is known.
    (fragments.is_empty() || finder.all(content, &fragments, budget)? == places).then_some(fragments)
}

/// The matches that begin in a window, as they are remembered; none if there are too many.
pub(super) fn remembered<'p>(places: impl Iterator<Item = &'p Place>, start: u64) -> Option<Places> {
    let all: Vec<Near> =
        places.take(MAX_PLACES + 1).map(|place| Near::of(place, start)).collect::<Option<_>>()?;
    (all.len() <= MAX_PLACES).then(|| (!all.is_empty()).then(|| Arc::new(all)))
}

/// Remembered matches in a window that begins there.
pub(super) fn within(places: &Places, start: u64) -> impl Iterator<Item = Place> {
    places.iter().flat_map(|list| list.iter()).map(move |near| near.place(start))
}

impl Near {
    fn of(place: &Place, start: u64) -> Option<Near> {
        let at = u16::try_from(place.offset.checked_sub(start)?).ok()?;
        Some(Near { string: place.string, at, len: u16::try_from(place.len).ok()? })
    }

    fn place(self, start: u64) -> Place {
        let offset = start.saturating_add(self.at.into());
        Place { offset, len: self.len.into(), string: self.string }
    }
}

/// What must be searched for all matches that begin in these windows.
fn spans<'w>(windows: impl Iterator<Item = &'w Window>) -> Vec<Range<u64>> {
    let mut spans: Vec<Range<u64>> = Vec::new();
    for window in windows {
        let from = window.span.start.saturating_sub(AROUND_BYTES).max(window.run.start);
        let to = window.span.end.saturating_add(BEHIND_BYTES).min(window.run.end);
        match spans.last_mut() {
            Some(last) if last.end >= from && window.span.start > window.run.start => last.end = to,
            _ => spans.push(from..to),
        }
    }
    spans
}

fn bytes_of(parts: &[Range<u64>]) -> u64 {
    parts.iter().map(|part| part.end.saturating_sub(part.start)).sum()
}

/// Matches with what they depend on, joined where they touch; whole runs that begin like a program where those must be whole.
fn around(content: &Content, places: &[Place], programs_whole: bool) -> Vec<Range<u64>> {
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut places = places;
    for run in content.run_offsets() {
        let (own, behind) = places.split_at(places.partition_point(|place| place.offset < run.end));
        places = behind;
        if programs_whole && looks_like_program(content, run.start, &run) {
            parts.push(run);
            continue;
        }
        let first = parts.len();
        for place in own {
            let mut from = place.offset.saturating_sub(AROUND_BYTES).max(run.start);
            // A fragment must not look like a program where the run does not begin.
            while programs_whole && from > run.start && looks_like_program(content, from, &run) {
                from = from.saturating_sub(1);
            }
            let to = place.offset.saturating_add(place.len).saturating_add(AROUND_BYTES).min(run.end);
            match parts.get_mut(first..).and_then(<[_]>::last_mut) {
                Some(last) if last.end >= from => last.end = last.end.max(to),
                _ => parts.push(from..to),
            }
        }
    }
    parts
}

fn looks_like_program(content: &Content, at: u64, run: &Range<u64>) -> bool {
    let bytes = content.bytes(at, at.saturating_add(4).min(run.end));
    MAGICS.iter().any(|magic| bytes.starts_with(magic))
}
