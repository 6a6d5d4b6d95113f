//! A region of which little changed: only what changed is searched, and only what surrounds matches is judged.
//!
//! *Does*: cuts the runs of a region into windows of a page and remembers which strings match in each, by a digest of the window and of
//! what its matches can depend on: some bytes before it and the head of the page behind it. A region that is not as it was is then
//! searched in the windows that are not known. Where a rule may hold then, its verdict comes from the rules themselves, over fragments of
//! the region that hold every match. Strings whose matches may reach far are searched for in the whole region where their markers are in
//! it. A file is such a region as well: one run, holes as zeros.
//! *Trusts*: what is said of conditions by the matches (`conditions`). Before a verdict is taken from fragments, these are searched for all
//! strings, and must hold the very matches that are known of the region. Otherwise all of it is scanned. Conditions that read bytes read
//! the whole region.
//! *Never*: remembers a window in which the engine stopped counting, or cuts a program into pieces where rules take programs apart.

use super::cache::{Places, ScanCache};
use super::conditions::{Certain, Uncertain};
use super::content::Content;
use super::finder::{Finder, Place};
use super::fingerprint::{Digester, HEAD_BYTES, PageDigest, Surroundings, TAIL_BYTES, WindowKey};
use super::heads::begins_with_any;
use std::ops::Range;
use std::time::Duration;

/// A window is a page: whatever is mapped or cached of the same file is cut alike.
const PAGE_BYTES: u64 = 4096;
/// Bytes before and behind a match that it can depend on: a character of two bytes, for whole words.
const AROUND_BYTES: u64 = TAIL_BYTES as u64;
/// Bytes behind a window that matches in it can depend on.
const BEHIND_BYTES: u64 = HEAD_BYTES as u64;
/// The longest match of which that is true.
pub(super) const MAX_NEAR_BYTES: u64 = BEHIND_BYTES - AROUND_BYTES;
/// Matches in a window that are remembered; of one with more it is which strings match.
const MAX_PLACES: usize = 24;
/// Strings that are remembered so; a window with more is searched again each time.
const MAX_SIGNS: usize = 256;
/// The length of what stands for some matches of a string in a window, wherever they are.
const SIGN: u64 = FIELD;
/// The largest number of twelve bits.
const FIELD: u64 = (1 << 12) - 1;
/// A smaller region is scanned as it is: to start the engine some times over costs more.
const MIN_REGION_BYTES: u64 = 64 << 10;
/// A region whose fragments are more than a part of it is scanned as it is.
const MIN_GAIN: u64 = 3;
/// What a region's verdict follows from.
#[derive(Debug)]
pub(super) enum Fragments {
    /// No rule may hold.
    None,
    /// These parts of it, and no less.
    These(Vec<Range<u64>>),
    /// All of it.
    All,
}

/// What regions are searched with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search<'s> {
    pub(super) finder: &'s Finder,
    /// How programs begin that rules take apart.
    pub(super) magics: &'s [&'static [u8]],
    /// Digest of the rules.
    pub(super) rules: &'s [u8; blake3::OUT_LEN],
    pub(super) cache: &'s ScanCache,
    pub(super) budget: Duration,
    /// Whether the rules can be held against parts of the region.
    pub(super) parts_do: bool,
}

/// A match that begins in a window: 24 bits for the string, 12 for where it begins, 12 for how long it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Near([u8; 6]);

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

    /// Whether it is the first of its run.
    pub(super) fn begins_run(&self) -> bool {
        self.span.start == self.run.start
    }

    /// Whether it is the page behind another in the same run.
    pub(super) fn follows(&self, other: &Window) -> bool {
        self.run.start == other.run.start && self.span.start == other.span.end
    }
}

