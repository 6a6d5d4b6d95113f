//! A kernel's own file as a profile: `vmlinuz` as a distribution ships it, or the `vmlinux` inside.
//!
//! A compressed kernel carries the same kallsyms tables and BTF that the running one has in memory, so a package that the
//! admin trusts gives a profile with no debug symbols. What a kernel was built without comes from elsewhere: symbols from
//! the ELF file's own table or a `System.map`, types from DWARF, in the same file or another one.
//!
//! *Trusts*: nothing. Sizes are limited before anything is allocated; a file that decompresses to more is refused.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod boot_image;
mod elf;
mod image;
mod patches;
#[cfg(test)]
mod tests;
mod unpacked;

use crate::kallsyms::{self, LINK_TEXT};
use crate::{BuildId, Identity, Profile, Symbols, Types, btf, dwarf};
use std::io::{Cursor, Read, Seek};

pub(crate) use boot_image::decompress;
pub use boot_image::unpack;
pub use image::{KernelImage, Section};
pub use patches::{Patch, PatchSite, PatchSites};

/// Largest kernel image, as it is laid out in memory (`KERNEL_IMAGE_SIZE`).
const MAX_IMAGE_BYTES: usize = 1 << 30;
/// Bytes around a token table that hold its kernel's tables.
const TABLES_BEFORE: usize = 8 << 20;
const TABLES_AFTER: usize = 4 << 20;
const BANNER: &[u8] = b"Linux version ";
const MAX_BANNER_BYTES: usize = 512;

