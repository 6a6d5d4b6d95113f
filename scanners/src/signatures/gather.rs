//! What is there of a region, copied out once: runs of present pages, in the order of their addresses.

use boreal::memory::{FragmentedMemory, MemoryParams, Region as Fetched, RegionDescription};
use lynceus_introspect::linux::CachedFile;
use lynceus_introspect::paging::MAX_ENTRIES;
use lynceus_introspect::{AddressSpace, GapReason, Gpa, GpaRange, GuestMemory, Gva, Partial};
use std::sync::Arc;

/// Most bytes of one region that are scanned; what lies behind is a gap.
const MAX_REGION_BYTES: u64 = 256 << 20;
/// Most bytes of a file that are scanned.
const MAX_FILE_BYTES: u64 = 128 << 20;
/// All RAM is scanned in pieces of that size, which overlap by [`OVERLAP_BYTES`]: a match across two is found in one of them.
const PIECE_BYTES: u64 = 16 << 20;
const OVERLAP_BYTES: u64 = 4096;

/// Neighbouring pages that are there.
#[derive(Debug)]
struct Run {
    start: u64,
    bytes: Vec<u8>,
}

/// A region with holes.
#[derive(Debug)]
pub(super) struct Region {
    start: u64,
    end: u64,
    /// Matches that begin from here on are found again, in the next piece.
    own_end: u64,
    runs: Arc<Vec<Run>>,
}

impl Region {
    /// What is mapped between two addresses. What cannot be read is a gap.
    pub(super) fn of_space<T>(
        space: &AddressSpace<'_>,
        start: Gva,
        end: Gva,
        gaps: &mut Partial<T>,
    ) -> Region {
        let mut runs: Vec<Run> = Vec::new();
        let mut left = MAX_REGION_BYTES;
        let last = Gva(end.0.saturating_sub(1));
        if end > start {
            let mut pages = match space.pages(start, last, MAX_ENTRIES) {
                Ok(pages) => pages,
                Err(why) => {
                    gaps.gap("scanned region", start, why);
                    return Region { start: start.0, end: end.0, own_end: end.0, runs: Arc::default() };
                }
            };
            for page in pages.by_ref() {
                // A large page may begin before the region and end behind it.
                let from = page.start.0.max(start.0);
                let to = page.start.0.saturating_add(page.len_bytes).min(end.0);
                let len = to.saturating_sub(from).min(left);
                if len < to.saturating_sub(from) {
                    gaps.gap("scanned region", Gva(from), GapReason::TooLarge(MAX_REGION_BYTES));
                }
                left -= len;
                let gpa = Gpa(page.gpa.0.saturating_add(from.saturating_sub(page.start.0)));
                append(&mut runs, from, gpa, len, space.memory(), gaps);
                if left == 0 {
                    break;
                }
            }
            if pages.visited().cut {
                gaps.gap("scanned region", start, GapReason::Limit(MAX_ENTRIES));
            }
        }
        Region { start: start.0, end: end.0, own_end: end.0, runs: Arc::new(runs) }
    }

    /// What is in memory of a file, at its offsets in the file.
    pub(super) fn of_file<T>(memory: &dyn GuestMemory, file: &CachedFile, gaps: &mut Partial<T>) -> Region {
        let end = file.size_bytes.min(MAX_FILE_BYTES);
        if end < file.size_bytes {
            gaps.gap("cached file", file.inode, GapReason::TooLarge(MAX_FILE_BYTES));
        }
        let mut runs = Vec::new();
        for (first, gpa, count) in &file.pages {
            let from = first.saturating_mul(4096);
            let len = count.saturating_mul(4096).min(end.saturating_sub(from));
            if len > 0 {
                append(&mut runs, from, *gpa, len, memory, gaps);
            }
        }
        Region { start: 0, end, own_end: end, runs: Arc::new(runs) }
    }

    /// The region in one piece; what is not there is zero.
    pub(super) fn flat(&self) -> Vec<u8> {
        let mut flat = vec![0; usize::try_from(self.end.saturating_sub(self.start)).unwrap_or(0)];
        for run in &*self.runs {
            let from = usize::try_from(run.start.saturating_sub(self.start)).unwrap_or(usize::MAX);
            if let Some(place) = flat.get_mut(from..).and_then(|rest| rest.get_mut(..run.bytes.len())) {
                place.copy_from_slice(&run.bytes);
            }
        }
        flat
    }

