//! The kernel's text, every byte of it, against the file that it was booted from.
//!
//! What differs must be explained by one of the places that the file itself lists for rewriting, and by what the kernel may
//! write there: alternatives for the processor, static keys, static calls, traced functions, lock prefixes, thunks and returns,
//! calls for hypervisors. Everything else is a finding.
//!
//! Where no file is known, the beginnings of all functions are looked at: a hook usually begins there.
//!
//! *Trusts*: the file; its tables say what may change, not the guest's. *Never*: reports what a second look does not show.

mod entries;
mod explain;
pub(crate) mod modules;

use super::judge::Owners;
use crate::crossview::confirmed;
use crate::{Detector, Finding, Limits, Severity, Subject};
use explain::Text;
use lynceus_introspect::linux::Probe;
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gva, Partial};
use lynceus_profiles::kernel_file::{KernelImage, PatchSites};
use std::ops::Range;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "kernel_text",
    technique: "T1014",
    about: "code of the kernel that was changed",
    limits: Limits {
        sees: "with the kernel's own file (the VM's -kernel, --kernel, or one that was imported): every byte of the text that neither the file nor what the kernel rewrites by itself explains. Without: functions that begin with a jump or a call out of the kernel",
        evaded_by: "without the file a hook behind the first instructions; with it a change to one of the forms that a place of rewriting may have, such as a static call that leads to another function of the kernel",
        false_positives: "live patches, which are told as traced functions; a debugger in the guest",
    },
    next: "the function says what is hidden or watched; lynceus modules and check's other findings say whose code it leads to; dump the guest before it is rebooted",
    run: kernel_text,
};

/// Most findings of one look: a kernel of another build would give thousands.
const MAX_FINDINGS: usize = 256;
/// Bytes of a change that are told.
const MAX_TOLD: usize = 16;
/// Bytes read at a time.
const PAGE: usize = 4096;
/// Text that is compared at a time: all of a kernel's would be twenty megabytes, twice.
const WINDOW: u64 = 1 << 20;
/// No place of rewriting and no change reaches further.
const AROUND: u64 = 2 * PAGE as u64;
/// Changes this near to each other are one.
const NEAR: usize = 8;

/// Code that was changed.
pub fn kernel_text(guest: &LinuxGuest, _: &Options) -> Partial<Finding> {
    let view = guest.view();
    let changed = || {
        let mut changes = Partial::default();
        let owners = Owners::new(&view, &mut changes);
        let own = match guest.image() {
            Some(image) => against_file(&view, image, &owners),
            None => entries::redirected(&view, &owners),
        };
        changes.items = changes.absorb(own);
        changes
    };
    // The kernel rewrites code in steps of some microseconds: what one look shows and the next does not is no change.
    let confirmed = confirmed(guest, changed, |before, now| before == now);
    let mut found = Partial::default();
    let changes = found.absorb(confirmed);
    if !changes.is_empty() {
        let owners = Owners::new(&view, &mut found);
        found.items = changes.iter().map(|change| finding(&view, change, &owners)).collect();
    }
    found
}

/// A piece of text that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Change {
    /// Run-time address.
    pub(super) at: Gva,
    /// What should be there; nothing where it is not known.
    pub(super) expected: Vec<u8>,
    /// What is there.
    pub(super) found: Vec<u8>,
}

