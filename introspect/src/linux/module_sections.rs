//! Where the sections of a module's file lie in memory, as `/sys/module/NAME/sections` shows them.
//!
//! *Trusts*: nothing; the number of sections and the length of a name are limited.
//!
//! Layouts: `struct module_sect_attrs` (`kernel/module/sysfs.c`; the address is beside the attribute through 6.13 and its private
//! data from 6.14), `struct attribute_group` (`include/linux/sysfs.h`), Linux 5.10 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Module, Resolved, View};
use crate::{GapReason, Gva, Partial};
use lynceus_profiles::{Field, Profile};

/// Most sections of a module.
const MAX_SECTIONS: u32 = 4096;
/// Longest name of a section.
const MAX_NAME_BYTES: usize = 256;

/// A section of a module's file that was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleSection {
    /// Its name.
    pub name: String,
    /// Where it was put. What runs at start only is no longer there.
    pub at: Gva,
}

/// Members that lead to a module's sections.
#[derive(Clone, Debug)]
pub struct ModuleSectionsLayout {
    attributes: Field,
    /// In those: the list of attributes, which ends in a null pointer.
    list: Field,
    /// In each of them.
    name: Field,
    address: Field,
    per_cpu: Option<Field>,
}

impl ModuleSectionsLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        // The attribute is the first member of what holds the address.
        let address = profile.field("module_sect_attr", "address");
        Ok(ModuleSectionsLayout {
            attributes: profile.field("module", "sect_attrs")?,
            list: profile.field("module_sect_attrs", "grp.bin_attrs")?,
            name: profile.field("bin_attribute", "attr.name")?,
            address: address.or_else(|_| profile.field("bin_attribute", "private"))?,
            per_cpu: profile.field("module", "percpu").ok(),
        })
    }
}

impl View<'_> {
    /// The sections of a module, in the order of its file.
    pub fn module_sections(&self, module: &Module) -> Partial<ModuleSection> {
        let what = "module sections";
        let layout = match &self.kernel().layouts.module_sections {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let mut found = Partial::default();
        let list = self.integer(module.at, layout.attributes).and_then(|attributes| match attributes {
            0 => Ok(0),
            _ => self.integer(Gva(attributes), layout.list),
        });
        let Some(list) = found.ok(what, module.at, list).filter(|list| *list != 0) else { return found };
        for index in 0..MAX_SECTIONS {
            let slot = Gva(list).field(index.saturating_mul(8));
            let attribute = self.pointer(slot);
            let Some(attribute) = found.ok(what, slot, attribute) else { return found };
            if attribute.is_null() {
                return found;
            }
            found.keep(what, attribute, self.module_section(layout, attribute));
        }
        found.gap(what, module.at, GapReason::Limit(u64::from(MAX_SECTIONS)));
        found
    }

    fn module_section(&self, layout: &ModuleSectionsLayout, at: Gva) -> Result<ModuleSection, GapReason> {
        let name = self.string(Gva(self.integer(at, layout.name)?), MAX_NAME_BYTES)?;
        Ok(ModuleSection { name, at: Gva(self.integer(at, layout.address)?) })
    }

    /// The address of a module's own variables of each processor, as its code names them; none where it has none.
    pub fn module_per_cpu(&self, module: &Module) -> Result<Option<Gva>, GapReason> {
        let layout = self.kernel().layouts.module_sections.as_ref().map_err(Clone::clone)?;
        let Some(field) = layout.per_cpu else { return Ok(None) };
        let at = Gva(self.integer(module.at, field)?);
        Ok((!at.is_null()).then_some(at))
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::linux::ModuleState;
    use crate::linux::testing::{Bench, gva, number, pointer};

    /// The module is at 0x1000, its attributes at 0x2000, the list at 0x3000.
    fn bench(count: u64) -> Bench {
        let mut bench = Bench::new();
        bench.layouts().module_sections = Ok(ModuleSectionsLayout {
            attributes: pointer(8),
            list: pointer(16),
            name: pointer(0),
            address: number(24, 8),
            per_cpu: Some(pointer(32)),
        });
        bench.link(0x1008, 0x2000).link(0x2010, 0x3000);
        for index in 0..count {
            bench.link(0x3000 + 8 * index, 0x10_0000 + 64 * (index % 64));
        }
        bench.bytes(0x4000, b".text\0");
        for attribute in (0x10_0000..0x10_1000).step_by(64) {
            bench.link(attribute, 0x4000);
        }
        bench.u64(0x10_0018, 0x1234).u64(0x10_0058, 0x5678);
        bench
    }

    fn sections(bench: &Bench) -> Partial<ModuleSection> {
        let module = Module {
            at: gva(0x1000),
            name: String::new(),
            base: Gva(0),
            size_bytes: 0,
            refcount: 0,
            state: ModuleState::Live,
            taints: String::new(),
            areas: Vec::new(),
            code_bytes: 0,
        };
        bench.look(|view| view.module_sections(&module))
    }

    #[test]
    fn sections_are_listed_up_to_the_end_of_the_list() {
        let found = sections(&bench(2));
        assert!(found.is_complete(), "{:?}", found.gaps);
        let at: Vec<_> = found.items.iter().map(|section| (section.name.as_str(), section.at.0)).collect();
        assert_eq!(at, [(".text", 0x1234), (".text", 0x5678)]);
    }

    #[test]
    fn a_list_without_end_is_a_gap() {
        let found = sections(&bench(5000));
        assert!(found.items.len() <= 4096);
        assert!(found.gaps.iter().any(|gap| gap.reason == GapReason::Limit(4096)), "{:?}", found.gaps.last());
        let mut nowhere = bench(2);
        nowhere.u64(0x2010, 0x41);
        assert!(!sections(&nowhere).is_complete());
    }
}
