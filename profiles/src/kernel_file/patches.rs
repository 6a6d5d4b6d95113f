//! The places of the kernel's text that the kernel itself rewrites, as the tables in its own file list them.
//!
//! *Trusts*: nothing; a table that leads out of the image gives sites that nothing lies at. *Never*: reads these tables in the guest, where most of them are gone after boot
//! and the rest is anyone's to change.
//!
//! Layouts (Linux 5.10 to 7.2): `struct alt_instr` (`arch/x86/include/asm/alternative.h`: 12 bytes, 13 with `padlen`, 14 since
//! 6.3), `struct paravirt_patch_site` (`paravirt_types.h`, through 6.7), `struct jump_entry` (`include/linux/jump_label.h`),
//! `struct static_call_site` (`include/linux/static_call_types.h`), `__mcount_loc` (`kernel/trace/ftrace.c`), lists of 32-bit
//! distances from themselves: `.smp_locks`, `.retpoline_sites`, `.return_sites`, `.call_sites`, `.ibt_endbr_seal`,
//! `runtime_ptr_*` and `runtime_shift_*` (`asm/runtime-const.h`).

use super::image::KernelImage;
use crate::shared::{Packed, Table, join};

/// Longest site of a list that gives no length: a call through a thunk with its prefix and what pads it.
const CALL_BYTES: u64 = 5;
/// `X86_JUMP_LABEL`: entries of the table.
const JUMP_ENTRY_BYTES: usize = 16;
const STATIC_CALL_BYTES: usize = 8;
/// Sizes that `struct alt_instr` has had.
const ALTERNATIVE_BYTES: [usize; 3] = [14, 12, 13];
/// Both kinds of it and their place: address and type, padded.
const PARAVIRT_BYTES: usize = 16;
/// Xen's page of hypercalls.
const PAGE: u64 = 4096;

/// What may be at a site beside what was linked there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patch {
    /// A static key: a jump to this place, or nothing.
    StaticKey(u64),
    /// The call at the start of a function by which it is traced, or nothing.
    Trace,
    /// A lock prefix, or the harmless one that a single processor gets.
    Lock,
    /// An indirect branch through a thunk, or the branch itself.
    Thunk,
    /// A return through a thunk, or a return.
    Return,
    /// A call whose depth is counted: it may enter the function before its start.
    Call,
    /// The mark of a place that indirect branches may lead to, or nothing.
    Landing,
    /// Another instruction for some processors, from this place, so long.
    Alternative(u64, u64),
    /// A call through a table of operations that hypervisors replace, or what it leads to.
    Paravirt,
    /// A call that is patched to lead to the current function.
    StaticCall,
    /// A constant that is known at boot: the value of the variable there, where the symbols name it.
    Constant(Option<u64>),
    /// Calls into the hypervisor, which writes them itself.
    Hypercalls,
}

/// A place that may be rewritten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PatchSite {
    /// Link-time address.
    pub at: u64,
    /// The address after its last byte.
    pub end: u64,
    /// With what.
    pub patch: Patch,
}

/// Places by ascending address, where processes can share them.
pub type PatchSites = Table<PatchSite, 25>;

/// Address, length, kind, and two numbers that are the kind's.
impl Packed<25> for PatchSite {
    fn unpack(b: [u8; 25]) -> PatchSite {
        let at = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        let len = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
        let first = u64::from_le_bytes([b[13], b[14], b[15], b[16], b[17], b[18], b[19], b[20]]);
        let second = u32::from_le_bytes([b[21], b[22], b[23], b[24]]);
        let patch = match b[12] {
            0 => Patch::StaticKey(first),
            1 => Patch::Trace,
            3 => Patch::Thunk,
            4 => Patch::Return,
            5 => Patch::Call,
            6 => Patch::Landing,
            7 => Patch::Alternative(first, second.into()),
            8 => Patch::Paravirt,
            9 => Patch::StaticCall,
            10 => Patch::Constant(Some(first)),
            11 => Patch::Constant(None),
            12 => Patch::Hypercalls,
            // The narrowest of them.
            _ => Patch::Lock,
        };
        PatchSite { at, end: at.saturating_add(len.into()), patch }
    }
    fn pack(&self) -> [u8; 25] {
        let (kind, first, second) = match self.patch {
            Patch::StaticKey(target) => (0, target, 0),
            Patch::Trace => (1, 0, 0),
            Patch::Lock => (2, 0, 0),
            Patch::Thunk => (3, 0, 0),
            Patch::Return => (4, 0, 0),
            Patch::Call => (5, 0, 0),
            Patch::Landing => (6, 0, 0),
            Patch::Alternative(text, len) => (7, text, len),
            Patch::Paravirt => (8, 0, 0),
            Patch::StaticCall => (9, 0, 0),
            Patch::Constant(Some(variable)) => (10, variable, 0),
            Patch::Constant(None) => (11, 0, 0),
            Patch::Hypercalls => (12, 0, 0),
        };
        let len = self.end.saturating_sub(self.at) as u32;
        let (at, len) = (self.at.to_le_bytes(), len.to_le_bytes());
        join([&at, &len, &[kind], &first.to_le_bytes(), &(second as u32).to_le_bytes()])
    }
}

