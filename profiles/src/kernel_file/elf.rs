//! `vmlinux`: a kernel as an ELF file. Only what is asked for is read: with debug information it has half a gigabyte.

use super::{KernelFileError, MAX_IMAGE_BYTES};
use crate::kallsyms::{KERNEL_MAP, LINK_TEXT};
use crate::{BuildId, Symbols, SymbolsBuilder, btf, system_map};
use object::read::ReadCache;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::io::{Read, Seek, SeekFrom};

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