impl Search<'_> {
    /// What a region's verdict follows from. `may_match` says whether a rule may hold where these are all matches.
    pub(super) fn fragments(
        &self,
        content: &Content,
        may_match: &dyn Fn(&[Place], &dyn Uncertain) -> bool,
    ) -> Fragments {
        let Some(windows) = cut(content.run_offsets()) else { return Fragments::All };
        let keys = keys(&windows, content.page_digests(), self.cache.digester(), self.rules);
        let Some(keys) = keys else { return Fragments::All };
        let Some(mut places) = self.places(content, (&windows, &keys), true) else { return Fragments::All };
        if !may_match(&places, self.finder) {
            return Fragments::None;
        }
        if places.iter().any(Place::is_sign) {
            let Some(exact) = self.places(content, (&windows, &keys), false) else { return Fragments::All };
            places = exact;
            if !may_match(&places, self.finder) {
                return Fragments::None;
            }
        }
        // Markers are signs of matches; what may match without one is looked for wherever it could matter.
        if places.iter().any(|place| self.finder.is_far(place.string)) || !self.finder.anywhere().is_empty() {
            let Some(far) = self.finder.far(content.fragments(), self.budget) else { return Fragments::All };
            places.retain(|place| !self.finder.is_far(place.string));
            places.extend(far);
            places.sort_unstable();
            if !may_match(&places, &Certain) {
                return Fragments::None;
            }
        }
        let fragments = if self.parts_do { self.around_matches(content, &places) } else { None };
        fragments.map_or(Fragments::All, Fragments::These)
    }

    /// All matches of strings that do not reach far, and all markers, or signs of them where these will do; none if they cannot be found
    /// by windows.
    fn places(
        &self,
        content: &Content,
        (windows, keys): (&[Window], &[WindowKey]),
        signs_do: bool,
    ) -> Option<Vec<Place>> {
        let mut known = self.cache.windows(keys);
        if !signs_do {
            known.iter_mut().for_each(|one| *one = one.take().filter(|places| !has_sign(places)));
        }
        let unknown =
            windows.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(window, _)| window);
        let found = self.finder.near(content, &spans(unknown), self.budget)?;
        let (mut places, mut fresh) = (Vec::new(), Vec::new());
        let mut found = found.as_slice();
        for ((window, key), known) in windows.iter().zip(keys).zip(&known) {
            if let Some(known) = known {
                places.extend(within(known, window.span.start));
                continue;
            }
            let (_, from) = found.split_at(found.partition_point(|place| place.offset < window.span.start));
            let (own, behind) = from.split_at(from.partition_point(|place| place.offset < window.span.end));
            found = behind;
            places.extend(own);
            if let Some(own) = listed(own, window.span.start).as_ref().and_then(remembered) {
                fresh.push((*key, own));
            }
        }
        self.cache.put_windows(fresh);
        places.sort_unstable();
        Some(places)
    }

    /// Fragments of a region with these matches on which the rules' verdict is that of the whole; none if it must be scanned as it is.
    fn around_matches(&self, content: &Content, places: &[Place]) -> Option<Vec<Range<u64>>> {
        let is_small =
            |parts: &[Range<u64>]| bytes_of(parts).saturating_mul(MIN_GAIN) <= content.present_bytes();
        let fragments = around(content, places, self.magics);
        // Where there is none, modules would not see that there is a region.
        if fragments.is_empty() || content.present_bytes() < MIN_REGION_BYTES || !is_small(&fragments) {
            return None;
        }
        let mut again = self.finder.near(content, &fragments, self.budget)?;
        again.retain(|place| !self.finder.is_far(place.string));
        again.extend(self.finder.far(content.parts(&fragments), self.budget)?);
        again.sort_unstable();
        (again == places).then_some(fragments)
    }
}

/// The matches that begin in a window.
pub(super) fn listed(places: &[Place], start: u64) -> Option<Places> {
    places.iter().map(|place| Near::of(place, start)).collect()
}

/// What is remembered of the matches in a window: all of them, or a sign for each string; none where that is too much as well.
pub(super) fn remembered(places: &Places) -> Option<Places> {
    if places.len() <= MAX_PLACES {
        return Some(places.clone());
    }
    let mut strings: Vec<u32> = places.iter().map(|near| near.parts().0).collect();
    strings.sort_unstable();
    strings.dedup();
    if strings.len() > MAX_SIGNS {
        return None;
    }
    strings.into_iter().map(|string| Near::new(string.into(), 0, SIGN)).collect()
}

fn has_sign(places: &Places) -> bool {
    places.iter().any(|near| near.parts().2 == SIGN)
}

/// Matches in a window that begins there.
pub(super) fn within(places: &Places, start: u64) -> impl Iterator<Item = Place> {
    places.iter().map(move |near| near.place(start))
}

impl Near {
    fn new(string: u64, at: u64, len: u64) -> Option<Near> {
        if string >= 1 << 24 || at > FIELD || len > FIELD {
            return None;
        }
        let [bytes @ .., _, _] = (string << 24 | at << 12 | len).to_le_bytes();
        Some(Near(bytes))
    }

    /// The string, where it begins in the window, and how long it is.
    fn parts(self) -> (u32, u64, u64) {
        let [a, b, c, d, e, f] = self.0;
        let all = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        (u32::try_from(all >> 24).unwrap_or(u32::MAX), all >> 12 & FIELD, all & FIELD)
    }

    fn of(place: &Place, start: u64) -> Option<Near> {
        let at = place.offset.checked_sub(start)?;
        Near::new(place.string.into(), at, Some(place.len).filter(|len| *len != SIGN)?)
    }

    fn place(self, start: u64) -> Place {
        let (string, at, len) = self.parts();
        let len = if len == SIGN { Place::SIGN } else { len };
        Place { offset: start.saturating_add(at), len, string }
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

/// Matches with what they depend on, joined where they touch; whole runs that begin like a program.
fn around(content: &Content, places: &[Place], magics: &[&[u8]]) -> Vec<Range<u64>> {
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut places = places;
    for run in content.run_offsets() {
        let (own, behind) = places.split_at(places.partition_point(|place| place.offset < run.end));
        places = behind;
        if looks_like_program(content, run.start, &run, magics) {
            parts.push(run);
            continue;
        }
        let first = parts.len();
        for place in own {
            let mut from = place.offset.saturating_sub(AROUND_BYTES).max(run.start);
            // A fragment must not look like a program where the run does not begin.
            while from > run.start && looks_like_program(content, from, &run, magics) {
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

fn looks_like_program(content: &Content, at: u64, run: &Range<u64>, magics: &[&[u8]]) -> bool {
    begins_with_any(content.bytes(at, at.saturating_add(4).min(run.end)), magics)
}
