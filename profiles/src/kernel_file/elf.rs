//! `vmlinux`: a kernel as an ELF file. Only what is asked for is read: with debug information it has half a gigabyte.

use super::image::Section;
use super::{KernelFileError, MAX_IMAGE_BYTES};
use crate::kallsyms::{KERNEL_MAP, LINK_TEXT};
use crate::{BuildId, Symbols, SymbolsBuilder, btf, system_map};
use object::read::ReadCache;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::io::{Read, Seek, SeekFrom};

/// Most sections that are looked at.
const MAX_SECTIONS: usize = 4096;

type Elf<'a, F> = ElfFile64<'a, LittleEndian, &'a ReadCache<F>>;

fn failed(error: object::read::Error) -> KernelFileError {
    KernelFileError::Elf(error.to_string())
}

/// Whether the file begins as one.
pub(super) fn is_elf<F: Read + Seek>(file: &mut F) -> Result<bool, KernelFileError> {
    let mut magic = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    Read::take(&mut *file, 4).read_to_end(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(magic == b"\x7fELF")
}

/// The image as it lies in memory, from `_text` on.
pub(super) fn image<F: Read + Seek>(file: &mut F) -> Result<Vec<u8>, KernelFileError> {
    let cache = ReadCache::new(file);
    let elf = Elf::parse(&cache).map_err(failed)?;
    let mut image = Vec::new();
    for segment in elf.elf_program_headers() {
        let address = segment.p_vaddr(LittleEndian);
        // The per-CPU segment is linked at zero through 6.14; notes are in the text segment as well.
        if segment.p_type(LittleEndian) != object::elf::PT_LOAD || address < KERNEL_MAP {
            continue;
        }
        let start = address.checked_sub(LINK_TEXT).and_then(|start| usize::try_from(start).ok());
        let len = usize::try_from(segment.p_filesz(LittleEndian)).ok();
        let range = start.zip(len).and_then(|(start, len)| Some(start..start.checked_add(len)?));
        let range = range.filter(|range| range.end <= MAX_IMAGE_BYTES);
        let range =
            range.ok_or_else(|| KernelFileError::Elf("a segment is out of the kernel's place".to_owned()))?;
        let data = segment
            .data(LittleEndian, &cache)
            .map_err(|()| KernelFileError::Elf("a segment is cut off".to_owned()))?;
        if image.len() < range.end {
            image.resize(range.end, 0);
        }
        if let Some(place) = image.get_mut(range) {
            place.copy_from_slice(data);
        }
    }
    Ok(image)
}

/// The sections that lie in the image, and the offset in the file at which the ELF part ends.
pub(super) fn sections<F: Read + Seek>(file: &mut F) -> Result<(Vec<Section>, u64), KernelFileError> {
    let cache = ReadCache::new(file);
    let elf = Elf::parse(&cache).map_err(failed)?;
    let header = elf.elf_header();
    let table =
        u64::from(header.e_shnum(LittleEndian)).saturating_mul(header.e_shentsize(LittleEndian).into());
    let mut end = header.e_shoff(LittleEndian).saturating_add(table);
    let mut sections = Vec::new();
    for section in elf.sections().take(MAX_SECTIONS) {
        if let Some((offset, len)) = section.file_range() {
            end = end.max(offset.saturating_add(len));
        }
        let (start, name) = (section.address(), section.name().unwrap_or_default());
        if start >= LINK_TEXT {
            let end = start.saturating_add(section.size());
            sections.push(Section { name: name.to_owned(), start, end });
        }
    }
    Ok((sections, end))
}

/// The symbols that the linker left in the file.
pub(super) fn symbols<F: Read + Seek>(file: &mut F) -> Result<Symbols, KernelFileError> {
    let cache = ReadCache::new(file);
    let elf = Elf::parse(&cache).map_err(failed)?;
    let mut builder = SymbolsBuilder::default();
    for symbol in elf.symbols().take(system_map::MAX_SYMBOLS) {
        let kind = match symbol.kind() {
            SymbolKind::Text => b't',
            SymbolKind::Data | SymbolKind::Label | SymbolKind::Unknown => b'd',
            _ => continue,
        };
        let kind = if symbol.is_global() { kind.to_ascii_uppercase() } else { kind };
        if let Ok(name) = symbol.name()
            && !name.is_empty()
            && !symbol.is_undefined()
        {
            builder.push(name, symbol.address(), kind);
        }
    }
    let symbols = builder.build();
    if symbols.is_empty() { Err(KernelFileError::NoSymbols) } else { Ok(symbols) }
}

/// The BTF blob, where the file has a section of that name.
pub(super) fn btf<F: Read + Seek>(file: &mut F) -> Result<Option<Vec<u8>>, KernelFileError> {
    let cache = ReadCache::new(file);
    let elf = Elf::parse(&cache).map_err(failed)?;
    let Some(section) = elf.section_by_name(".BTF") else { return Ok(None) };
    if section.size() > btf::MAX_BLOB_BYTES as u64 {
        return Err(KernelFileError::Elf(format!(".BTF has {} bytes", section.size())));
    }
    Ok(Some(section.data().map_err(failed)?.to_vec()))
}

/// The build id in the file's notes.
pub(super) fn build_id<F: Read + Seek>(file: &mut F) -> Result<Option<BuildId>, KernelFileError> {
    let cache = ReadCache::new(file);
    let elf = Elf::parse(&cache).map_err(failed)?;
    let id = elf.build_id().map_err(failed)?;
    Ok(id.and_then(|id| id.try_into().ok()).map(BuildId))
}
