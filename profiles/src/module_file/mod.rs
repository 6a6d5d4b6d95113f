//! A kernel module's own file: the yardstick for what a loaded module's code is.
//!
//! *Does*: reads a `.ko`, packed or not, and links it for where it lies in a guest ([`ModuleFile::link`]), as the kernel's own
//! loader does.
//! *Trusts*: nothing. Sizes are limited before anything is allocated; a place that is relocated must lie in its section.
//! *Never*: resolves a symbol itself: the caller says where they are.
//!
//! Layouts: ELF relocatable files (System V gABI; `arch/x86/kernel/module.c` and `kernel/module/main.c`, Linux 5.10 to 7.2, for what
//! of them is used).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod block;
mod folder;
mod link;
#[cfg(test)]
mod tests;

use crate::kernel_file::{KernelFileError, decompress};
use crate::{BuildId, system_map};
use object::elf::RelocationType;
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget};
use object::{SectionFlags, SymbolSection};
use std::borrow::Cow;
use std::io::Read;

pub use block::PackedModules;
pub use folder::ModuleFolder;
pub use link::{LinkError, Places};

/// Largest module file, packed or not: distributions' largest has some 20 MiB.
const MAX_FILE_BYTES: u64 = 128 << 20;
/// Most sections.
const MAX_SECTIONS: usize = 4096;
/// Most places that are relocated.
const MAX_RELOCATIONS: usize = 4 << 20;

/// Why a file is no module that can be compared with.
#[derive(Debug, thiserror::Error)]
pub enum ModuleFileError {
    /// Reading failed.
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    /// Packed in a way that is not read, or damaged.
    #[error("cannot unpack it: {0}")]
    Packed(#[from] KernelFileError),
    /// Larger than any module.
    #[error("larger than 128 MiB")]
    TooLarge,
    /// Not an ELF file, or damaged.
    #[error("the ELF file is damaged or not an x86-64 kernel module: {0}")]
    Elf(String),
    /// Without the section that says what it is.
    #[error("no kernel module: it does not say which kernel it is for")]
    NotAModule,
    /// A block of modules' files that is damaged, or another than was asked for.
    #[error("not the block of modules' files that was asked for, or damaged")]
    Block,
    /// For another kernel.
    #[error("it is a module of kernel {0}")]
    OtherKernel(String),
}

impl From<object::read::Error> for ModuleFileError {
    fn from(error: object::read::Error) -> Self {
        ModuleFileError::Elf(error.to_string())
    }
}

/// A module's file.
#[derive(Clone, Debug)]
pub struct ModuleFile {
    /// `uname -r` of the kernel that it is for.
    pub release: String,
    /// Its build id, where it carries one.
    pub build_id: Option<BuildId>,
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    sections: Vec<FileSection>,
    symbols: Vec<FileSymbol>,
}

/// A section of the file.
#[derive(Clone, Debug)]
struct FileSection {
    name: String,
    /// It takes up memory.
    is_loaded: bool,
    /// It would, if anything were in it.
    is_empty: bool,
    is_code: bool,
    /// Empty where the file has none of it (`.bss`).
    data: Vec<u8>,
    relocations: Vec<Relocation>,
}

/// A place that depends on where something lies.
#[derive(Clone, Copy, Debug)]
struct Relocation {
    offset: u64,
    kind: RelocationType,
    symbol: usize,
    addend: i64,
}

/// A symbol of the file.
#[derive(Clone, Debug)]
struct FileSymbol {
    name: String,
    place: Place,
    value: u64,
}

/// What a symbol's value counts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// The section of this index.
    Section(usize),
    /// Nothing: it is the value.
    Absolute,
    /// Another module, or the kernel.
    Elsewhere,
    /// The same, and it need not be anywhere.
    Weak,
}

impl ModuleFile {
    /// Reads a module's file, packed or not.
    pub fn load(file: impl Read) -> Result<ModuleFile, ModuleFileError> {
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut bytes)?;
        ModuleFile::of_bytes(&bytes)
    }

    /// The same of bytes that somebody has read.
    fn of_bytes(bytes: &[u8]) -> Result<ModuleFile, ModuleFileError> {
        let bytes = unpacked(bytes)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(ModuleFileError::TooLarge);
        }
        parse(&bytes)
    }

    /// Names of the sections with code that stay in memory, with which of several of that name it is.
    pub fn code_sections(&self) -> impl Iterator<Item = (&str, usize)> {
        // What runs at start only is gone, and replacements are kept apart from the code that they replace.
        let stays = |name: &str| !name.starts_with(".init") && name != ".altinstr_replacement";
        let all = self.sections.iter().enumerate();
        all.filter(move |(_, section)| section.is_loaded && section.is_code && stays(&section.name))
            .map(|(index, section)| (section.name.as_str(), self.number(index)))
    }

    /// Which of several loaded sections of its name a section is.
    fn number(&self, index: usize) -> usize {
        let name = self.sections.get(index).map(|section| &section.name);
        let before = self.sections.iter().take(index);
        before.filter(|other| other.is_loaded && Some(&other.name) == name).count()
    }
}

