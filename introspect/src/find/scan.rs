//! One pass over guest RAM: where kallsyms tables and kernel banners may be.
//!
//! *Trusts*: nothing. *Never*: keeps more than a bounded number of candidates, or reads a byte of RAM more than a few times.

use crate::addr::PAGE_BYTES;
use crate::{Gpa, GpaRange, GuestMemory};
use lynceus_profiles::kallsyms;

/// Bytes copied at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes on both sides of a signature that show whether it lies in a token table.
const PROBE_BYTES: u64 = 16 << 10;
/// Most candidates kept of each kind: a guest can write as many as it likes.
const MAX_CANDIDATES: usize = 256;
/// How every banner begins (`init/version.c`).
pub(super) const BANNER: &[u8] = b"Linux version ";

/// What the pass over RAM found.
#[derive(Clone, Default, Debug)]
pub struct Scan {
    /// Where kallsyms token tables are.
    pub tables: Vec<Gpa>,
    /// Where texts like a banner are: the kernel's own, copies in logs, decoys.
    pub banners: Vec<Gpa>,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes that could not be read.
    pub unreadable_bytes: u64,
}

/// Reads all RAM once.
pub(super) fn scan(memory: &dyn GuestMemory) -> Scan {
    let mut scan = Scan::default();
    let mut buf = vec![0u8; CHUNK_BYTES];
    let signature = memchr::memmem::Finder::new(kallsyms::SIGNATURE);
    let banner = memchr::memmem::Finder::new(BANNER);
    let overlap = kallsyms::SIGNATURE.len().max(BANNER.len()) as u64;
    for range in memory.ram() {
        let mut at = range.start;
        while at < range.end() {
            let left = range.end().0.saturating_sub(at.0);
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let Some(chunk) = buf.get_mut(..take) else { break };
            read_what_is_there(memory, at, chunk, &mut scan);
            for hit in signature.find_iter(chunk) {
                keep(&mut scan.tables, at, hit, |gpa| is_token_table(memory, *range, gpa));
            }
            for hit in banner.find_iter(chunk) {
                keep(&mut scan.banners, at, hit, |_| true);
            }
            let step = (take as u64).saturating_sub(if left > take as u64 { overlap } else { 0 });
            let Some(next) = at.checked_add(step) else { break };
            at = next;
        }
    }
    scan
}

fn keep(list: &mut Vec<Gpa>, chunk: Gpa, hit: usize, wanted: impl Fn(Gpa) -> bool) {
    let Some(at) = chunk.checked_add(hit as u64) else { return };
    if list.len() < MAX_CANDIDATES && list.last() != Some(&at) && wanted(at) {
        list.push(at);
    }
}

/// Fills `chunk`, page by page with zeros where it cannot be read.
fn read_what_is_there(memory: &dyn GuestMemory, at: Gpa, chunk: &mut [u8], scan: &mut Scan) {
    scan.read_bytes = scan.read_bytes.saturating_add(chunk.len() as u64);
    let missing = read_pages(memory, at, chunk);
    scan.unreadable_bytes = scan.unreadable_bytes.saturating_add(missing);
}

/// Fills `buf` from `at`; pages that cannot be read become zeros. Returns how many bytes those are.
pub(super) fn read_pages(memory: &dyn GuestMemory, at: Gpa, buf: &mut [u8]) -> u64 {
    if memory.read_once(at, buf).is_ok() {
        return 0;
    }
    let mut missing = 0u64;
    for (index, page) in buf.chunks_mut(PAGE_BYTES as usize).enumerate() {
        let offset = (index as u64).saturating_mul(PAGE_BYTES);
        let read = at.checked_add(offset).map(|at| memory.read_once(at, page));
        if !matches!(read, Some(Ok(()))) {
            page.fill(0);
            missing = missing.saturating_add(page.len() as u64);
        }
    }
    missing
}

fn is_token_table(memory: &dyn GuestMemory, range: GpaRange, at: Gpa) -> bool {
    let (region, start) = region_around(memory, range, at, PROBE_BYTES, PROBE_BYTES);
    let inside = at.0.checked_sub(start.0).and_then(|inside| usize::try_from(inside).ok());
    inside.is_some_and(|inside| kallsyms::is_token_table(&region, inside))
}

/// A copy of the RAM around `at`, page-aligned, clipped to its range, and where the copy begins.
pub(super) fn region_around(
    memory: &dyn GuestMemory,
    range: GpaRange,
    at: Gpa,
    before: u64,
    after: u64,
) -> (Vec<u8>, Gpa) {
    let start = at.0.saturating_sub(before).max(range.start.0);
    let start = start.saturating_sub(start % PAGE_BYTES).max(range.start.0);
    let end = at.0.saturating_add(after).min(range.end().0);
    let len = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    let mut region = vec![0u8; len];
    read_pages(memory, Gpa(start), &mut region);
    (region, Gpa(start))
}
