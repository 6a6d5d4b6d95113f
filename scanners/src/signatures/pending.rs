//! Regions that a scan does not know again because of a few pages: these pages alone are searched, those of many regions together.
//!
//! *Does*: asks for each page of such a region what is known of it, copies the pages of which nothing is, with what their matches can
//! depend on, and has the engine search all of them at once, because to start it costs more than to search a page. That gives all
//! matches of each region, without a copy of it.
//! *Trusts*: nothing. What was copied must have the digests that the region's fingerprint was made of, or the region is scanned whole.
//! *Never*: judges: what follows from a region's matches is for the rules.

use super::cache::{Places, ScanCache};
use super::finder::{Finder, Place};
use super::fingerprint::{Digester, Fingerprint, HEAD_BYTES, PageDigest, TAIL_BYTES, WindowKey};
use super::heads::{Heads, MAX_RUNS};
use super::layout::Layout;
use super::pool::together;
use super::sketch::Scratch;
use super::walk::Job;
use super::windows::{Window, cut, keys, listed, remembered, within};
use boreal::memory::{FragmentedMemory, MemoryParams, Region as Fetched, RegionDescription};
use lynceus_introspect::GuestMemory;
use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

const PAGE_BYTES: usize = 4096;
/// Bytes and regions that wait before they are searched.
const MAX_BYTES: usize = 512 << 10;
const MAX_REGIONS: usize = 256;
/// Of so many bytes and more each thread searches a part: the kernel's text alone would keep one as long as all else another.
const MIN_SHARED_BYTES: usize = 2 * MAX_BYTES;
/// A region of which more pages are new is scanned whole: 64 MB.
const MAX_NEW_PAGES: usize = 1 << 14;

/// A region whose new pages wait to be searched.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) job: Job,
    /// What its verdict is kept under.
    pub(super) key: Fingerprint,
    /// Bytes that came from the guest.
    pub(super) present_bytes: u64,
    pub(super) pages: Pages,
}

/// Pages of a region.
#[derive(Default, Debug)]
pub(super) struct Pages {
    /// Matches in those that are known.
    known: Vec<Place>,
    /// Which of the pages that wait are its own, or equal to its own, and where they begin in it.
    new: Vec<(usize, u64)>,
    /// How its runs begin; none where there are many.
    pub(super) heads: Option<Heads>,
}

/// Regions that wait, and their pages.
#[derive(Default, Debug)]
pub(super) struct Pending {
    regions: Vec<Waiting>,
    bytes: Vec<u8>,
    /// Where in these bytes there is what belongs together: neighbouring pages with what lies around them.
    parts: Vec<Range<usize>>,
    /// Where each page lies, in ascending order, and what its matches are kept under.
    pages: Vec<(Range<usize>, WindowKey)>,
    /// Which page has this key.
    by_key: HashMap<WindowKey, usize>,
}

/// A page that was copied, with what its matches can depend on.
struct Copied {
    /// The page before it ends so; the first page of a run has none.
    before: Option<[u8; TAIL_BYTES]>,
    /// The page, whole, and the next one's head behind it.
    bytes: [u8; PAGE_BYTES + HEAD_BYTES],
    /// How much of each there is.
    own: usize,
    behind: usize,
}