fn against_file(view: &View<'_>, image: &KernelImage, owners: &Owners) -> Partial<Change> {
    let what = "kernel text";
    let kernel = view.kernel();
    let (Some(start), Some(end)) = (image.symbols.address("_stext"), image.symbols.address("_etext")) else {
        return Partial::unavailable(
            what,
            GapReason::Inconsistent("the kernel's file does not say where its text is"),
        );
    };
    let mut changes = Partial::default();
    let probes = view.probes();
    let probes = changes.absorb(probes);
    let variable = |at| view.u64(kernel.slid(at)).ok();
    let made = |at| owners.is_trampoline(kernel.slid(at));
    let module = |at| owners.is_listed(view, kernel.slid(at));
    let code = |at: u64| at >= start && at < end;
    let mut at = start;
    while at < end && changes.items.len() < MAX_FINDINGS {
        // What is at the edge of a window is explained by what lies around it.
        let from = at.saturating_sub(AROUND).max(start);
        let next = at.saturating_add(WINDOW).min(end);
        let Some(expected) = image.relocated(from, next.saturating_add(AROUND).min(end), kernel.slide) else {
            return Partial::unavailable(
                what,
                GapReason::Inconsistent("the kernel's file lists no relocations: take the vmlinuz"),
            );
        };
        let found =
            read_around(view, kernel.slid(from), &expected, [at, next].map(|edge| edge - from), &mut changes);
        let text = Text {
            image,
            start: from,
            expected: &expected,
            found: &found,
            slide: kernel.slide,
            code: &code,
            variable: &variable,
            made: &made,
            module: &module,
        };
        at = unexplained(&text, &probes, at..next, &mut changes);
    }
    changes
}

/// What of a text differs from what it should be and is explained by no place of rewriting and no probe. Of what begins between two
/// addresses: a change, or what explains one, may reach further, and where it ends is returned.
fn unexplained(text: &Text<'_>, probes: &[Probe], from: Range<u64>, changes: &mut Partial<Change>) -> u64 {
    let (expected, found) = (text.expected, text.found);
    let offset = |address: u64| usize::try_from(address.saturating_sub(text.start)).unwrap_or(usize::MAX);
    let mut at = offset(from.start);
    while let Some(next) = next_difference(expected, found, at) {
        let address = text.start.saturating_add(next as u64);
        if address >= from.end {
            break;
        }
        let run_time = Gva(address.wrapping_add(text.slide));
        let explained = explanation(text, text.image.patch_sites(), address);
        let explained =
            explained.or_else(|| Some(address.saturating_add(probed(probes, run_time, &found[next..])?)));
        at = match explained {
            Some(end) => offset(end).max(next + 1),
            None => {
                let end = end_of_change(expected, found, next);
                let (expected, found) = (expected[next..end].to_vec(), found[next..end].to_vec());
                changes.items.push(Change { at: run_time, expected, found });
                end
            }
        };
        if changes.items.len() >= MAX_FINDINGS {
            changes.gap("text", run_time, GapReason::Limit(MAX_FINDINGS as u64));
            break;
        }
    }
    text.start.saturating_add(at as u64).max(from.end)
}

/// What is at `at`; what cannot be read is a gap and counts as it should be.
pub(super) fn read<T>(view: &View<'_>, at: Gva, expected: &[u8], gaps: &mut Partial<T>) -> Vec<u8> {
    let mut found = expected.to_vec();
    let mut at = at;
    let mut rest = found.as_mut_slice();
    while !rest.is_empty() {
        let take = (PAGE - at.0 as usize % PAGE).min(rest.len());
        let (page, after) = rest.split_at_mut(take);
        let mut copy = [0; PAGE];
        if gaps.ok("kernel image", at, view.space().read(at, &mut copy[..take])).is_some() {
            page.copy_from_slice(&copy[..take]);
        }
        (at, rest) = (Gva(at.0.wrapping_add(take as u64)), after);
    }
    found
}

/// The same, where gaps count between two places in it only.
fn read_around<T>(
    view: &View<'_>,
    at: Gva,
    expected: &[u8],
    counts: [u64; 2],
    gaps: &mut Partial<T>,
) -> Vec<u8> {
    let mut uncounted = Partial::<T>::default();
    let [start, end] = counts.map(|place| usize::try_from(place).unwrap_or(usize::MAX).min(expected.len()));
    let (before, rest) = expected.split_at(start);
    let (inside, behind) = rest.split_at(end.saturating_sub(start));
    let mut found = read(view, at, before, &mut uncounted);
    found.extend(read(view, Gva(at.0.wrapping_add(start as u64)), inside, gaps));
    found.extend(read(view, Gva(at.0.wrapping_add(end as u64)), behind, &mut uncounted));
    found
}

