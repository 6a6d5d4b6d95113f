//! What kallsyms knows of a module: the names in its code and data.
//!
//! *Trusts*: nothing; the number of symbols and the length of a name are limited.
//!
//! Layout: `struct mod_kallsyms` (`include/linux/module.h`), Linux 5.10 to 7.2; `Elf64_Sym` (System V gABI, Symbol Table).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Module, Resolved, View};
use crate::{GapReason, Gva, Partial};
use lynceus_profiles::{Field, Profile};

/// More symbols than any module has.
const MAX_SYMBOLS: u64 = 1 << 18;
/// `KSYM_NAME_LEN`.
const MAX_NAME_BYTES: usize = 512;
const SYMBOL_BYTES: u64 = 24;

/// A symbol of a module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleSymbol {
    /// Where it is, at run time.
    pub at: Gva,
    /// Its type, as `nm` writes it.
    pub kind: char,
    /// Its name.
    pub name: String,
}

/// Members of a module's symbol table.
#[derive(Clone, Debug)]
pub struct ModuleSymbolsLayout {
    kallsyms: Field,
    symbols: Field,
    count: Field,
    names: Field,
    kinds: Field,
}

impl ModuleSymbolsLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let table = |member| profile.field("mod_kallsyms", member);
        Ok(ModuleSymbolsLayout {
            kallsyms: profile.field("module", "kallsyms")?,
            symbols: table("symtab")?,
            count: table("num_symtab")?,
            names: table("strtab")?,
            kinds: table("typetab")?,
        })
    }
}

impl View<'_> {
    /// The symbols of a module that have a name, as `/proc/kallsyms` lists them.
    pub fn module_symbols(&self, module: &Module) -> Partial<ModuleSymbol> {
        let what = "module symbols";
        let layout = match &self.kernel().layouts.module_symbols {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let mut found = Partial::default();
        let tables = self.symbol_tables(layout, module.at);
        let Some((symbols, count, names, kinds)) = found.ok(what, module.at, tables) else { return found };
        if count > MAX_SYMBOLS {
            found.gap(what, symbols, GapReason::Limit(MAX_SYMBOLS));
        }
        for index in 0..count.min(MAX_SYMBOLS) {
            let at = Gva(symbols.0.wrapping_add(index.saturating_mul(SYMBOL_BYTES)));
            let symbol = self.module_symbol(at, names, Gva(kinds.0.wrapping_add(index)));
            let Some(symbol) = found.ok(what, at, symbol) else { continue };
            found.items.extend((!symbol.name.is_empty()).then_some(symbol));
        }
        found
    }

    fn symbol_tables(
        &self,
        layout: &ModuleSymbolsLayout,
        module: Gva,
    ) -> Result<(Gva, u64, Gva, Gva), GapReason> {
        let table = Gva(self.integer(module, layout.kallsyms)?);
        let pointer = |field| self.integer(table, field).map(Gva);
        let count = self.integer(table, layout.count)?;
        Ok((pointer(layout.symbols)?, count, pointer(layout.names)?, pointer(layout.kinds)?))
    }

    fn module_symbol(&self, at: Gva, names: Gva, kind: Gva) -> Result<ModuleSymbol, GapReason> {
        let name = self.u32(at)?;
        let value = self.u64(at.field(8))?;
        let [kind] = self.bytes(kind)?;
        let name = self.string(names.field(name), MAX_NAME_BYTES)?;
        Ok(ModuleSymbol { at: Gva(value), kind: char::from(kind), name })
    }
}