impl Pending {
    /// Whether the pages should be searched now.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= MAX_BYTES || self.regions.len() >= MAX_REGIONS
    }

    /// Takes in the new pages of a region that was sketched just now; none where it is to be scanned whole.
    pub(super) fn take_pages(
        &mut self,
        memory: &dyn GuestMemory,
        layout: &Layout,
        scratch: &Scratch,
        cache: &ScanCache,
        rules: &[u8; blake3::OUT_LEN],
    ) -> Option<Pages> {
        let digester = cache.digester();
        let runs = layout.runs();
        let has_heads = runs.len() <= MAX_RUNS;
        let windows = cut(runs.into_iter().map(|(offset, len)| offset..offset.saturating_add(len)))?;
        let keys = keys(&windows, scratch.digests(), digester, rules)?;
        let found = cache.windows(&keys);
        let new = found.iter().filter(|found| found.is_none()).count();
        if new > MAX_NEW_PAGES {
            return None;
        }
        let copier = Copier { memory, scratch, digester };
        let mut heads = Heads::default();
        if has_heads {
            windows
                .iter()
                .filter(|window| window.begins_run())
                .try_for_each(|window| copier.head(window, &mut heads))?;
        }
        let heads = has_heads.then_some(heads);
        let mut pages = Pages { known: Vec::new(), new: Vec::with_capacity(new), heads };
        let mut last = None;
        for ((window, key), found) in windows.iter().zip(keys).zip(&found) {
            if let Some(places) = found {
                pages.known.extend(within(places, window.span.start));
                continue;
            }
            let index = match self.by_key.get(&key) {
                Some(index) => *index,
                None => {
                    let copied = copier.copy(window)?;
                    let joins = last.is_some_and(|last| window.follows(last));
                    last = Some(window);
                    self.add(key, &copied, joins)
                }
            };
            pages.new.push((index, window.span.start));
        }
        Some(pages)
    }

    /// Adds a page, joined to the one before it where that is its neighbour.
    fn add(&mut self, key: WindowKey, copied: &Copied, joins: bool) -> usize {
        match self.pages.last().filter(|_| joins) {
            // Of this page there is the head already.
            Some((before, _)) => self.bytes.truncate(before.end),
            None => {
                self.parts.push(self.bytes.len()..0);
                self.bytes.extend(copied.before.iter().flatten());
            }
        }
        let start = self.bytes.len();
        let end = copied.own.saturating_add(copied.behind);
        self.bytes.extend_from_slice(copied.bytes.get(..end).unwrap_or_default());
        self.pages.push((start..start.saturating_add(copied.own), key));
        if let Some(part) = self.parts.last_mut() {
            part.end = self.bytes.len();
        }
        let index = self.pages.len().saturating_sub(1);
        self.by_key.insert(key, index);
        index
    }

    /// Has a region wait for what is found in its pages.
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.regions.push(waiting);
    }

    /// Searches what waits, in so many threads, and remembers it. Returns the regions, and of each all matches, where these could be
    /// found.
    pub(super) fn search(
        &mut self,
        finder: &Finder,
        cache: &ScanCache,
        budget: Duration,
        threads: usize,
    ) -> Vec<(Waiting, Option<Vec<Place>>)> {
        let shares = if self.bytes.len() < MIN_SHARED_BYTES { 1 } else { threads };
        let found = self.places(finder, budget, &self.pages, shares);
        let of_page = |page: &Range<usize>| listed(places_in(found.as_ref()?, page), page.start as u64);
        let found: Vec<Option<Places>> = self.pages.iter().map(|(page, _)| of_page(page)).collect();
        let fresh = self
            .pages
            .iter()
            .zip(&found)
            .filter_map(|((_, key), found)| Some((*key, found.as_ref().and_then(remembered)?)));
        cache.put_windows(fresh.collect());
        let regions = self.regions.drain(..).map(|mut waiting| {
            let places = waiting.pages.all(&found);
            (waiting, places)
        });
        let regions = regions.collect();
        self.bytes.clear();
        // Of a large region nothing must stay.
        self.bytes.shrink_to(2 * MAX_BYTES);
        self.parts.clear();
        self.pages.clear();
        self.by_key.clear();
        regions
    }

    /// All matches that begin in some of the pages, in ascending order; none where they could not be found.
    fn places(
        &self,
        finder: &Finder,
        budget: Duration,
        pages: &[(Range<usize>, WindowKey)],
        shares: usize,
    ) -> Option<Vec<Place>> {
        let half = shares / 2;
        if half > 0 && pages.len() >= shares {
            let (ours, others) = pages.split_at(pages.len() / shares * half);
            let (found, others) = together(
                || self.places(finder, budget, ours, half),
                || self.places(finder, budget, others, shares.saturating_sub(half)),
            );
            let (mut found, others) = (found?, others?);
            found.extend(others);
            return Some(found);
        }
        let Some(((first, _), (last, _))) = pages.first().zip(pages.last()) else { return Some(Vec::new()) };
        let own = first.start..last.end;
        let parts = parts_around(&self.parts, &own);
        let mut found = finder.within(Parts { bytes: &self.bytes, parts: &parts, next: 0 }, budget)?;
        found.retain(|place| own.contains(&usize::try_from(place.offset).unwrap_or(usize::MAX)));
        Some(found)
    }

    /// Bytes that wait.
    pub(super) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Pages {
    /// All matches of the region, in ascending order; none where of a page they are not known.
    fn all(&mut self, found: &[Option<Places>]) -> Option<Vec<Place>> {
        let mut all = std::mem::take(&mut self.known);
        for (page, start) in &self.new {
            all.extend(within(found.get(*page)?.as_ref()?, *start));
        }
        all.sort_unstable();
        Some(all)
    }
}

