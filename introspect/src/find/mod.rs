//! Finds the kernel in raw memory, with no symbols and no registers.
//!
//! One pass over RAM collects kallsyms token tables. Each is decoded and examined: where would its kernel lie, is the
//! banner there, do the kernel's own page tables map it to where it lies, do its types describe living tasks? The
//! checks read different memory, so that a decoy, a stale image of an earlier boot or a forged table fails some of
//! them. What was rejected is reported with its reasons; two complete candidates are never silently reduced to one.
//!
//! *Trusts*: the backend. *Never*: takes the first look-alike, or assumes a paging mode.

mod cached;
mod candidate;
mod evidence;
mod image;
mod scan;

pub use candidate::Candidate;
pub use evidence::{Check, Evidence};
pub use scan::Scan;

use crate::linux::LinuxGuest;
use crate::memory::ram_bytes;
use crate::target::Target;
use crate::{GpaRange, GuestMemory, SharedMemory};
use candidate::Found;
use lynceus_profiles::compare::{Disagreements, compare};
use lynceus_profiles::store::{Origin, ProfileStore, StoreError};
use std::time::{Duration, Instant};

/// Where the profile came from.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Source {
    /// Read from this guest's memory just now.
    #[default]
    Memory,
    /// Read from a guest's memory earlier; this guest holds the same bytes.
    Cache,
    /// Imported by the admin.
    Trusted,
}

/// How the time of an attach was spent.
#[derive(Clone, Copy, Default, Debug)]
pub struct Timings {
    /// Passing over RAM.
    pub scan: Duration,
    /// Decoding and examining candidates.
    pub examine: Duration,
    /// All of it.
    pub total: Duration,
}

/// A guest that was attached to, and how.
pub struct Attached {
    /// The guest.
    pub guest: LinuxGuest,
    /// What speaks for the kernel that was taken.
    pub evidence: Evidence,
    /// Others that looked like a kernel.
    pub rejected: Vec<Candidate>,
    /// Where the profile came from.
    pub source: Source,
    /// Guest-physical ranges that the profile was built from; empty where it came from the store.
    pub sources: Vec<GpaRange>,
    /// Where the guest's memory and the trusted profile of its build disagree.
    pub disagreements: Disagreements,
    /// Why what was learned could not be stored, where it should have been.
    pub store_error: Option<StoreError>,
    /// How long it took.
    pub timings: Timings,
}

/// Why no kernel was attached to.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nothing that resembles a Linux kernel.
    #[error(
        "no Linux kernel in {ram_mib} MiB of guest memory (no kallsyms table, {banners} texts like a banner); the guest may still be in its firmware or boot loader, or not run Linux"
    )]
    NoKernel {
        /// Guest RAM in MiB.
        ram_mib: u64,
        /// Texts that begin like a kernel's banner.
        banners: usize,
    },
    /// Something that resembles a kernel, but none that holds together.
    #[error("{} candidate(s) for a kernel, none of which holds together: {}", .0.len(), reasons(.0))]
    NoneSuffices(Vec<Candidate>),
    /// More than one living kernel.
    #[error("{} kernels, all of which look alive: {}", .0.len(), reasons(.0))]
    Ambiguous(Vec<Candidate>),
}

fn reasons(candidates: &[Candidate]) -> String {
    let one = |candidate: &Candidate| {
        let reason = if candidate.reason.is_empty() {
            candidate.evidence.to_string()
        } else {
            candidate.reason.clone()
        };
        format!("at {}: {reason}", candidate.text)
    };
    candidates.iter().take(4).map(one).collect::<Vec<_>>().join("; ")
}

/// Finds the kernel in `memory` and builds its profile from nothing else.
pub fn attach(memory: SharedMemory) -> Result<Attached, AttachError> {
    attach_with(memory, None)
}

/// Finds the kernel in `memory`, in milliseconds where `store` knows its build already.
///
/// What is learned is stored. A trusted profile of the same build wins over what the memory says of itself, and where the two
/// disagree is reported.
pub fn attach_with(memory: SharedMemory, store: Option<&ProfileStore>) -> Result<Attached, AttachError> {
    match attach_cached(&memory, store) {
        Some(found) => Ok(found),
        None => attach_uncached(memory, store),
    }
}

