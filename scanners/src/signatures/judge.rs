//! One region from RAM to findings: copied, known from before or scanned, told.
//!
//! *Never*: keeps a verdict that was cut short, or tells a match without the address that it is at.

use super::cache::{Known, ScanCache};
use super::content::Content;
use super::engine::{Cut, Verdict};
use super::finder::Place;
use super::fingerprint::Fingerprint;
use super::hashes::{HashList, Listed};
use super::keeper::Keeper;
use super::parts::ByParts;
use super::pending::{Pending, Waiting};
use super::sketch::{Scratch, Seen, Sketch};
use super::walk::Job;
use super::{Rules, Summary, tell};
use crate::{Finding, Subject};
use lynceus_introspect::{GapReason, GuestMemory, Gva, Partial};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What a region may cost: a fixed part, and one by its size. Real content takes a tenth of it with the largest rule sets.
const BUDGET: Duration = Duration::from_millis(500);
const BYTES_A_SECOND: u64 = 16 << 20;
/// After so many regions that used up theirs, the budgets of the others are halved, again and again, so often at most.
const PATIENCE: u32 = 4;
const MAX_HALVINGS: u32 = 4;

/// What all regions of a scan share.
pub(super) struct Bench<'s> {
    pub(super) memory: &'s (dyn GuestMemory + Send + Sync),
    pub(super) rules: &'s Rules,
    pub(super) hashes: Option<&'s HashList>,
    pub(super) cache: Option<&'s ScanCache>,
    pub(super) keep: Option<&'s Keeper>,
    pub(super) seen: Seen,
    /// The circumstances of regions of which rules ask no name.
    pub(super) unnamed: Fingerprint,
    /// Threads that scan.
    pub(super) threads: usize,
    /// Regions that used up their budget.
    pub(super) cut: AtomicU32,
}

/// What came of a region.
#[derive(Default, Debug)]
pub(super) struct Done {
    pub(super) index: u64,
    pub(super) found: Partial<Finding>,
    pub(super) summary: Summary,
}

/// What a thread works with.
#[derive(Default, Debug)]
pub(super) struct Desk {
    content: Content,
    scratch: Scratch,
    pending: Pending,
}

/// What is known of a region without a copy.
enum Again {
    /// All that there is to say of it.
    All(Done),
    /// Its verdict comes with its new pages'.
    Later(Waiting),
    /// Too little.
    Not(Job),
}

