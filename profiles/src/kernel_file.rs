//! A kernel's own file as a profile: `vmlinuz` as a distribution ships it, or the `vmlinux` inside.
//!
//! A compressed kernel carries the same kallsyms tables and BTF that the running one has in memory, so a package that the
//! admin trusts gives a profile with no debug symbols.
//!
//! *Trusts*: nothing. Sizes are limited before anything is allocated; a file that decompresses to more is refused.
//!
//! Layout: boot protocol (`Documentation/arch/x86/boot.rst`: `setup_sects` 0x1f1, `header` 0x202, `payload_offset` 0x248),
//! `arch/x86/boot/compressed`, the legacy LZ4 frame (`lib/decompress_unlz4.c`).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::kallsyms::{self, KERNEL_MAP, LINK_TEXT};
use crate::{BuildId, Identity, Profile, Symbols, btf};
use object::read::elf::{ElfFile64, ProgramHeader};
use std::io::Read;

/// Largest kernel file taken, compressed or not: a `vmlinux` with DWARF is some 600 MB.
pub const MAX_FILE_BYTES: u64 = 2 << 30;
/// Largest kernel image, as it is laid out in memory (`KERNEL_IMAGE_SIZE`).
const MAX_IMAGE_BYTES: usize = 1 << 30;
/// Largest payload after decompression.
const MAX_PAYLOAD_BYTES: u64 = 512 << 20;
/// Blocks of the legacy LZ4 frame hold up to that much.
const LZ4_BLOCK_BYTES: usize = 8 << 20;
/// Bytes around a token table that hold its kernel's tables.
const TABLES_BEFORE: usize = 8 << 20;
const TABLES_AFTER: usize = 4 << 20;
const BANNER: &[u8] = b"Linux version ";
const MAX_BANNER_BYTES: usize = 512;

/// Why a file gives no profile.
#[derive(Debug, thiserror::Error)]
pub enum KernelFileError {
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
    /// No symbols.
    #[error("no kallsyms table in it (CONFIG_KALLSYMS_ALL)")]
    NoSymbols,
    /// A symbol leads to something else than it should.
    #[error("`{0}` is not in the image where kallsyms says")]
    Missing(&'static str),
    /// No types.
    #[error("its BTF cannot be read: {0}")]
    Types(String),
}

/// A kernel's profile, and where a running kernel shows which build it is.
#[derive(Clone, Debug)]
pub struct KernelFile {
    /// Symbols and types.
    pub profile: Profile,
    /// Distance of the build id's 20 bytes from `_text`.
    pub build_id_offset: Option<i64>,
}

/// Builds a profile from the bytes of a `vmlinuz` or `vmlinux`.
pub fn load(file: &[u8]) -> Result<KernelFile, KernelFileError> {
    let unpacked;
    let elf = if file.starts_with(b"\x7fELF") {
        file
    } else {
        unpacked = decompress(payload(file)?)?;
        &unpacked
    };
    let image = flatten(elf)?;
    let symbols = symbols(&image)?;
    let at = |name: &'static str| {
        let offset = symbols.address(name).and_then(|address| address.checked_sub(LINK_TEXT));
        offset.and_then(|offset| usize::try_from(offset).ok()).ok_or(KernelFileError::Missing(name))
    };
    let between = |start, stop| image.get(at(start)?..at(stop)?).ok_or(KernelFileError::Missing(start));
    let banner = banner(image.get(at("linux_banner")?..).unwrap_or_default())?;
    let types = btf::parse(between("__start_BTF", "__stop_BTF")?)
        .map_err(|error| KernelFileError::Types(error.to_string()))?;
    let notes = between("__start_notes", "__stop_notes").unwrap_or_default();
    let build_id = BuildId::from_notes(notes);
    let inside = build_id.and_then(|id| memchr::memmem::find(notes, &id.0));
    let build_id_offset =
        inside.zip(at("__start_notes").ok()).and_then(|(inside, start)| start.checked_add(inside));
    let identity = Identity::from_banner(banner, build_id).ok_or(KernelFileError::Missing("linux_banner"))?;
    let profile = Profile { identity, symbols, types };
    Ok(KernelFile { profile, build_id_offset: build_id_offset.and_then(|offset| i64::try_from(offset).ok()) })
}

/// The compressed part of a boot image.
fn payload(file: &[u8]) -> Result<&[u8], KernelFileError> {
    if file.get(0x202..0x206) != Some(b"HdrS") {
        return Err(KernelFileError::NotAKernel);
    }
    let word = |at: usize| {
        let bytes = file.get(at..).and_then(|rest| rest.first_chunk()).ok_or(KernelFileError::NotAKernel)?;
        Ok(u64::from(u32::from_le_bytes(*bytes)))
    };
    let sectors = u64::from(file.get(0x1f1).copied().filter(|count| *count > 0).unwrap_or(4));
    let (offset, len_bytes) = (word(0x248)?, word(0x24c)?);
    let offset = sectors.saturating_add(1).saturating_mul(512).saturating_add(offset);
    let part = usize::try_from(offset).ok().zip(usize::try_from(len_bytes).ok());
    let part = part.and_then(|(start, len)| file.get(start..)?.get(..len));
    part.ok_or(KernelFileError::Payload { offset, len_bytes })
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, KernelFileError> {
    let failed = |why: &dyn std::fmt::Display| KernelFileError::Decompress(why.to_string());
    let limited = |reader: &mut dyn Read| {
        let mut out = Vec::new();
        reader.take(MAX_PAYLOAD_BYTES).read_to_end(&mut out).map_err(|error| failed(&error))?;
        Ok(out)
    };
    match payload.first_chunk::<4>().ok_or(KernelFileError::NotAKernel)? {
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut reader =
                ruzstd::decoding::StreamingDecoder::new(payload).map_err(|error| failed(&error))?;
            limited(&mut reader)
        }
        [0x02, 0x21, 0x4c, 0x18] => lz4_legacy(payload.get(4..).unwrap_or_default()),
        [0xfd, 0x37, 0x7a, 0x58] => limited(&mut lzma_rust2::XzReader::new(payload, false)),
        [0x1f, 0x8b, ..] => limited(&mut flate2::read::GzDecoder::new(payload)),
        magic => Err(KernelFileError::Compression(*magic)),
    }
}