/// Why a file gives no profile.
#[derive(Debug, thiserror::Error)]
pub enum KernelFileError {
    /// Reading failed.
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    /// Neither a compressed kernel nor an ELF file.
    #[error("neither a vmlinuz (no boot header) nor an ELF vmlinux")]
    NotAKernel,
    /// The boot header leads outside the file.
    #[error("the boot header's payload ({len_bytes} bytes at {offset:#x}) is outside the file")]
    Payload {
        /// Where the payload should begin.
        offset: u64,
        /// How long it should be.
        len_bytes: u64,
    },
    /// Compressed in a way that is not read.
    #[error(
        "compressed with an unknown method (payload begins with {0:02x?}): unpack it with extract-vmlinux and import that"
    )]
    Compression([u8; 4]),
    /// The payload does not decompress.
    #[error("the payload does not decompress: {0}")]
    Decompress(String),
    /// The ELF file is damaged, or not a kernel's.
    #[error("the ELF file is damaged or not an x86-64 kernel: {0}")]
    Elf(String),
    /// A block that should be an unpacked kernel and is none.
    #[error("what was unpacked of it is damaged")]
    Unpacked,
    /// No symbols.
    #[error(
        "no symbols in it: neither kallsyms tables (CONFIG_KALLSYMS_ALL) nor an ELF symbol table; give its System.map"
    )]
    NoSymbols,
    /// A symbol leads to something else than it should.
    #[error("`{0}` is not in the image where its symbols say")]
    Missing(&'static str),
    /// Broken types.
    #[error("its BTF cannot be read: {0}")]
    Types(#[from] btf::BtfError),
    /// No types.
    #[error("no types in it: no BTF (CONFIG_DEBUG_INFO_BTF), and DWARF: {0}; give a file with its types")]
    NoTypes(dwarf::DwarfError),
    /// A file that gives types is of another kernel.
    #[error("the file with types is of build {theirs}, the kernel is of build {ours}")]
    OtherBuild {
        /// The build id of the file with types.
        theirs: BuildId,
        /// That of the kernel.
        ours: BuildId,
    },
}

/// A kernel's profile, and where a running kernel shows which build it is.
#[derive(Clone, Debug)]
pub struct KernelFile {
    /// Symbols and types.
    pub profile: Profile,
    /// Distance of the build id's 20 bytes from `_text`.
    pub build_id_offset: Option<i64>,
}

/// What comes from other files of the same build, and is preferred to what the kernel itself has.
#[derive(Default)]
pub struct Elsewhere {
    /// From a `System.map`.
    pub symbols: Option<Symbols>,
    /// From [`types_of`].
    pub types: Option<TypesFile>,
}

/// Types, and which build they are of where the file tells.
pub struct TypesFile {
    /// The types.
    pub types: Types,
    /// The build id in the file's notes.
    pub build_id: Option<BuildId>,
}

/// Builds a profile from a `vmlinuz` or `vmlinux`.
pub fn load<F: Read + Seek>(mut file: F, elsewhere: Elsewhere) -> Result<KernelFile, KernelFileError> {
    if elf::is_elf(&mut file)? {
        load_elf(&mut file, elsewhere)
    } else {
        load_elf(&mut Cursor::new(boot_image::unpack(&mut file)?), elsewhere)
    }
}

/// What tells a kernel's file from all others, in hexadecimal digits.
pub fn digest(file: &mut impl Read) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(Read::take(file, MAX_IMAGE_BYTES as u64))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The types in a file: a BTF blob as `/sys/kernel/btf/vmlinux` is one, or an ELF file with BTF or DWARF in it.
pub fn types_of<F: Read + Seek>(mut file: F) -> Result<TypesFile, KernelFileError> {
    if !elf::is_elf(&mut file)? {
        let mut blob = Vec::new();
        Read::take(&mut file, btf::MAX_BLOB_BYTES as u64).read_to_end(&mut blob)?;
        return Ok(TypesFile { types: btf::parse(&blob)?, build_id: None });
    }
    let build_id = elf::build_id(&mut file)?;
    let types = match elf::btf(&mut file)? {
        Some(blob) => btf::parse(&blob)?,
        None => dwarf::read(&mut file).map_err(KernelFileError::NoTypes)?,
    };
    Ok(TypesFile { types, build_id })
}

fn load_elf<F: Read + Seek>(file: &mut F, elsewhere: Elsewhere) -> Result<KernelFile, KernelFileError> {
    let image = elf::image(file)?;
    let symbols = match elsewhere.symbols {
        Some(symbols) => symbols,
        None => match kallsyms_in(&image) {
            Some(symbols) => symbols,
            None => elf::symbols(file)?,
        },
    };
    let at = |name: &'static str| {
        let offset = symbols.address(name).and_then(|address| address.checked_sub(LINK_TEXT));
        offset.and_then(|offset| usize::try_from(offset).ok()).ok_or(KernelFileError::Missing(name))
    };
    let between = |start, stop| image.get(at(start)?..at(stop)?).ok_or(KernelFileError::Missing(start));
    let banner = banner_in(image.get(at("linux_banner")?..).unwrap_or_default())?;
    let notes = between("__start_notes", "__stop_notes").unwrap_or_default();
    let build_id = BuildId::from_notes(notes);
    let theirs = elsewhere.types.as_ref().and_then(|given| given.build_id);
    if let (Some(theirs), Some(ours)) = (theirs, build_id)
        && theirs != ours
    {
        return Err(KernelFileError::OtherBuild { theirs, ours });
    }
    let types = match (elsewhere.types, between("__start_BTF", "__stop_BTF")) {
        (Some(given), _) => given.types,
        (None, Ok(blob)) => btf::parse(blob)?,
        (None, Err(_)) => dwarf::read(file).map_err(KernelFileError::NoTypes)?,
    };
    let inside = build_id.and_then(|id| memchr::memmem::find(notes, &id.0));
    let build_id_offset =
        inside.zip(at("__start_notes").ok()).and_then(|(inside, start)| start.checked_add(inside));
    let identity = Identity::from_banner(banner, build_id).ok_or(KernelFileError::Missing("linux_banner"))?;
    let profile = Profile { identity, symbols, types };
    Ok(KernelFile { profile, build_id_offset: build_id_offset.and_then(|offset| i64::try_from(offset).ok()) })
}

/// The first kallsyms table that decodes and describes this image.
fn kallsyms_in(image: &[u8]) -> Option<Symbols> {
    for at in kallsyms::signatures(image) {
        // Tables are aligned as in memory, and the image begins on a page.
        let start = at.saturating_sub(TABLES_BEFORE) & !7;
        let end = at.saturating_add(TABLES_AFTER).min(image.len());
        let region = image.get(start..end).unwrap_or_default();
        let decoded =
            kallsyms::locate(region, at.saturating_sub(start)).and_then(|tables| tables.decode(region));
        if let Ok(found) = decoded {
            return Some(found.symbols);
        }
    }
    None
}

fn banner_in(text: &[u8]) -> Result<&str, KernelFileError> {
    let missing = KernelFileError::Missing("linux_banner");
    let text = text.get(..text.len().min(MAX_BANNER_BYTES)).unwrap_or_default();
    let end = memchr::memchr2(0, b'\n', text);
    let line = end.and_then(|end| text.get(..end)).filter(|line| line.starts_with(BANNER));
    line.and_then(|line| std::str::from_utf8(line).ok()).ok_or(missing)
}