impl<'s> Bench<'s> {
    /// Rules alone, on one thread, with nothing known of any frame.
    pub(super) fn new(
        memory: &'s (dyn GuestMemory + Send + Sync),
        rules: &'s Rules,
        cache: Option<&'s ScanCache>,
    ) -> Bench<'s> {
        let unnamed = cache.map(|cache| cache.digester().circumstances(&[rules.digest()]));
        Bench {
            memory,
            rules,
            hashes: None,
            cache,
            keep: None,
            seen: Seen::default(),
            unnamed: unnamed.unwrap_or_default(),
            threads: 1,
            cut: AtomicU32::new(0),
        }
    }

    /// Scans a region, or puts it off until [`Bench::settle`]. `take` is given what came of it, or of regions before it.
    pub(super) fn judge(&self, job: Job, desk: &mut Desk, take: &mut dyn FnMut(Done)) {
        match self.known_again(job, desk) {
            Again::All(done) => take(done),
            Again::Not(job) => take(self.whole(job, &mut desk.content)),
            Again::Later(waiting) => {
                desk.pending.push(waiting);
                if desk.pending.is_full() {
                    self.settle(desk, take);
                }
            }
        }
    }

    /// Scans what was put off.
    pub(super) fn settle(&self, desk: &mut Desk, take: &mut dyn FnMut(Done)) {
        let (Some(cache), Some(parts)) = (self.cache, self.rules.parts()) else { return };
        let budget = self.budget(desk.pending.len_bytes() as u64);
        for (waiting, places) in desk.pending.search(parts.finder(), cache, budget, self.threads) {
            take(self.by_matches(waiting, places, (cache, parts), &mut desk.content));
        }
    }

    /// Judges a region whose matches are known by these, where no rule may hold; otherwise it is copied.
    fn by_matches(
        &self,
        waiting: Waiting,
        places: Option<Vec<Place>>,
        (cache, parts): (&ScanCache, &ByParts),
        content: &mut Content,
    ) -> Done {
        let Waiting { mut job, key, present_bytes, pages } = waiting;
        let file = job.layout.is_file.then(|| (job.layout.region_bytes(), &job.externals));
        if places.is_none_or(|places| parts.may_match(&places, pages.heads.as_ref(), file)) {
            return self.whole(job, content);
        }
        let mut done = Done { index: job.index, ..Done::default() };
        let known = Known::default();
        self.account(&mut done, &mut job, &known, present_bytes);
        cache.put(key, known);
        done
    }

    /// Copies a region and scans it; `content` is memory to work in.
    pub(super) fn whole(&self, mut job: Job, content: &mut Content) -> Done {
        let mut done = Done { index: job.index, ..Done::default() };
        let digester = self.cache.map(ScanCache::digester);
        let key = content.fill(self.memory, &job.layout, digester, &mut done.found);
        let present = content.present_bytes();
        if present == 0 {
            return done;
        }
        if key.is_some() && present == job.layout.present_bytes() {
            self.seen.remember(&job.layout, content.page_digests());
        }
        let key = key.map(|key| self.circumstances(key, &job));
        let (known, cut) = self.known(key, &job, content, &mut done.summary);
        if let Some(cut) = cut {
            done.summary.cut_regions = 1;
            let reason = match cut {
                Cut::Budget(budget) => GapReason::Time(budget),
                Cut::Failed => GapReason::Inconsistent("the scan of a region failed"),
            };
            done.found.gap("signature scan", Gva(job.layout.start), reason);
        }
        if self.account(&mut done, &mut job, &known, present) {
            for hit in known.hits.iter() {
                let sha256 = known.sha256.map(|digest| crate::hex(&digest));
                let finding = tell::finding(hit, &job, content, sha256);
                if let Some(keeper) = self.keep {
                    keeper.keep(self.rules, &job, content, hit, &finding);
                }
                done.found.items.push(finding);
            }
        }
        done
    }

    /// What is known of a region without a copy of it, for those of which nothing is to be told but their hash.
    fn known_again(&self, mut job: Job, desk: &mut Desk) -> Again {
        let Some(cache) = self.cache else { return Again::Not(job) };
        let sketch = self.seen.sketch(self.memory, &job.layout, cache.digester(), &mut desk.scratch);
        let Some(sketch) = sketch else { return Again::Not(job) };
        let key = self.circumstances(sketch.fingerprint, &job);
        let present = sketch.present_bytes;
        let wants_hash = self.hashes.is_some() && is_whole(&job.subject, present);
        let is_enough = |known: &Known| known.hits.is_empty() && (known.sha256.is_some() || !wants_hash);
        let again = match cache.get(key) {
            Some(known) if is_enough(&known) => {
                let mut done = Done { index: job.index, ..Done::default() };
                (done.summary.reused_regions, done.summary.reused_bytes) = (1, present);
                self.account(&mut done, &mut job, &known, present);
                Again::All(done)
            }
            None if !wants_hash => self.later(job, key, &sketch, desk),
            _ => Again::Not(job),
        };
        self.seen.learn(&sketch, !matches!(again, Again::Not(_)));
        again
    }

    /// A region of which some pages are new has only those searched, where that may be all that it takes.
    fn later(&self, job: Job, key: Fingerprint, sketch: &Sketch, desk: &mut Desk) -> Again {
        let Some(cache) = self.cache.filter(|_| self.rules.parts().is_some()) else { return Again::Not(job) };
        let rules = self.rules.digest();
        match desk.pending.take_pages(self.memory, &job.layout, &desk.scratch, cache, rules) {
            Some(pages) => Again::Later(Waiting { job, key, present_bytes: sketch.present_bytes, pages }),
            None => Again::Not(job),
        }
    }

    /// Counts a region and holds its hash against the lists. Whether signatures are to be told.
    fn account(&self, done: &mut Done, job: &mut Job, known: &Known, present: u64) -> bool {
        (done.summary.regions, done.summary.bytes) = (1, present);
        let whole = is_whole(&job.subject, present);
        if let Subject::File { sha256, .. } = &mut job.subject {
            *sha256 = known.sha256.filter(|_| whole).map(|digest| crate::hex(&digest));
            done.summary.files = 1;
            done.summary.whole_files = whole.into();
        }
        match known.sha256.filter(|_| whole).and_then(|sha256| self.hashes?.get(&sha256)) {
            Some(Listed::Allow) => {
                done.summary.allowed_files = 1;
                done.summary.allowed_findings = known.hits.len() as u64;
                return false;
            }
            Some(Listed::Deny) => done.found.items.push(tell::denied(job.subject.clone())),
            None => {}
        }
        true
    }

    /// The verdict under which rules, and for a file under which names where rules ask for them.
    fn circumstances(&self, key: Fingerprint, job: &Job) -> Fingerprint {
        let is_named = job.layout.is_file && self.rules.asks_for_names();
        match self.cache.filter(|_| is_named) {
            Some(cache) => {
                let [name, path, extension, owner] = job.externals.pairs().map(|(_, value)| value.as_bytes());
                let parts = [self.rules.digest(), name, path, extension, owner];
                key.within(cache.digester().circumstances(&parts))
            }
            None => key.within(self.unnamed),
        }
    }

    /// The verdict, from the cache or the engine, and the digest of the bytes where it is needed.
    fn known(
        &self,
        key: Option<Fingerprint>,
        job: &Job,
        content: &Content,
        summary: &mut Summary,
    ) -> (Known, Option<Cut>) {
        let found = key.and_then(|key| self.cache?.get(key));
        let (mut known, mut cut, is_new) = match found {
            Some(known) => {
                summary.reused_regions = 1;
                summary.reused_bytes = content.present_bytes();
                (known, None, false)
            }
            None => {
                let Verdict { hits, cut } = self.scan(job, content);
                (Known { hits: hits.into(), sha256: None }, cut, true)
            }
        };
        let wanted = !known.hits.is_empty()
            || (self.hashes.is_some() && is_whole(&job.subject, content.present_bytes()));
        let missing = wanted && known.sha256.is_none();
        if missing {
            known.sha256 = Some(Sha256::digest(content.all()).into());
        }
        if let (true, Some(key), Some(cache), None) = (is_new || missing, key, self.cache, cut) {
            cache.put(key, known.clone());
        }
        cut = cut.filter(|_| is_new);
        (known, cut)
    }

    /// What it may take to scan so many bytes.
    fn budget(&self, bytes: u64) -> Duration {
        let budget =
            BUDGET.saturating_add(Duration::from_millis(bytes.saturating_mul(1000) / BYTES_A_SECOND));
        let halvings = (self.cut.load(Ordering::Relaxed) / PATIENCE).min(MAX_HALVINGS);
        budget / 2u32.saturating_pow(halvings)
    }

    fn scan(&self, job: &Job, content: &Content) -> Verdict {
        let budget = self.budget(content.all().len() as u64);
        let verdict =
            self.rules.engine().scan(content, &job.externals, job.layout.own_bytes, budget, self.cache);
        if matches!(verdict.cut, Some(Cut::Budget(_))) {
            self.cut.fetch_add(1, Ordering::Relaxed);
        }
        verdict
    }
}

/// Whether all of a file was there to be read.
fn is_whole(subject: &Subject, present_bytes: u64) -> bool {
    matches!(subject, Subject::File { size_bytes, .. } if *size_bytes == present_bytes)
}