/// Blocks, each with its length before it, to the end or to the kernel's own length word.
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>, KernelFileError> {
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let Some((packed, next)) = after.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
        let written = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| KernelFileError::Decompress(error.to_string()))?;
        out.extend_from_slice(block.get(..written).unwrap_or_default());
        if out.len() as u64 > MAX_PAYLOAD_BYTES {
            return Err(KernelFileError::Decompress("more than 512 MiB".to_owned()));
        }
        rest = next;
    }
    Ok(out)
}

/// The image as it lies in memory, from `_text` on.
fn flatten(elf: &[u8]) -> Result<Vec<u8>, KernelFileError> {
    let failed = |error: object::read::Error| KernelFileError::Elf(error.to_string());
    let file = ElfFile64::<object::LittleEndian>::parse(elf).map_err(failed)?;
    let endian = object::LittleEndian;
    let mut image = Vec::new();
    for segment in file.elf_program_headers() {
        let address = segment.p_vaddr(endian);
        // The per-CPU segment is linked at zero through 6.14; notes are in the text segment as well.
        if segment.p_type(endian) != object::elf::PT_LOAD || address < KERNEL_MAP {
            continue;
        }
        let data = segment
            .data(endian, elf)
            .map_err(|()| KernelFileError::Elf("a segment is cut off".to_owned()))?;
        let start = address.checked_sub(LINK_TEXT).and_then(|start| usize::try_from(start).ok());
        let range = start.and_then(|start| Some(start..start.checked_add(data.len())?));
        let range = range.filter(|range| range.end <= MAX_IMAGE_BYTES);
        let range =
            range.ok_or_else(|| KernelFileError::Elf("a segment is out of the kernel's place".to_owned()))?;
        if image.len() < range.end {
            image.resize(range.end, 0);
        }
        if let Some(place) = image.get_mut(range) {
            place.copy_from_slice(data);
        }
    }
    Ok(image)
}

/// The first kallsyms table that decodes and describes this image.
fn symbols(image: &[u8]) -> Result<Symbols, KernelFileError> {
    for at in kallsyms::signatures(image) {
        // Tables are aligned as in memory, and the image begins on a page.
        let start = at.saturating_sub(TABLES_BEFORE) & !7;
        let end = at.saturating_add(TABLES_AFTER).min(image.len());
        let region = image.get(start..end).unwrap_or_default();
        let decoded =
            kallsyms::locate(region, at.saturating_sub(start)).and_then(|tables| tables.decode(region));
        if let Ok(found) = decoded {
            return Ok(found.symbols);
        }
    }
    Err(KernelFileError::NoSymbols)
}

fn banner(text: &[u8]) -> Result<&str, KernelFileError> {
    let missing = KernelFileError::Missing("linux_banner");
    let text = text.get(..text.len().min(MAX_BANNER_BYTES)).unwrap_or_default();
    let end = memchr::memchr2(0, b'\n', text);
    let line = end.and_then(|end| text.get(..end)).filter(|line| line.starts_with(BANNER));
    line.and_then(|line| std::str::from_utf8(line).ok()).ok_or(missing)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    /// A boot image around a payload.
    fn boot_image(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[0x1f1] = 1;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend(payload);
        file
    }

    #[test]
    fn other_files_are_refused_with_the_reason() {
        assert!(matches!(load(b""), Err(KernelFileError::NotAKernel)));
        assert!(matches!(load(&[0; 4096]), Err(KernelFileError::NotAKernel)));
        assert!(matches!(load(b"\x7fELF"), Err(KernelFileError::Elf(_))));
        assert!(matches!(load(&boot_image(b"BZh9")), Err(KernelFileError::Compression(_))));
        let cut = &boot_image(&[0; 100])[..1030];
        assert!(matches!(load(cut), Err(KernelFileError::Payload { .. })));
    }

    #[test]
    fn every_cut_of_every_compression_is_an_error() {
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x88, 1, 2, 3, 4];
        let lz4 = [0x02, 0x21, 0x4c, 0x18, 0xff, 0, 0, 0, 9, 9];
        let xz = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 4, 1, 2];
        let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 1, 2];
        for payload in [zstd, lz4, xz, gzip] {
            for len in 4..payload.len() {
                assert!(load(&boot_image(&payload[..len])).is_err(), "{payload:x?}");
            }
        }
    }

    #[test]
    fn lz4_blocks_follow_each_other_up_to_the_length_word() {
        let mut frame = Vec::new();
        for text in [&b"kernel "[..], b"image"] {
            let packed = lz4_flex::block::compress(text);
            frame.extend((packed.len() as u32).to_le_bytes());
            frame.extend(packed);
        }
        frame.extend(12u32.to_le_bytes());
        assert_eq!(lz4_legacy(&frame).unwrap(), b"kernel image");
    }
}
