//! One region from RAM to findings: copied, known from before or scanned, told.
//!
//! *Never*: keeps a verdict that was cut short, or tells a match without the address that it is at.

use super::cache::{Known, ScanCache};
use super::content::Content;
use super::engine::{Cut, Verdict};
use super::fingerprint::Fingerprint;
use super::hashes::{HashList, Listed};
use super::keeper::Keeper;
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
        let mut done = Done { index: job.index, ..Done::default() };
        let digester = self.cache.map(ScanCache::digester);
        let key = content.fill(self.memory, &job.layout, digester, &mut done.found);
        if content.present_bytes() == 0 {
            return done;
        }
        let key = key.map(|key| self.circumstances(key, &job));
        let (known, cut) = self.known(key, &job, content, &mut done.summary);
        done.summary.regions = 1;
        done.summary.bytes = content.present_bytes();
        if let Some(cut) = cut {
            done.summary.cut_regions = 1;
            let reason = match cut {
                Cut::Budget(budget) => GapReason::Time(budget),
                Cut::Failed => GapReason::Inconsistent("the scan of a region failed"),
            };
            done.found.gap("signature scan", Gva(job.layout.start), reason);
        }
        let digest = known.sha256.map(|digest| crate::hex(&digest));
        let whole = is_whole(&job.subject, content);
        if let Subject::File { sha256, .. } = &mut job.subject {
            *sha256 = digest.clone().filter(|_| whole);
            done.summary.files = 1;
            done.summary.whole_files = whole.into();
        }
        let listed = known.sha256.filter(|_| whole).and_then(|sha256| self.hashes?.get(&sha256));
        match listed {
            Some(Listed::Allow) => {
                done.summary.allowed_files = 1;
                done.summary.allowed_findings = known.hits.len() as u64;
            }
            Some(Listed::Deny) => done.found.items.push(tell::denied(job.subject.clone())),
            None => {}
        }
        if listed != Some(Listed::Allow) {
            for hit in known.hits.iter() {
                let finding = tell::finding(hit, &job, content, digest.clone());
                if let Some(keeper) = self.keep {
                    keeper.keep(self.rules, &job, content, hit, &finding);
                }
                done.found.items.push(finding);
            }
        }
        done
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
        let wanted = !known.hits.is_empty() || (self.hashes.is_some() && is_whole(&job.subject, content));
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
fn is_whole(subject: &Subject, content: &Content) -> bool {
    matches!(subject, Subject::File { size_bytes, .. } if *size_bytes == content.present_bytes())
}
