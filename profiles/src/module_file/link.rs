//! A module's file, linked for where the module lies.

use super::{FileSection, FileSymbol, ModuleFile, Place, Relocation};
use crate::SymbolsBuilder;
use crate::kernel_file::{KernelImage, Patch, PatchSite, Section};
use object::elf::{R_X86_64_32, R_X86_64_32S, R_X86_64_64, R_X86_64_NONE, R_X86_64_PC32};
use object::elf::{R_X86_64_PC64, R_X86_64_PLT32};

/// The section of variables that each processor has its own of.
const PER_CPU: &str = ".data..percpu";
/// Tables that the kernel's image has between symbols and a module has sections of: section, and the symbols' common end.
const TABLES: [(&str, &str); 3] = [
    ("__mcount_loc", "mcount_loc"),
    ("__jump_table", "__jump_table"),
    (".static_call_sites", "static_call_sites"),
];

/// Where a module and what it uses lie.
pub struct Places<'a> {
    /// The address of the section of this name, of several with that name this one.
    pub section: &'a dyn Fn(&str, usize) -> Option<u64>,
    /// The address of the module's own variables of each processor.
    pub per_cpu: Option<u64>,
    /// The address of a symbol of the kernel's or of another module's.
    pub symbol: &'a dyn Fn(&str) -> Option<u64>,
}

/// Why a module cannot be linked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkError {
    /// A symbol that nobody has.
    #[error("nobody has the symbol `{0}`")]
    NoSymbol(String),
    /// A section of which it is not known where it lies.
    #[error("it is not known where section `{0}` lies")]
    NoSection(String),
    /// A place outside of its section.
    #[error("a place that is relocated is outside of section `{0}`")]
    Outside(String),
    /// A kind of relocation that modules do not have.
    #[error("a relocation of kind {0}")]
    Kind(u32),
}

impl ModuleFile {
    /// The module as the kernel links it when it lies there. Tables that are gone after start are left out.
    pub fn link(&self, places: &Places<'_>) -> Result<KernelImage, LinkError> {
        let at = self.addresses(places);
        let symbols = self.values(&at, places);
        let (mut parts, mut unknown) = (Vec::new(), Vec::new());
        let mut names = SymbolsBuilder::default();
        for (symbol, value) in self.symbols.iter().zip(&symbols) {
            if let Some(value) = value.filter(|_| !symbol.name.is_empty()) {
                names.push(&symbol.name, value, b't');
            }
        }
        for (section, start) in self.sections.iter().zip(&at) {
            let Some(start) = start.filter(|_| section.is_loaded && section.name != PER_CPU) else {
                continue;
            };
            let end = start.saturating_add(section.data.len() as u64);
            if let Some((_, name)) = TABLES.iter().find(|(table, _)| *table == section.name) {
                names.push(&format!("__start_{name}"), start, b'd');
                names.push(&format!("__stop_{name}"), end, b'd');
            }
            let bytes = self.relocated(section, start, &symbols, &mut unknown)?;
            parts.push((Section { name: section.name.clone(), start, end }, bytes));
        }
        Ok(KernelImage::of_module(names.build(), parts, unknown))
    }

    /// Where each section lies.
    fn addresses(&self, places: &Places<'_>) -> Vec<Option<u64>> {
        let all = self.sections.iter().enumerate();
        all.map(|(index, section)| match section.is_loaded {
            true if section.name == PER_CPU => places.per_cpu,
            true => (places.section)(&section.name, self.number(index)),
            false => None,
        })
        .collect()
    }

    /// What each symbol is; none where it is nowhere.
    fn values(&self, at: &[Option<u64>], places: &Places<'_>) -> Vec<Option<u64>> {
        let value = |symbol: &FileSymbol| match symbol.place {
            Place::Section(index) => Some(at.get(index).copied().flatten()?.wrapping_add(symbol.value)),
            Place::Absolute => Some(symbol.value),
            Place::Elsewhere => (places.symbol)(&symbol.name),
            Place::Weak => Some((places.symbol)(&symbol.name).unwrap_or(0)),
        };
        self.symbols.iter().map(value).collect()
    }

    /// A section's bytes. Places that hold the address of something without a size, which is nowhere in particular, are added to
    /// `unknown`.
    fn relocated(
        &self,
        section: &FileSection,
        start: u64,
        symbols: &[Option<u64>],
        unknown: &mut Vec<PatchSite>,
    ) -> Result<Vec<u8>, LinkError> {
        let mut bytes = section.data.clone();
        for relocation in section.relocations.iter().filter(|one| one.kind != R_X86_64_NONE) {
            let symbol = self.symbols.get(relocation.symbol);
            let value = symbols.get(relocation.symbol).copied().flatten();
            let (written, len) = relocation.value(value.unwrap_or(0), start)?;
            if value.is_none() {
                let at = start.saturating_add(relocation.offset);
                match symbol.map(|symbol| self.missing(symbol)) {
                    // Only what is compared must be right: a table may name what was freed after start.
                    _ if !section.is_code || section.name.starts_with(".init") => {}
                    Some(None) => {
                        let end = at.saturating_add(len as u64);
                        unknown.push(PatchSite { at, end, patch: Patch::Constant(None) });
                    }
                    Some(Some(error)) => return Err(error),
                    None => return Err(LinkError::NoSymbol(String::new())),
                }
                continue;
            }
            let place = usize::try_from(relocation.offset).ok();
            let place = place.and_then(|from| bytes.get_mut(from..from.checked_add(len)?));
            let place = place.ok_or_else(|| LinkError::Outside(section.name.clone()))?;
            place.iter_mut().zip(written.to_le_bytes()).for_each(|(to, byte)| *to = byte);
        }
        Ok(bytes)
    }

    /// Why a symbol has no address; none where it has no size and any will do.
    fn missing(&self, symbol: &FileSymbol) -> Option<LinkError> {
        let section = match symbol.place {
            Place::Section(index) => self.sections.get(index),
            _ => None,
        };
        match section {
            Some(section) if section.is_empty => None,
            Some(section) => Some(LinkError::NoSection(section.name.clone())),
            None => Some(LinkError::NoSymbol(symbol.name.clone())),
        }
    }
}

impl Relocation {
    /// What is written, and how many bytes of it (`apply_relocate_add`).
    fn value(&self, symbol: u64, section: u64) -> Result<(u64, usize), LinkError> {
        let value = symbol.wrapping_add_signed(self.addend);
        let distance = value.wrapping_sub(section.wrapping_add(self.offset));
        match self.kind {
            R_X86_64_64 => Ok((value, 8)),
            R_X86_64_32 | R_X86_64_32S => Ok((value, 4)),
            R_X86_64_PC32 | R_X86_64_PLT32 => Ok((distance, 4)),
            R_X86_64_PC64 => Ok((distance, 8)),
            kind => Err(LinkError::Kind(kind.0)),
        }
    }
}
