//! One region from RAM to findings: copied, known from before or scanned, told.
//!
//! *Never*: keeps a verdict that was cut short, or tells a match without the address that it is at.

use super::cache::{Known, ScanCache};
use super::content::Content;
use super::engine::{Cut, Verdict};
use super::fingerprint::Fingerprint;
use super::hashes::{HashList, Listed};
use super::keeper::Keeper;
use super::sketch::Seen;
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

impl Bench<'_> {
    /// Scans a region; `content` is memory to work in.
    pub(super) fn judge(&self, mut job: Job, content: &mut Content) -> Done {
        if let Some(done) = self.known_again(&mut job, content) {
            return done;
        }
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

    /// A region of which everything is known and nothing is to be told but its hash: it is not copied.
    fn known_again(&self, job: &mut Job, content: &mut Content) -> Option<Done> {
        let cache = self.cache?;
        let sketch = self.seen.sketch(self.memory, &job.layout, cache.digester(), content.scratch())?;
        let key = self.circumstances(sketch.fingerprint, job);
        let present = sketch.present_bytes;
        let hash_is_missing = |known: &Known| {
            self.hashes.is_some() && known.sha256.is_none() && is_whole(&job.subject, present)
        };
        let known = cache.get(key).filter(|known| known.hits.is_empty() && !hash_is_missing(known));
        self.seen.learn(&sketch, known.is_some());
        let mut done = Done { index: job.index, ..Done::default() };
        (done.summary.reused_regions, done.summary.reused_bytes) = (1, present);
        self.account(&mut done, job, &known?, present);
        Some(done)
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
        let digest = self.rules.digest();
        let Some(cache) = self.cache else { return key };
        let is_named = job.layout.is_file && self.rules.asks_for_names();
        let names =
            if is_named { job.externals.pairs().map(|(_, value)| value.as_bytes()) } else { [&[][..]; 4] };
        let [name, path, extension, owner] = names;
        cache.digester().within(key, &[digest, &[is_named.into()], name, path, extension, owner])
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

    fn scan(&self, job: &Job, content: &Content) -> Verdict {
        let bytes = content.all().len() as u64;
        let budget =
            BUDGET.saturating_add(Duration::from_millis(bytes.saturating_mul(1000) / BYTES_A_SECOND));
        let halvings = (self.cut.load(Ordering::Relaxed) / PATIENCE).min(MAX_HALVINGS);
        let budget = budget / 2u32.saturating_pow(halvings);
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