/// Where two texts of the same length differ next, from `at` on.
pub(super) fn next_difference(expected: &[u8], found: &[u8], at: usize) -> Option<usize> {
    const STEP: usize = 64;
    let (mut a, mut b, mut base) = (expected.get(at..)?, found.get(at..)?, at);
    while a.len() >= STEP && a[..STEP] == b[..STEP] {
        (a, b, base) = (&a[STEP..], &b[STEP..], base + STEP);
        // A page at a time where whole pages are the same.
        while a.len() >= PAGE && a[..PAGE] == b[..PAGE] {
            (a, b, base) = (&a[PAGE..], &b[PAGE..], base + PAGE);
        }
    }
    let inside = a.iter().zip(b).position(|(a, b)| a != b)?;
    Some(base + inside)
}

/// The end of a change that begins at `start`.
pub(super) fn end_of_change(expected: &[u8], found: &[u8], start: usize) -> usize {
    let mut end = start + 1;
    while let Some(next) =
        next_difference(expected, found, end).filter(|next| next - end < NEAR && next - start < PAGE)
    {
        end = next + 1;
    }
    end
}

/// The end of a site that explains what is at this link-time address.
fn explanation(text: &Text<'_>, sites: &PatchSites, address: u64) -> Option<u64> {
    /// No site is longer, Xen's page of calls apart, which is none of many.
    const LONGEST: u64 = PAGE as u64;
    let above = sites.partition_point(|site| site.at <= address);
    let near = sites.iter_to(above).rev().take_while(|site| site.at.saturating_add(LONGEST) > address);
    near.filter(|site| site.end > address).find(|site| text.explains(site)).map(|site| site.end)
}

/// How many bytes of what is at `at` a probe of the kernel's own put there: a trap, or a jump to its handler.
fn probed(probes: &[Probe], at: Gva, found: &[u8]) -> Option<u64> {
    const TRAP: u8 = 0xcc;
    const JUMP: u8 = 0xe9;
    let probe =
        probes.iter().find(|probe| (probe.address.0..probe.address.0.saturating_add(5)).contains(&at.0))?;
    Some(match (found.first()?, at == probe.address) {
        (&TRAP, true) => 1,
        // The jump may have the first bytes of what was there.
        (&JUMP, true) => 5,
        _ => probe.address.0.saturating_add(5).saturating_sub(at.0),
    })
}

fn finding(view: &View<'_>, change: &Change, owners: &Owners) -> Finding {
    let place = view.kernel().place(change.at);
    told(view, change, owners, &DETECTOR, place, "the kernel's file")
}

fn told(
    view: &View<'_>,
    change: &Change,
    owners: &Owners,
    detector: &Detector,
    place: String,
    file: &str,
) -> Finding {
    let len = change.found.len();
    let hex = |bytes: &[u8]| crate::hex(bytes.get(..MAX_TOLD).unwrap_or(bytes));
    let leads = explain::destination(&change.found, change.at.0)
        .filter(|to| !view.kernel_text().is_ok_and(|(start, end)| (start.0..end.0).contains(to)));
    let leads = leads.map(|to| format!(", which leads to {}, {}", Gva(to), owners.describe(view, Gva(to))));
    let told = if change.expected.is_empty() {
        format!("{place} begins with {}{}", hex(&change.found), leads.unwrap_or_default())
    } else {
        format!(
            "{len} bytes of {place} are not as in {file}: {} instead of {}{}",
            hex(&change.found),
            hex(&change.expected),
            leads.unwrap_or_default()
        )
    };
    let subject = Subject::Kernel { symbol: place, address: change.at.0, value: hex(&change.found) };
    detector.finding(Severity::Critical, told, subject)
}
