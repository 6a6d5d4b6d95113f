//! From a kallsyms table to a kernel: its image, its types, and everything that speaks for or against it.

use super::evidence::{Check, Evidence};
use super::image::Image;
use super::scan::region_around;
use crate::linux::{Kernel, Layouts, View};
use crate::paging::Root;
use crate::{Gpa, GpaRange, GuestMemory, Gva};
use lynceus_profiles::kallsyms::{self, Kallsyms, LINK_TEXT, Tables};
use lynceus_profiles::store::{SourceDigest, SourceHasher, SourceRange};
use lynceus_profiles::{Identity, Profile, Types, btf};
use std::ops::Range;
use std::sync::Arc;

/// Bytes before and after a token table that hold all of its kernel's tables.
const BEFORE_BYTES: u64 = 8 << 20;
const AFTER_BYTES: u64 = 4 << 20;
/// Where an x86-64 kernel may be loaded: on every such boundary (`CONFIG_PHYSICAL_ALIGN`).
const LOAD_ALIGN: u64 = 2 << 20;
/// The kernel's image never spans more (`KERNEL_IMAGE_SIZE`).
const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// A decoded kallsyms table and where it came from.
pub(super) struct Table {
    pub(super) symbols: Kallsyms,
    /// The parts that no boot changes: where they lie, and the very bytes that were decoded.
    pub(super) constant: Vec<(GpaRange, Vec<u8>)>,
    /// Guest-physical address of the token table.
    pub(super) at: Gpa,
}

/// Something that may be the guest's kernel.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Guest-physical address of `_text`.
    pub text: Gpa,
    /// What speaks for and against it.
    pub evidence: Evidence,
    /// Its banner, where it has one.
    pub banner: Option<String>,
    /// Why it was not taken; empty for the one that was.
    pub reason: String,
}

/// A complete candidate.
pub(super) struct Found {
    pub(super) candidate: Candidate,
    pub(super) kernel: Kernel,
    /// Ranges that the profile was built from, at their guest-physical places.
    pub(super) sources: Vec<GpaRange>,
    /// Digest of the bytes in them that were parsed; `None` for a profile from elsewhere.
    pub(super) digest: Option<SourceDigest>,
}

/// Gathers the memory around a token table and decodes it.
pub(super) fn decode(memory: &dyn GuestMemory, at: Gpa) -> Result<Table, String> {
    let range = memory.ram().iter().find(|range| range.contains(at, 1)).ok_or("not in RAM")?;
    let (region, start) = region_around(memory, *range, at, BEFORE_BYTES, AFTER_BYTES);
    let inside = usize::try_from(at.0.saturating_sub(start.0)).unwrap_or(usize::MAX);
    let tables = kallsyms::locate(&region, inside).map_err(|error| error.to_string())?;
    let mut symbols = tables.decode(&region).map_err(|error| error.to_string())?;
    // Tables that count from their own place tell where `_text` is: make it a guest-physical address.
    symbols.text_offset = symbols.text_offset.and_then(|offset| offset.checked_add(start.0.cast_signed()));
    Ok(Table { symbols, constant: constant_ranges(&tables, &region, start), at })
}

fn constant_ranges(tables: &Tables, region: &[u8], start: Gpa) -> Vec<(GpaRange, Vec<u8>)> {
    let place = |range: Range<usize>| {
        let place = GpaRange { start: start.checked_add(range.start as u64)?, len_bytes: range.len() as u64 };
        Some((place, region.get(range)?.to_vec()))
    };
    tables.constant_ranges().into_iter().filter_map(place).collect()
}

/// Guest-physical addresses where `_text` may be for the table to lie in this kernel's read-only data.
fn text_places(table: &Table) -> Vec<Gpa> {
    if let Some(offset) = table.symbols.text_offset {
        return u64::try_from(offset).into_iter().map(Gpa).collect();
    }
    let symbols = &table.symbols.symbols;
    let distance = |name: &str| symbols.address(name).and_then(|address| address.checked_sub(LINK_TEXT));
    let first = distance("__start_rodata").unwrap_or(0);
    let last =
        distance("__end_rodata").or_else(|| distance("_end")).unwrap_or(MAX_IMAGE_BYTES).min(MAX_IMAGE_BYTES);
    let lowest = table.at.0.saturating_sub(last).next_multiple_of(LOAD_ALIGN);
    let highest = table.at.0.saturating_sub(first);
    (lowest..=highest).step_by(LOAD_ALIGN as usize).map(Gpa).collect()
}