/// With a profile that an earlier attach left, and only where nothing speaks against the kernel that it finds.
fn attach_cached(memory: &SharedMemory, store: Option<&ProfileStore>) -> Option<Attached> {
    let started = Instant::now();
    let found = cached::find(&**memory, store?, Origin::Learned)?;
    let outcome = Outcome { source: Source::Cache, ..Outcome::default() };
    Some(finish(memory.clone(), store, found, outcome, started))
}

/// From nothing but memory.
fn attach_uncached(memory: SharedMemory, store: Option<&ProfileStore>) -> Result<Attached, AttachError> {
    let started = Instant::now();
    let (found, outcome) = match long_way(&*memory, started) {
        Ok((found, mut outcome)) => {
            let sound = found.candidate.evidence.failed.is_empty();
            let store = store.filter(|_| sound);
            outcome.store_error = store.and_then(|store| learn(&*memory, store, &found).err());
            (found, outcome)
        }
        // A guest that spoiled its own tables is still the build that the admin knows.
        Err(error) => match store.and_then(|store| cached::find(&*memory, store, Origin::Trusted)) {
            Some(found) => (found, Outcome { source: Source::Trusted, ..Outcome::default() }),
            None => return Err(error),
        },
    };
    Ok(finish(memory, store, found, outcome, started))
}

fn finish(
    memory: SharedMemory,
    store: Option<&ProfileStore>,
    found: Found,
    mut outcome: Outcome,
    started: Instant,
) -> Attached {
    let found = match store {
        Some(store) if outcome.source != Source::Trusted => {
            prefer_trusted(&*memory, store, found, &mut outcome)
        }
        _ => found,
    };
    outcome.timings.total = started.elapsed();
    outcome.with(memory, found)
}

/// The same, where it is not known how memory is laid out: the layout in which every check holds, else the one in which most do.
/// No layout is searched before all have been tried with the profiles that are known.
pub fn attach_any(
    layouts: impl IntoIterator<Item = SharedMemory>,
    store: Option<&ProfileStore>,
) -> Result<Attached, AttachError> {
    let mut unknown = Vec::new();
    for memory in layouts {
        match attach_cached(&memory, store) {
            Some(found) => return Ok(found),
            None => unknown.push(memory),
        }
    }
    let (mut best, mut last) = (None::<Attached>, None);
    for memory in unknown {
        match attach_uncached(memory, store) {
            Ok(found) if found.evidence.failed.is_empty() => return Ok(found),
            Ok(found) => {
                let passed = |attached: &Attached| attached.evidence.passed.len();
                if best.as_ref().is_none_or(|best| passed(&found) > passed(best)) {
                    best = Some(found);
                }
            }
            Err(error) => last = Some(error),
        }
    }
    best.ok_or_else(|| last.unwrap_or(AttachError::NoKernel { ram_mib: 0, banners: 0 }))
}

/// The same for a target as a person named it: all that may be its layout is tried, and a VM that can be paused will be when
/// a look needs it. Takes no rights: whoever [confined](crate::target::Unread::confine) the target and [opened](ProfileStore::opened) the store may
/// have given up all of them.
pub fn attach_target(target: &Target, store: Option<&ProfileStore>) -> Result<Attached, AttachError> {
    let others = target.raw_layouts().into_iter().skip(1);
    let others = others.filter_map(|layout| Some(target.with_raw_layout(layout)?.memory()));
    let mut attached = attach_any(std::iter::once(target.memory()).chain(others), store)?;
    if let Some(pause) = target.pausable() {
        attached.guest = attached.guest.with_pause(pause);
    }
    if let Some(processors) = target.processors() {
        attached.guest = attached.guest.with_processors(processors);
    }
    Ok(attached)
}

/// An [`Attached`] in the making.
#[derive(Default)]
struct Outcome {
    rejected: Vec<Candidate>,
    source: Source,
    disagreements: Disagreements,
    store_error: Option<StoreError>,
    timings: Timings,
}