/// A file that may be packed.
fn unpacked(bytes: &[u8]) -> Result<Cow<'_, [u8]>, KernelFileError> {
    if bytes.starts_with(b"\x7fELF") { Ok(bytes.into()) } else { Ok(decompress(bytes)?.into()) }
}

fn parse(bytes: &[u8]) -> Result<ModuleFile, ModuleFileError> {
    let elf = ElfFile64::<LittleEndian>::parse(bytes)?;
    if elf.kind() != object::ObjectKind::Relocatable || elf.architecture() != object::Architecture::X86_64 {
        return Err(ModuleFileError::Elf("not a relocatable x86-64 file".to_owned()));
    }
    let mut relocations_left = MAX_RELOCATIONS;
    let mut sections = Vec::new();
    for section in elf.sections() {
        // The first has index 1 for symbols.
        if section.index().0 != sections.len().saturating_add(1) || sections.len() >= MAX_SECTIONS {
            return Err(ModuleFileError::Elf("too many sections".to_owned()));
        }
        sections.push(read_section(&section, &mut relocations_left)?);
    }
    let mut symbols = Vec::new();
    for symbol in elf.symbols().take(system_map::MAX_SYMBOLS) {
        let place = match symbol.section() {
            SymbolSection::Section(index) => Place::Section(index.0.saturating_sub(1)),
            SymbolSection::Absolute => Place::Absolute,
            _ if symbol.is_weak() => Place::Weak,
            _ => Place::Elsewhere,
        };
        let name = symbol.name().unwrap_or_default().to_owned();
        // Index 0 is no symbol: it is left out by the parser.
        symbols.resize_with(symbol.index().0, nothing);
        symbols.push(FileSymbol { name, place, value: symbol.address() });
    }
    let told = elf.section_by_name(".modinfo").ok_or(ModuleFileError::NotAModule)?;
    let told = String::from_utf8_lossy(told.data()?).into_owned();
    let value = |key: &str| told.split('\0').find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let release = value("vermagic").and_then(|magic| magic.split(' ').next());
    let depends = value("depends").unwrap_or_default().split(',').filter(|name| !name.is_empty());
    Ok(ModuleFile {
        release: release.ok_or(ModuleFileError::NotAModule)?.to_owned(),
        build_id: elf.build_id()?.and_then(|id| id.try_into().ok()).map(BuildId),
        depends: depends.map(str::to_owned).collect(),
        sections,
        symbols,
    })
}

fn nothing() -> FileSymbol {
    FileSymbol { name: String::new(), place: Place::Absolute, value: 0 }
}

fn read_section<'data>(
    section: &impl ObjectSection<'data>,
    relocations_left: &mut usize,
) -> Result<FileSection, ModuleFileError> {
    let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
        return Err(ModuleFileError::Elf("a section without flags".to_owned()));
    };
    let has = |flag: object::elf::SectionFlags| sh_flags.0 & flag.0 != 0;
    let mut relocations = Vec::new();
    for (offset, relocation) in section.relocations() {
        let left = relocations_left.checked_sub(1);
        *relocations_left = left.ok_or_else(|| ModuleFileError::Elf("too many relocations".to_owned()))?;
        let RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
        let symbol = match relocation.target() {
            RelocationTarget::Symbol(index) => index.0,
            _ => 0,
        };
        relocations.push(Relocation { offset, kind: r_type, symbol, addend: relocation.addend() });
    }
    let takes_memory = has(object::elf::SHF_ALLOC);
    let (is_loaded, is_empty) = (takes_memory && section.size() > 0, takes_memory && section.size() == 0);
    Ok(FileSection {
        name: section.name()?.to_owned(),
        is_loaded,
        is_empty,
        is_code: has(object::elf::SHF_EXECINSTR),
        data: if is_loaded { section.data()?.to_vec() } else { Vec::new() },
        relocations: if is_loaded { relocations } else { Vec::new() },
    })
}
