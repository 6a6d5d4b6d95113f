//! A kernel's image as its file has it: the yardstick for what a running kernel has in memory.
//!
//! A distribution's `vmlinuz` holds the whole image with its sections by name, and the list of places that KASLR relocates
//! behind it. So what a kernel's text and constants must be at any slide is known to the byte.
//!
//! *Trusts*: nothing: every address is looked up inside the image. *Never*: guesses at relocations that the file does not list.
//!
//! Layouts: ELF sections; relocations behind the ELF file (`arch/x86/tools/relocs.c`, `handle_relocations` in
//! `arch/x86/boot/compressed/misc.c`): 32-bit words, sign-extended link-time addresses, a zero before each list: those of
//! 64-bit places, of 32-bit places that shrink with the slide (per-CPU, through 6.14), of 32-bit places.

use super::patches::{self, PatchSite, PatchSites};
use super::{KernelFileError, banner_in, boot_image, elf, kallsyms_in};
use crate::kallsyms::LINK_TEXT;
use crate::shared::{Packed, Shared, Table};
use crate::{BuildId, Identity, Symbols};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::sync::OnceLock;

/// Longest list of places that are relocated, four bytes each: today's kernels have half a million.
const MAX_RELOCATION_BYTES: u64 = 64 << 20;

/// A named part of the image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Link-time address.
    pub start: u64,
    /// The address after its last byte.
    pub end: u64,
}

/// How a place changes with the slide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    Add32,
    Subtract32,
    Add64,
}

/// A place that is relocated. None of the kernel's lies outside of the last 2 GB of the address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Relocation {
    at: u64,
    place: Place,
}

impl Packed<5> for Relocation {
    fn unpack([a, b, c, d, place]: [u8; 5]) -> Relocation {
        let place = match place {
            0 => Place::Add32,
            1 => Place::Subtract32,
            _ => Place::Add64,
        };
        Relocation { at: i64::from(i32::from_le_bytes([a, b, c, d])) as u64, place }
    }
    fn pack(&self) -> [u8; 5] {
        let [a, b, c, d] = (self.at as u32).to_le_bytes();
        [a, b, c, d, self.place as u8]
    }
}

/// A kernel's image, from its file; or a module's, as it lies beside it.
#[derive(Clone, Debug)]
pub struct KernelImage {
    /// Which kernel it is.
    pub identity: Identity,
    /// Its symbols.
    pub symbols: Symbols,
    pub(super) sections: Vec<Section>,
    /// Bytes as linked, and where they begin: one piece from `_text` on; a module's sections lie apart.
    pub(super) pieces: Vec<(u64, Shared)>,
    /// Places by ascending address; none where the file does not list them.
    pub(super) relocations: Option<Table<Relocation, 5>>,
    /// Places of a module that hold the address of what has no size.
    pub(super) unknown: Vec<PatchSite>,
    pub(super) patch_sites: OnceLock<PatchSites>,
}

impl KernelImage {
    /// Reads a `vmlinuz`, or the `vmlinux` that was inside of one.
    pub fn load<F: Read + Seek>(mut file: F) -> Result<KernelImage, KernelFileError> {
        if elf::is_elf(&mut file)? {
            load(&mut file)
        } else {
            load(&mut Cursor::new(boot_image::unpack(&mut file)?))
        }
    }

    /// A module's code, linked for where it runs: nothing of it slides any more. What is at places that are `unknown` may be
    /// anything.
    pub(crate) fn of_module(
        symbols: Symbols,
        mut parts: Vec<(Section, Vec<u8>)>,
        unknown: Vec<PatchSite>,
    ) -> KernelImage {
        parts.sort_by_key(|(section, _)| section.start);
        let (sections, bytes): (Vec<Section>, Vec<Vec<u8>>) = parts.into_iter().unzip();
        let pieces = sections.iter().map(|section| section.start).zip(bytes.into_iter().map(Shared::from));
        let pieces = pieces.collect();
        let (identity, relocations) = (Identity::default(), Some(Table::default()));
        let patch_sites = OnceLock::new();
        KernelImage { identity, symbols, sections, pieces, relocations, unknown, patch_sites }
    }

    /// The section of that name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// All sections, in the file's order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The bytes from link-time address `start` to `end` as linked; none where the image does not reach.
    pub fn bytes(&self, start: u64, end: u64) -> Option<&[u8]> {
        let above = self.pieces.partition_point(|(from, _)| *from <= start);
        let (from, bytes) = self.pieces.get(above.checked_sub(1)?)?;
        let at = |address: u64| usize::try_from(address.checked_sub(*from)?).ok();
        bytes.get(at(start)?..at(end)?)
    }