impl Outcome {
    fn with(self, memory: SharedMemory, found: Found) -> Attached {
        let Outcome { rejected, source, disagreements, store_error, timings } = self;
        Attached {
            guest: LinuxGuest::new(memory, found.kernel),
            evidence: found.candidate.evidence,
            rejected,
            source,
            sources: found.sources,
            disagreements,
            store_error,
            timings,
        }
    }
}

fn long_way(memory: &dyn GuestMemory, started: Instant) -> Result<(Found, Outcome), AttachError> {
    let scan = scan::scan(memory);
    let scanned = started.elapsed();
    let (found, rejected) = examine_all(memory, &scan);
    let (found, rejected) = choose(found, rejected, memory, &scan)?;
    let examine = started.elapsed().saturating_sub(scanned);
    let timings = Timings { scan: scanned, examine, total: Duration::default() };
    Ok((found, Outcome { rejected, timings, ..Outcome::default() }))
}

fn learn(memory: &dyn GuestMemory, store: &ProfileStore, found: &Found) -> Result<(), StoreError> {
    match cached::header(memory, found) {
        Some(header) => store.save(&header, &found.kernel.profile),
        None => Ok(()),
    }
}

/// The kernel with the admin's profile of its build, if there is one and it fits.
fn prefer_trusted(
    memory: &dyn GuestMemory,
    store: &ProfileStore,
    found: Found,
    outcome: &mut Outcome,
) -> Found {
    let Some(header) = store.trusted(&found.kernel.profile.identity) else { return found };
    let trusted = match store.load(&header) {
        Ok(trusted) => trusted,
        Err(error) => {
            outcome.store_error = Some(error);
            return found;
        }
    };
    outcome.disagreements = compare(&trusted, &found.kernel.profile);
    match cached::examine(memory, trusted, found.kernel.text) {
        Ok(better) => {
            outcome.source = Source::Trusted;
            Found { sources: found.sources, ..better }
        }
        Err(evidence) => {
            let reason = format!("the trusted profile does not fit: {evidence}");
            outcome.rejected.push(Candidate { reason, ..found.candidate.clone() });
            found
        }
    }
}

fn examine_all(memory: &dyn GuestMemory, scan: &Scan) -> (Vec<Found>, Vec<Candidate>) {
    let (mut found, mut rejected) = (Vec::new(), Vec::new());
    for at in &scan.tables {
        match candidate::decode(memory, *at) {
            Ok(table) => match candidate::examine(memory, table) {
                Ok(complete) => found.push(complete),
                Err(candidate) => rejected.push(candidate),
            },
            Err(reason) => {
                rejected.push(Candidate { text: *at, evidence: Evidence::default(), banner: None, reason });
            }
        }
    }
    (found, rejected)
}

/// Takes the candidate for which most speaks; two for which the same speaks are an error that names both.
fn choose(
    mut found: Vec<Found>,
    mut rejected: Vec<Candidate>,
    memory: &dyn GuestMemory,
    scan: &Scan,
) -> Result<(Found, Vec<Candidate>), AttachError> {
    let strength = |found: &Found| found.candidate.evidence.passed.len();
    found.sort_by_key(|found| std::cmp::Reverse(strength(found)));
    let mut rest = found.into_iter();
    let Some(best) = rest.next() else {
        return Err(if rejected.is_empty() {
            AttachError::NoKernel { ram_mib: ram_bytes(memory) >> 20, banners: scan.banners.len() }
        } else {
            AttachError::NoneSuffices(rejected)
        });
    };
    let rest: Vec<Found> = rest.collect();
    if rest.first().is_some_and(|second| strength(second) == strength(&best)) {
        return Err(AttachError::Ambiguous(
            [best].into_iter().chain(rest).map(|found| found.candidate).collect(),
        ));
    }
    for loser in rest {
        let reason = format!("less speaks for it: {}", loser.candidate.evidence);
        rejected.push(Candidate { reason, ..loser.candidate });
    }
    Ok((best, rejected))
}