/// What it takes of parts to find what begins in a range of their bytes.
fn parts_around(parts: &[Range<usize>], own: &Range<usize>) -> Vec<Range<usize>> {
    let start = own.start.saturating_sub(TAIL_BYTES);
    let end = own.end.saturating_add(HEAD_BYTES);
    let touching = parts.iter().filter(|part| part.start < own.end && part.end > own.start);
    touching.map(|part| part.start.max(start)..part.end.min(end)).collect()
}

/// The matches that begin in a page.
fn places_in<'p>(found: &'p [Place], page: &Range<usize>) -> &'p [Place] {
    let before = |end: usize| found.partition_point(|place| place.offset < end as u64);
    found.get(before(page.start)..before(page.end)).unwrap_or_default()
}

/// Copies pages of a region that was sketched.
struct Copier<'c> {
    memory: &'c dyn GuestMemory,
    scratch: &'c Scratch,
    digester: &'c Digester,
}

impl Copier<'_> {
    /// The first bytes of the run that a window begins; none if they are not any more what the sketch was made of.
    fn head(&self, window: &Window, heads: &mut Heads) -> Option<()> {
        let mut bytes = [0; HEAD_BYTES];
        self.scratch.copy_page(self.memory, window.page, &mut bytes)?;
        let is_same = self.digester.is_head_of(&bytes, self.scratch.digests().get(window.page)?);
        let len = usize::try_from(window.len_bytes()).ok()?.min(HEAD_BYTES);
        heads.push(window.run.clone(), bytes.get(..len)?);
        is_same.then_some(())
    }

    /// A window's page and what lies around it; none if it is not any more what the sketch was made of.
    fn copy(&self, window: &Window) -> Option<Copied> {
        let pages = self.scratch.digests();
        let mut copied = Copied {
            before: window.before(pages).map(PageDigest::tail),
            bytes: [0; PAGE_BYTES + HEAD_BYTES],
            own: usize::try_from(window.len_bytes()).ok()?,
            behind: usize::try_from(window.behind_bytes()).ok()?,
        };
        let (page, head) = copied.bytes.split_at_mut_checked(PAGE_BYTES)?;
        self.scratch.copy_page(self.memory, window.page, page)?;
        let mut is_same = self.digester.page(page) == *pages.get(window.page)?;
        if let Some(behind) = window.behind(pages) {
            self.scratch.copy_page(self.memory, window.page.checked_add(1)?, head)?;
            is_same &= self.digester.is_head_of(head, behind);
        }
        is_same.then_some(copied)
    }
}

/// The parts that wait, as the engine asks for them.
#[derive(Debug)]
struct Parts<'p> {
    bytes: &'p [u8],
    parts: &'p [Range<usize>],
    next: usize,
}

impl FragmentedMemory for Parts<'_> {
    fn next(&mut self, _: &MemoryParams) -> Option<RegionDescription> {
        let part = self.parts.get(self.next)?;
        self.next = self.next.saturating_add(1);
        Some(RegionDescription { start: part.start, length: part.len() })
    }

    fn fetch(&mut self, _: &MemoryParams) -> Option<Fetched<'_>> {
        let part = self.parts.get(self.next.checked_sub(1)?)?;
        Some(Fetched { start: part.start, mem: self.bytes.get(part.clone())? })
    }

    fn reset(&mut self) {
        self.next = 0;
    }
}