    /// All RAM of a range, in pieces.
    pub(super) fn of_ram(memory: &dyn GuestMemory, range: GpaRange) -> impl Iterator<Item = Region> {
        let mut at = range.start.0;
        let end = range.end().0;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let to = end.min(at.saturating_add(PIECE_BYTES));
                let mut runs = Vec::new();
                append(&mut runs, at, Gpa(at), to - at, memory, &mut Partial::<()>::default());
                let own_end = if to < end { to - OVERLAP_BYTES } else { end };
                let region = Region { start: at, end: to, own_end, runs: Arc::new(runs) };
                at = own_end;
                region
            })
        })
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether a match that begins there is this region's, and not the next one's.
    pub(super) fn owns(&self, address: u64) -> bool {
        address < self.own_end
    }

    /// Bytes that are there.
    pub(super) fn len_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes.len() as u64).sum()
    }

    /// What is there of `from..to`, as far as it lies in one run.
    pub(super) fn bytes(&self, from: u64, to: u64) -> &[u8] {
        let after = self.runs.partition_point(|run| run.start < to);
        let run = after.checked_sub(1).and_then(|index| self.runs.get(index));
        let part = run.and_then(|run| {
            let first = usize::try_from(from.saturating_sub(run.start)).ok()?;
            let last = usize::try_from(to.saturating_sub(run.start)).ok()?.min(run.bytes.len());
            run.bytes.get(first..last)
        });
        part.unwrap_or_default()
    }

    pub(super) fn fragments(&self) -> Fragments {
        Fragments { runs: self.runs.clone(), next: 0 }
    }
}

/// Copies pages behind what is there already: to the last run where they follow it.
fn append<T>(
    runs: &mut Vec<Run>,
    at: u64,
    gpa: Gpa,
    len: u64,
    memory: &dyn GuestMemory,
    gaps: &mut Partial<T>,
) {
    let follows = |run: &Run| run.start.saturating_add(run.bytes.len() as u64) == at;
    if !runs.last().is_some_and(follows) {
        runs.push(Run { start: at, bytes: Vec::new() });
    }
    let Some(run) = runs.last_mut() else { return };
    let before = run.bytes.len();
    run.bytes.resize(before.saturating_add(usize::try_from(len).unwrap_or(0)), 0);
    let Some(new) = run.bytes.get_mut(before..) else { return };
    if memory.read_once(gpa, new).is_ok() {
        return;
    }
    // Something of it is missing: page by page.
    run.bytes.truncate(before);
    let mut done = 0;
    while done < len {
        let take = (4096 - (at + done) % 4096).min(len - done);
        let mut page = vec![0; usize::try_from(take).unwrap_or(0)];
        match memory.read_once(Gpa(gpa.0.saturating_add(done)), &mut page) {
            Ok(()) => {
                let follows = |run: &Run| run.start.saturating_add(run.bytes.len() as u64) == at + done;
                match runs.last_mut().filter(|run| follows(run)) {
                    Some(run) => run.bytes.extend(page),
                    None => runs.push(Run { start: at + done, bytes: page }),
                }
            }
            Err(why) => {
                let at = Gva(at.saturating_add(done));
                gaps.gap("scanned page", at, lynceus_introspect::AccessError::Memory { at, why });
            }
        }
        done += take;
    }
}

/// The runs, as the engine asks for them.
#[derive(Debug)]
pub(super) struct Fragments {
    runs: Arc<Vec<Run>>,
    next: usize,
}

impl FragmentedMemory for Fragments {
    fn next(&mut self, _: &MemoryParams) -> Option<RegionDescription> {
        let run = self.runs.get(self.next)?;
        self.next += 1;
        Some(RegionDescription { start: usize::try_from(run.start).ok()?, length: run.bytes.len() })
    }

    fn fetch(&mut self, _: &MemoryParams) -> Option<Fetched<'_>> {
        let run = self.runs.get(self.next.checked_sub(1)?)?;
        Some(Fetched { start: usize::try_from(run.start).ok()?, mem: &run.bytes })
    }

    fn reset(&mut self) {
        self.next = 0;
    }
}
