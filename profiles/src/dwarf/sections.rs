//! Where the debug sections lie in the file, and how they are unpacked.

use super::DwarfError;
use object::read::{CompressionFormat, ReadCache};
use object::{Object, ObjectKind, ObjectSection};
use std::io::{BufReader, Read, Seek, SeekFrom};

/// Largest `.debug_info`: a kernel with every option has less than 1 GB.
const MAX_INFO_BYTES: u64 = 4 << 30;
/// Largest of the others.
const MAX_OTHER_BYTES: u64 = 512 << 20;

/// A section in the file. One that is not there is empty.
#[derive(Clone, Copy)]
pub(super) struct Section {
    name: &'static str,
    offset: u64,
    stored_bytes: u64,
    bytes: u64,
    format: CompressionFormat,
}

/// Those that types need.
pub(super) struct Sections {
    pub(super) info: Section,
    pub(super) abbrev: Section,
    pub(super) str: Section,
    pub(super) line_str: Section,
    pub(super) str_offsets: Section,
}

/// Finds the sections of an ELF file. Nothing but its headers is read.
pub(super) fn find<F: Read + Seek>(file: &mut F) -> Result<Sections, DwarfError> {
    let failed = |error: object::read::Error| DwarfError::Elf(error.to_string());
    let cache = ReadCache::new(file);
    let elf = object::read::elf::ElfFile64::<object::LittleEndian, _>::parse(&cache).map_err(failed)?;
    let section = |name: &'static str, limit| {
        let mut found =
            Section { name, offset: 0, stored_bytes: 0, bytes: 0, format: CompressionFormat::None };
        // This finds `.zdebug_…` as well.
        if let Some(section) = elf.section_by_name(name) {
            let range = section.compressed_file_range().map_err(failed)?;
            (found.offset, found.stored_bytes) = (range.offset, range.compressed_size);
            (found.bytes, found.format) = (range.uncompressed_size, range.format);
        }
        if found.bytes > limit {
            return Err(DwarfError::TooLarge { name, bytes: found.bytes, limit });
        }
        Ok(found)
    };
    let sections = Sections {
        info: section(".debug_info", MAX_INFO_BYTES)?,
        abbrev: section(".debug_abbrev", MAX_OTHER_BYTES)?,
        str: section(".debug_str", MAX_OTHER_BYTES)?,
        line_str: section(".debug_line_str", MAX_OTHER_BYTES)?,
        str_offsets: section(".debug_str_offsets", MAX_OTHER_BYTES)?,
    };
    match (sections.info.bytes, elf.kind()) {
        (0, _) => Err(DwarfError::None),
        (_, ObjectKind::Relocatable) => Err(DwarfError::NotLinked),
        _ => Ok(sections),
    }
}

impl Section {
    /// The section as a stream, unpacked.
    pub(super) fn open<'a, F: Read + Seek>(self, file: &'a mut F) -> Result<Box<dyn Read + 'a>, DwarfError> {
        let failed = |error| DwarfError::Read { name: self.name, error };
        file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
        let stored = BufReader::with_capacity(1 << 20, Read::take(file, self.stored_bytes));
        Ok(match self.format {
            CompressionFormat::None => Box::new(stored),
            CompressionFormat::Zlib => {
                Box::new(Read::take(flate2::bufread::ZlibDecoder::new(stored), self.bytes))
            }
            CompressionFormat::Zstandard => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(stored)
                    .map_err(|error| failed(std::io::Error::other(error.to_string())))?;
                Box::new(Read::take(decoder, self.bytes))
            }
            _ => return Err(failed(std::io::Error::other("packed with an unknown method"))),
        })
    }

    /// The whole section.
    pub(super) fn load<F: Read + Seek>(self, file: &mut F) -> Result<Vec<u8>, DwarfError> {
        let mut bytes = Vec::new();
        if self.bytes > 0 {
            let failed = |error| DwarfError::Read { name: self.name, error };
            self.open(file)?.read_to_end(&mut bytes).map_err(failed)?;
            if bytes.len() as u64 != self.bytes {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(bytes)
    }
}