/// Turns a table into a kernel, or says why it is none.
pub(super) fn examine(memory: &dyn GuestMemory, table: Table) -> Result<Found, Candidate> {
    let symbols = &table.symbols.symbols;
    let by_kallsyms = table.symbols.text_address.map(Gva);
    let images = text_places(&table).into_iter().map(|text| Image { memory, symbols, text });
    let judged = images.map(|image| (image.evidence(by_kallsyms), image.text));
    let best = judged.max_by_key(|(evidence, _)| (evidence.suffices(), evidence.passed.len()));
    let Some((evidence, text)) = best else {
        let evidence = Evidence::default();
        return Err(Candidate {
            text: table.at,
            evidence,
            banner: None,
            reason: "no place for its image".to_owned(),
        });
    };
    let image = Image { memory, symbols, text };
    let mut candidate = Candidate { text, evidence, banner: image.banner(), reason: String::new() };
    let reject = |mut candidate: Candidate, reason: String| {
        candidate.reason = reason;
        Err(candidate)
    };
    if !candidate.evidence.suffices() {
        let reason = candidate.evidence.to_string();
        return reject(candidate, reason);
    }
    let Some((text_at, identity)) = image.text_by_phys_base().zip(image.identity()) else {
        return reject(candidate, "its banner names no release".to_owned());
    };
    let Some(root) = image.root(text_at) else { return reject(candidate, "no page tables".to_owned()) };
    let (types, btf) = match read_btf(&image) {
        Ok(found) => found,
        Err(why) => return reject(candidate, format!("its types cannot be read: {why}")),
    };
    let (sources, digest) = digest(text, table.constant.into_iter().chain([btf]));
    let profile = Profile { identity, symbols: table.symbols.symbols, types };
    let kernel = kernel(Arc::new(profile), text, text_at, root);
    check_live(memory, &kernel, &mut candidate.evidence);
    Ok(Found { candidate, kernel, sources, digest: Some(digest) })
}

/// Puts together what was found.
pub(super) fn kernel(profile: Arc<Profile>, text: Gpa, text_at: Gva, root: Root) -> Kernel {
    let layouts = Layouts::resolve(&profile);
    Kernel { slide: text_at.0.wrapping_sub(LINK_TEXT), profile, text, root, layouts }
}

/// The BTF blob between the symbols that name its ends.
fn read_btf(image: &Image<'_>) -> Result<(Types, (GpaRange, Vec<u8>)), String> {
    let start = image.gpa("__start_BTF").ok_or("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)")?;
    let max = btf::MAX_BLOB_BYTES as u64;
    let blob = image.bytes_between("__start_BTF", "__stop_BTF", max).ok_or("the BTF is not in memory")?;
    let types = btf::parse(&blob).map_err(|error| error.to_string())?;
    Ok((types, (GpaRange { start, len_bytes: blob.len() as u64 }, blob)))
}

/// The ranges, and a digest of their places and bytes.
fn digest(text: Gpa, parts: impl Iterator<Item = (GpaRange, Vec<u8>)>) -> (Vec<GpaRange>, SourceDigest) {
    let (mut ranges, mut hasher) = (Vec::new(), SourceHasher::default());
    for (range, bytes) in parts {
        let offset_from_text = range.start.0.wrapping_sub(text.0).cast_signed();
        hasher.range(SourceRange { offset_from_text, len_bytes: range.len_bytes });
        hasher.bytes(&bytes);
        ranges.push(range);
    }
    (ranges, hasher.finish())
}

/// Checks that need types: is this kernel alive?
pub(super) fn check_live(memory: &dyn GuestMemory, kernel: &Kernel, evidence: &mut Evidence) {
    let view = View::new(memory, kernel);
    evidence.note(Check::InitTask, init_task_is_swapper(&view).unwrap_or(false));
    evidence.note(Check::TaskList, task_list_is_sound(&view).unwrap_or(false));
    evidence.note(Check::Release, release_agrees(&view, &kernel.profile.identity).unwrap_or(false));
    evidence.note(Check::DirectMap, direct_map_leads_back(&view).unwrap_or(false));
}

fn init_task_is_swapper(view: &View<'_>) -> Option<bool> {
    let comm = view.kernel().profile.field("task_struct", "comm").ok()?;
    let name = view.string(view.kernel().symbol("init_task").ok()?.field(comm.offset), 16).ok()?;
    Some(name.starts_with("swapper"))
}

/// The first tasks link to each other both ways, and there is more than one.
fn task_list_is_sound(view: &View<'_>) -> Option<bool> {
    let tasks = view.kernel().profile.field("task_struct", "tasks").ok()?;
    let head = view.kernel().symbol("init_task").ok()?.field(tasks.offset);
    let mut at = head;
    for _ in 0..16 {
        let next = view.pointer(at).ok()?;
        if view.pointer(next.field(8)).ok()? != at {
            return Some(false);
        }
        if next == head {
            return Some(at != head);
        }
        at = next;
    }
    Some(true)
}

fn release_agrees(view: &View<'_>, identity: &Identity) -> Option<bool> {
    let release = view.kernel().profile.field("uts_namespace", "name.release").ok()?;
    let at = view.kernel().symbol("init_uts_ns").ok()?.field(release.offset);
    Some(view.string(at, 65).ok()? == identity.release)
}

/// `page_offset_base` maps all RAM: the kernel's text must be found through it as well.
fn direct_map_leads_back(view: &View<'_>) -> Option<bool> {
    let base = view.pointer(view.kernel().symbol("page_offset_base").ok()?).ok()?;
    let text = view.kernel().text;
    let banner = view.kernel().profile.symbol("linux_banner").ok()?.checked_sub(LINK_TEXT)?;
    let gpa = text.checked_add(banner)?;
    let at = base.checked_add(gpa.0)?;
    Some(view.space().translate(at).ok()?.gpa == gpa)
}
