//! Attaching through the profile store, without a pass over all of RAM.
//!
//! For each stored profile the banner is looked for where its kernel would have it, at every load address; then the bytes that
//! the profile was built from are hashed again, and the kernel must pass every check that a kernel found the long way
//! passes. Only one kernel may: two, or one that fails a check, send the attach the long way.
//!
//! What this path does *not* see is a second kernel that the store does not know: a decoy that matches byte for byte is
//! found, but a living kernel of another build beside it is not. `--no-cache` takes the long way always.
//!
//! *Trusts*: the store's directory. *Never*: uses a learned profile for a guest whose bytes differ, or stores a profile under
//! a digest of other bytes than those it was made from (the copy that was parsed is the copy that is hashed).

use super::candidate::{self, Found};
use super::image::Image;
use super::{Candidate, Evidence};
use crate::{Gpa, GpaRange, GuestMemory};
use lynceus_profiles::Profile;
use lynceus_profiles::store::{Header, Origin, ProfileStore, SourceHasher, SourceRange};
use std::sync::Arc;

/// Kernels are loaded on such boundaries (`CONFIG_PHYSICAL_ALIGN`).
const LOAD_ALIGN: u64 = 2 << 20;
/// Bytes hashed at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Longest range hashed: no table or BTF blob is larger.
const MAX_RANGE_BYTES: u64 = 64 << 20;

/// The one kernel in `memory` that a stored profile of `origin` describes.
pub(super) fn find(memory: &dyn GuestMemory, store: &ProfileStore, origin: Origin) -> Option<Found> {
    let headers = store.headers().ok()?;
    let mut found = Vec::new();
    for header in headers.iter().filter(|header| header.origin == origin) {
        for text in places(memory, header) {
            if !same_build(memory, header, text) {
                continue;
            }
            // Hashing and loading take the same time: together they take half.
            let (sound, profile) = std::thread::scope(|both| {
                let loading = both.spawn(|| store.load(header));
                let sound = origin == Origin::Trusted || same_bytes(memory, header, text);
                (sound, loading.join())
            });
            if sound && let Ok(Ok(profile)) = profile {
                found.extend(examine(memory, profile, text).ok());
            }
        }
    }
    let only = found.pop()?;
    found.is_empty().then_some(only)
}

/// A kernel with a profile from elsewhere, if everything holds that holds for a kernel found in memory.
pub(super) fn examine(memory: &dyn GuestMemory, profile: Arc<Profile>, text: Gpa) -> Result<Found, Evidence> {
    let image = Image { memory, symbols: &profile.symbols, text };
    let mut evidence = image.evidence(None);
    let banner = image.banner();
    let placed = image.text_by_phys_base().and_then(|at| Some((at, image.root(at)?)));
    let Some((text_at, root)) = placed.filter(|_| evidence.suffices()) else { return Err(evidence) };
    let kernel = candidate::kernel(profile, text, text_at, root);
    candidate::check_live(memory, &kernel, &mut evidence);
    if !evidence.failed.is_empty() {
        return Err(evidence);
    }
    let candidate = Candidate { text, evidence, banner, reason: String::new() };
    Ok(Found { candidate, kernel, sources: Vec::new(), digest: None })
}

/// Load addresses at which the profile's banner lies where it should.
fn places(memory: &dyn GuestMemory, header: &Header) -> Vec<Gpa> {
    let Some(offset) = header.banner_offset else { return Vec::new() };
    let wanted = header.identity.banner.as_bytes();
    let mut bytes = vec![0; wanted.len()];
    let mut places = Vec::new();
    for range in memory.ram() {
        let (mut text, end) = (range.start.0.next_multiple_of(LOAD_ALIGN), range.end().0);
        while text < end {
            let at = text.checked_add_signed(offset).map(Gpa);
            if at.is_some_and(|at| memory.read_once(at, &mut bytes).is_ok()) && bytes == wanted {
                places.push(Gpa(text));
            }
            let Some(next) = text.checked_add(LOAD_ALIGN) else { break };
            text = next;
        }
    }
    places
}

/// Whether the bytes that a learned profile was built from are here too.
fn same_bytes(memory: &dyn GuestMemory, header: &Header, text: Gpa) -> bool {
    if header.ranges.is_empty() {
        return false;
    }
    let (mut hasher, mut buf) = (SourceHasher::default(), vec![0; CHUNK_BYTES]);
    for range in &header.ranges {
        let Some(start) = text.0.checked_add_signed(range.offset_from_text) else { return false };
        if range.len_bytes > MAX_RANGE_BYTES {
            return false;
        }
        hasher.range(*range);
        let (mut at, mut left) = (Gpa(start), range.len_bytes);
        while left > 0 {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            let Some(chunk) = buf.get_mut(..take) else { return false };
            if memory.read_once(at, chunk).is_err() {
                return false;
            }
            hasher.bytes(chunk);
            left = left.saturating_sub(take as u64);
            let Some(next) = at.checked_add(take as u64) else { return false };
            at = next;
        }
    }
    hasher.finish() == header.digest
}

/// Whether the build id is where the profile has it; a profile without one has nothing to compare.
fn same_build(memory: &dyn GuestMemory, header: &Header, text: Gpa) -> bool {
    let (Some(offset), Some(id)) = (header.build_id_offset, header.identity.build_id) else {
        return header.origin == Origin::Trusted;
    };
    let mut found = [0; 20];
    let at = text.0.checked_add_signed(offset).map(Gpa);
    at.is_some_and(|at| memory.read_once(at, &mut found).is_ok()) && found == id.0
}

/// What a profile that was just built from memory is stored under; `None` where it lacks what finds it again.
pub(super) fn header(memory: &dyn GuestMemory, found: &Found) -> Option<Header> {
    let profile = &found.kernel.profile;
    let image = Image { memory, symbols: &profile.symbols, text: found.kernel.text };
    let from_text = |at: Gpa| i64::try_from(i128::from(at.0) - i128::from(found.kernel.text.0)).ok();
    let relative = |range: &GpaRange| {
        Some(SourceRange { offset_from_text: from_text(range.start)?, len_bytes: range.len_bytes })
    };
    Some(Header {
        origin: Origin::Learned,
        identity: profile.identity.clone(),
        banner_offset: Some(from_text(image.gpa("linux_banner")?)?),
        build_id_offset: Some(from_text(image.build_id_at()?)?),
        digest: found.digest?,
        ranges: found.sources.iter().map(relative).collect::<Option<_>>()?,
    })
}