    /// A little-endian number as linked.
    pub fn number<const N: usize>(&self, at: u64) -> Option<u64> {
        let mut buf = [0; 8];
        buf.get_mut(..N)?.copy_from_slice(self.bytes(at, at.checked_add(N as u64)?)?);
        Some(u64::from_le_bytes(buf))
    }

    /// The place that a signed 32-bit distance at `at` leads to, counted from itself.
    pub fn relative(&self, at: u64) -> Option<u64> {
        let distance = self.number::<4>(at)? as u32 as i32;
        Some(at.wrapping_add_signed(distance.into()))
    }

    /// The places of its text that the kernel itself rewrites, by ascending address.
    pub fn patch_sites(&self) -> &PatchSites {
        self.patch_sites.get_or_init(|| Table::of(&patches::sites(self, &self.unknown)))
    }

    /// Whether what the image is at a slide other than zero can be told.
    pub fn can_slide(&self) -> bool {
        self.relocations.is_some()
    }

    /// The bytes from `start` to `end` as they are when the kernel runs `slide` bytes above its link-time addresses.
    pub fn relocated(&self, start: u64, end: u64, slide: u64) -> Option<Vec<u8>> {
        let mut bytes = self.bytes(start, end)?.to_vec();
        if slide == 0 {
            return Some(bytes);
        }
        let all = self.relocations.as_ref()?;
        let first = all.partition_point(|one| one.at.saturating_add(8) <= start);
        for Relocation { at, place } in all.iter_from(first).take_while(|one| one.at < end) {
            let mut word = self.number::<8>(at)?.to_le_bytes();
            let (width, value) = match place {
                Place::Add64 => (8, u64::from_le_bytes(word).wrapping_add(slide)),
                Place::Add32 => (4, u64::from_le_bytes(word).wrapping_add(slide)),
                Place::Subtract32 => (4, u64::from_le_bytes(word).wrapping_sub(slide)),
            };
            word = value.to_le_bytes();
            for (index, byte) in word.iter().take(width).enumerate() {
                let offset = at.saturating_add(index as u64).checked_sub(start);
                let offset = offset.and_then(|offset| usize::try_from(offset).ok());
                if let Some(place) = offset.and_then(|offset| bytes.get_mut(offset)) {
                    *place = *byte;
                }
            }
        }
        Some(bytes)
    }
}

fn load<F: Read + Seek>(file: &mut F) -> Result<KernelImage, KernelFileError> {
    let bytes = elf::image(file)?;
    let symbols = kallsyms_in(&bytes).ok_or(KernelFileError::NoSymbols)?;
    let at = |name: &'static str| {
        let offset = symbols.address(name).and_then(|address| address.checked_sub(LINK_TEXT));
        offset.and_then(|offset| usize::try_from(offset).ok()).ok_or(KernelFileError::Missing(name))
    };
    let banner = banner_in(bytes.get(at("linux_banner")?..).unwrap_or_default())?;
    let notes = bytes.get(at("__start_notes")?..at("__stop_notes")?).unwrap_or_default();
    let identity = Identity::from_banner(banner, BuildId::from_notes(notes));
    let identity = identity.ok_or(KernelFileError::Missing("linux_banner"))?;
    let (sections, end) = elf::sections(file)?;
    let relocations = relocations(file, end)?;
    let pieces = vec![(LINK_TEXT, Shared::from(bytes))];
    let (unknown, patch_sites) = (Vec::new(), OnceLock::new());
    Ok(KernelImage { identity, symbols, sections, pieces, relocations, unknown, patch_sites })
}

/// What lies behind the ELF file, which ends at `end`.
fn relocations<F: Read + Seek>(
    file: &mut F,
    end: u64,
) -> Result<Option<Table<Relocation, 5>>, KernelFileError> {
    file.seek(SeekFrom::Start(end))?;
    let mut words = Vec::new();
    Read::take(file, MAX_RELOCATION_BYTES).read_to_end(&mut words)?;
    let words: Vec<i32> = words.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect();
    let lists: Vec<&[i32]> = words.split(|word| *word == 0).collect();
    // The first zero has nothing before it.
    let kinds: &[Place] = match lists.len() {
        4 => &[Place::Add64, Place::Subtract32, Place::Add32],
        3 => &[Place::Add64, Place::Add32],
        _ => return Ok(None),
    };
    let mut all = Vec::with_capacity(words.len());
    for (list, kind) in lists.iter().skip(1).zip(kinds) {
        all.extend(list.iter().map(|word| Relocation { at: i64::from(*word) as u64, place: *kind }));
    }
    all.sort_unstable();
    Ok(Some(Table::of(&all)))
}