/// All sites of an image and those that are given, by ascending address.
pub(super) fn sites(image: &KernelImage, given: &[PatchSite]) -> Vec<PatchSite> {
    let mut sites = given.to_vec();
    let mut add = |at: u64, len: u64, patch| sites.push(PatchSite { at, end: at.saturating_add(len), patch });
    for (at, target) in jump_entries(image) {
        add(at, CALL_BYTES, Patch::StaticKey(target));
    }
    for entry in table(image, "__start_mcount_loc", "__stop_mcount_loc", 8) {
        add(image.number::<8>(entry).unwrap_or(0), CALL_BYTES, Patch::Trace);
    }
    for entry in table(image, "__start_static_call_sites", "__stop_static_call_sites", STATIC_CALL_BYTES) {
        add(image.relative(entry).unwrap_or(0), CALL_BYTES, Patch::StaticCall);
    }
    for (section, len, patch) in [
        (".smp_locks", 1, Patch::Lock),
        // With the prefix that makes it six bytes, or as a conditional jump of six.
        (".retpoline_sites", 6, Patch::Thunk),
        (".return_sites", CALL_BYTES, Patch::Return),
        (".call_sites", CALL_BYTES, Patch::Call),
        (".ibt_endbr_seal", 4, Patch::Landing),
    ] {
        for at in distances(image, section) {
            add(at, len, patch);
        }
    }
    for section in image.sections() {
        let (pointer, shift) =
            (section.name.strip_prefix("runtime_ptr_"), section.name.strip_prefix("runtime_shift_"));
        let (name, len) = match (pointer, shift) {
            (Some(name), _) => (name, 8),
            (None, Some(name)) => (name, 1),
            (None, None) => continue,
        };
        let variable = image.symbols.address(name);
        for at in distances(image, &section.name) {
            add(at, len, Patch::Constant(variable));
        }
    }
    alternatives(image, &mut add);
    if let Some(section) = image.section(".parainstructions") {
        for entry in (section.start..section.end).step_by(PARAVIRT_BYTES) {
            let len = image.number::<1>(entry.saturating_add(9)).unwrap_or(0);
            add(image.number::<8>(entry).unwrap_or(0), len, Patch::Paravirt);
        }
    }
    for symbol in image.symbols.iter() {
        if symbol.name.starts_with("__SCT__") {
            add(symbol.address, 8, Patch::StaticCall);
        }
    }
    // Calls of tracers, and the way back to a guest of Xen's.
    for name in ["ftrace_call", "ftrace_regs_call", "ftrace_graph_call", "early_xen_iret_patch"] {
        if let Some(at) = image.symbols.address(name) {
            add(at, CALL_BYTES, Patch::StaticCall);
        }
    }
    if let Some(at) = image.symbols.address("hypercall_page") {
        add(at, PAGE, Patch::Hypercalls);
    }
    sites.sort_by_key(|site| (site.at, site.end));
    sites
}

/// Addresses of the entries of a table between two symbols.
fn table<'a>(
    image: &'a KernelImage,
    start: &'a str,
    stop: &'a str,
    entry_bytes: usize,
) -> impl Iterator<Item = u64> + 'a {
    let start = image.symbols.address(start).unwrap_or(0);
    let stop = image.symbols.address(stop).unwrap_or(0);
    (start..stop).step_by(entry_bytes).filter(move |at| image.bytes(*at, at.saturating_add(1)).is_some())
}

/// Places and targets of static keys.
fn jump_entries(image: &KernelImage) -> impl Iterator<Item = (u64, u64)> + '_ {
    table(image, "__start___jump_table", "__stop___jump_table", JUMP_ENTRY_BYTES)
        .filter_map(|entry| Some((image.relative(entry)?, image.relative(entry.saturating_add(4))?)))
}

/// The places that a list of distances leads to.
fn distances<'a>(image: &'a KernelImage, section: &str) -> impl Iterator<Item = u64> + 'a {
    let (start, end) = image.section(section).map_or((0, 0), |section| (section.start, section.end));
    (start..end).step_by(4).filter_map(|at| image.relative(at))
}

fn alternatives(image: &KernelImage, add: &mut impl FnMut(u64, u64, Patch)) {
    let (Some(table), Some(texts)) =
        (image.section(".altinstructions"), image.section(".altinstr_replacement"))
    else {
        return;
    };
    let lengths_at = |size: usize| if size == 14 { 12 } else { 10 };
    let entry = |at: u64, size: usize| {
        let (place, text) = (image.relative(at)?, image.relative(at.checked_add(4)?)?);
        let lengths = at.checked_add(lengths_at(size))?;
        let (len, text_len) = (image.number::<1>(lengths)?, image.number::<1>(lengths.checked_add(1)?)?);
        // An empty replacement may lie at the very end.
        let is_text = text >= texts.start && text.checked_add(text_len)? <= texts.end && text_len <= len;
        is_text.then_some((place, len, text, text_len))
    };
    // A module's table may have a single entry, which fits into any other size as none.
    let len = table.end.saturating_sub(table.start);
    let fits = |size: &&usize| {
        len.is_multiple_of(**size as u64)
            && (table.start..table.end).step_by(**size).all(|at| entry(at, **size).is_some())
    };
    let Some(size) = ALTERNATIVE_BYTES.iter().find(fits) else { return };
    for at in (table.start..table.end).step_by(*size) {
        if let Some((place, len, text, text_len)) = entry(at, *size) {
            add(place, len, Patch::Alternative(text, text_len));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_place_is_packed_and_comes_back() {
        let (target, len) = (0xffff_ffff_8123_4567, 255);
        let all = [
            Patch::StaticKey(target),
            Patch::Trace,
            Patch::Lock,
            Patch::Thunk,
            Patch::Return,
            Patch::Call,
            Patch::Landing,
            Patch::Alternative(target, len),
            Patch::Paravirt,
            Patch::StaticCall,
            Patch::Constant(Some(target)),
            Patch::Constant(None),
            Patch::Hypercalls,
        ];
        for patch in all {
            let site = PatchSite { at: target - 7, end: target + PAGE, patch };
            assert_eq!(PatchSite::unpack(site.pack()), site);
        }
    }
}
