//! What scans bytes by rules: an engine, and what it says of a region.
//!
//! *Does*: hides which engine it is. *Trusts*: the engine's own checks of rules; nothing in the bytes.
//! *Never*: lets a region take longer than its budget, or calls one that did clean.

use super::cache::ScanCache;
use super::content::Content;
use super::parts::ByParts;
use super::rules;
use super::windows::Fragments;
use boreal::Scanner;
use boreal::scanner::{EvaluatedRule, FragmentedScanMode, ScanError, ScanParams};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Matches of one string that are counted: what `#a` can reach at most.
pub(super) const MAX_COUNTED: u32 = 10_000;
/// Strings of one rule that a verdict keeps, and matches of one string.
const MAX_STRINGS: usize = 16;
const MAX_MATCHES: usize = 64;

/// What field rules expect to be told of a file, by the names that they have in rules.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Externals {
    pub(super) filename: String,
    pub(super) filepath: String,
    pub(super) extension: String,
    pub(super) owner: String,
}

impl Externals {
    /// Names and values.
    pub(super) fn pairs(&self) -> [(&'static str, &str); 4] {
        [
            ("filename", &self.filename),
            ("filepath", &self.filepath),
            ("extension", &self.extension),
            ("owner", &self.owner),
        ]
    }
}

/// What is known of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct About {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) tags: Vec<String>,
    pub(super) meta: Vec<(String, String)>,
}

/// A match of a rule's string, at its offset in the region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StringHit {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A rule that matched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hit {
    pub(super) rule: Arc<About>,
    pub(super) strings: Vec<StringHit>,
}

/// What an engine says of a region.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Verdict {
    pub(super) hits: Vec<Hit>,
    /// Why it is not the whole verdict.
    pub(super) cut: Option<Cut>,
}

/// Why a region was not scanned to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// The budget was used up.
    Budget(Duration),
    /// The engine failed.
    Failed,
}

/// Scans by rules that it has compiled.
pub(super) trait ScanEngine: Send + Sync + std::fmt::Debug {
    /// Scans one region. Matches that begin at `own_bytes` or behind are another region's. With a cache, parts of the region that
    /// were searched before need not be searched again.
    fn scan(
        &self,
        content: &Content,
        externals: &Externals,
        own_bytes: u64,
        budget: Duration,
        cache: Option<&ScanCache>,
    ) -> Verdict;

    /// What it judges regions by parts with.
    fn parts(&self) -> Option<&ByParts>;
}

/// boreal.
#[derive(Debug)]
pub(super) struct Boreal {
    scanner: Scanner,
    rules: HashMap<(String, String), Arc<About>>,
    digest: [u8; blake3::OUT_LEN],
    /// Made where parts of regions are to be known again.
    parts: Option<ByParts>,
}

impl Boreal {
    pub(super) fn new(scanner: Scanner, digest: [u8; blake3::OUT_LEN], parts: Option<ByParts>) -> Boreal {
        let about = |rule: boreal::scanner::RuleDetails<'_>| {
            let about = About {
                name: rule.name.to_owned(),
                namespace: rule.namespace.to_owned(),
                tags: rule.tags.iter().map(|tag| scanner.get_string_symbol(*tag).to_owned()).collect(),
                meta: rules::metadata(&scanner, rule.metadatas),
            };
            ((about.namespace.clone(), about.name.clone()), Arc::new(about))
        };
        let rules = scanner.rules().map(about).collect();
        Boreal { scanner, rules, digest, parts }
    }

    pub(super) fn about(&self) -> &HashMap<(String, String), Arc<About>> {
        &self.rules
    }

    fn hit(&self, rule: &EvaluatedRule<'_>, own_bytes: u64) -> Option<Hit> {
        let known = self.rules.get(&(rule.namespace.to_owned(), rule.name.to_owned()))?;
        let matches = rule.matches.iter().map(|string| {
            let places = string.matches.iter().map(|found| {
                let offset = (found.base as u64).saturating_add(found.offset as u64);
                (offset, found.length as u64)
            });
            (string.name, places.collect())
        });
        hit(known, matches, own_bytes)
    }
}

/// A rule's hit from the places of its strings; none where all of them are another region's.
pub(super) fn hit<'s>(
    rule: &Arc<About>,
    strings: impl Iterator<Item = (&'s str, Vec<(u64, u64)>)>,
    own_bytes: u64,
) -> Option<Hit> {
    let (mut told, mut any) = (Vec::new(), false);
    for (name, places) in strings.filter(|(_, places)| !places.is_empty()).take(MAX_STRINGS) {
        any = true;
        let own = places.into_iter().filter(|(offset, _)| *offset < own_bytes).take(MAX_MATCHES);
        told.extend(own.map(|(offset, len)| StringHit { name: name.to_owned(), offset, len }));
    }
    if any && told.is_empty() {
        return None;
    }
    told.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    Some(Hit { rule: rule.clone(), strings: told })
}

impl ScanEngine for Boreal {
    fn parts(&self) -> Option<&ByParts> {
        self.parts.as_ref()
    }

    fn scan(
        &self,
        content: &Content,
        externals: &Externals,
        own_bytes: u64,
        budget: Duration,
        cache: Option<&ScanCache>,
    ) -> Verdict {
        let by_parts = self.parts.as_ref().zip(cache);
        let fragments = by_parts.map_or(Fragments::All, |(parts, cache)| {
            parts.fragments(content, externals, &self.digest, cache, budget)
        });
        let fragments = match fragments {
            Fragments::None => return Verdict::default(),
            Fragments::These(fragments) => Some(fragments),
            Fragments::All => None,
        };
        let mut scanner = self.scanner.clone();
        scanner.set_scan_params(params(content, budget));
        if content.is_file() {
            for (name, value) in externals.pairs() {
                // No rule uses it: nothing to define.
                let _ = scanner.define_symbol(name, value.to_owned());
            }
        }
        let result = match &fragments {
            Some(fragments) => scanner.scan_fragmented(content.parts(fragments)),
            None if content.is_file() => scanner.scan_mem(content.all()),
            None => scanner.scan_fragmented(content.fragments()),
        };
        let (result, cut) = match result {
            Ok(result) => (result, None),
            Err((ScanError::Timeout, result)) => (result, Some(Cut::Budget(budget))),
            Err((_, result)) => (result, Some(Cut::Failed)),
        };
        Verdict { hits: result.rules.iter().filter_map(|rule| self.hit(rule, own_bytes)).collect(), cut }
    }
}

/// Bytes of matches are taken from the region; regions begin at offset 0, so conditions on offsets hold in all of them.
fn params(content: &Content, budget: Duration) -> ScanParams {
    ScanParams::default()
        .compute_full_matches(true)
        .match_max_length(0)
        .string_max_nb_matches(MAX_COUNTED)
        .timeout_duration(Some(budget))
        .fragmented_scan_mode(FragmentedScanMode::legacy())
        .process_memory(!content.is_file())
}
