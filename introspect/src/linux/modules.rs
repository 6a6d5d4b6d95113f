//! Loaded kernel modules: the list that `/proc/modules` shows, and two more places that know of a module.
//!
//! *Trusts*: nothing. The three places are read apart, so that one that was tampered with shows.
//!
//! Layout: `struct module`, `struct module_layout` (to 6.3), `struct module_memory` (from 6.4) (`include/linux/module.h`),
//! `struct latch_tree_root` (`include/linux/rbtree_latch.h`), `struct kset` (`include/linux/kobject.h`).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::record::Span;
use super::{Resolved, View};
use crate::{GapReason, Gva, Partial};
use lynceus_profiles::{Field, FieldKind, Profile, ProfileError};
use std::collections::HashSet;

/// `MODULE_NAME_LEN`.
const NAME_BYTES: usize = 56;
/// `MODULE_REF_BASE`: a loaded module that nobody uses counts one.
const REF_BASE: i64 = 1;
/// `MODULE_STATE_UNFORMED`: not shown by `/proc/modules`.
const UNFORMED: u64 = 3;
/// More areas than any kernel gives a module.
const MAX_AREAS: u32 = 16;
/// Letters of `/proc/modules` and `/proc/sys/kernel/tainted`, lowest bit first (`taint_flags`, `kernel/panic.c`).
const TAINTS: &str = "PFSRMBUDAWCIOELKXTN";

/// One loaded module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// Address of the `struct module`.
    pub at: Gva,
    /// Its name.
    pub name: String,
    /// Where its code begins.
    pub base: Gva,
    /// Bytes of all its areas, as `/proc/modules` counts them.
    pub size_bytes: u64,
    /// Users of the module.
    pub refcount: i64,
    /// How far it has got.
    pub state: ModuleState,
    /// Why it taints the kernel, by the letters of `/proc/modules`.
    pub taints: String,
    /// Start and length of each of its areas; empty ones left out.
    pub areas: Vec<(Gva, u64)>,
    /// Bytes of code from `base` on.
    pub code_bytes: u64,
}

impl Module {
    /// Whether it did not come with the kernel, by what it taints it with: forced, out of tree, unsigned.
    pub fn is_foreign(&self) -> bool {
        self.taints.contains(['F', 'O', 'E'])
    }
}

/// How far a module has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ModuleState {
    /// In use.
    Live,
    /// Its initialisation runs.
    Coming,
    /// Being unloaded.
    Going,
    /// Its memory is being set up; `/proc/modules` hides it.
    Unformed,
    /// None of the kernel's values.
    Unknown(u64),
}

impl ModuleState {
    fn of(value: u64) -> ModuleState {
        match value {
            0 => ModuleState::Live,
            1 => ModuleState::Coming,
            2 => ModuleState::Going,
            UNFORMED => ModuleState::Unformed,
            other => ModuleState::Unknown(other),
        }
    }
    /// As `/proc/modules` writes it.
    pub fn name(self) -> &'static str {
        match self {
            ModuleState::Live => "Live",
            ModuleState::Coming => "Loading",
            ModuleState::Going => "Unloading",
            ModuleState::Unformed => "Unformed",
            ModuleState::Unknown(_) => "Unknown",
        }
    }
}

/// Members of modules and of what names them.
#[derive(Clone, Debug)]
pub struct ModulesLayout {
    /// Link-time address of `modules`.
    first: Result<u64, ProfileError>,
    list: Field,
    head: Span,
    state: Field,
    name: Field,
    refcount: Field,
    taints: Field,
    areas: Vec<(Field, Field)>,
    /// The part of the first area that is code, where it holds more than that (through 6.3).
    code: Option<Field>,
    tree: Result<TreeLayout, ProfileError>,
    sysfs: Result<SysfsLayout, ProfileError>,
}

/// The address tree: `mod_tree`, two red-black trees of which one is valid at any time.
#[derive(Clone, Copy, Debug)]
struct TreeLayout {
    trees: Field,
    tree_bytes: u32,
    node: Field,
    rb_bytes: u32,
    latch_nodes: Field,
    module: Field,
}

/// The objects behind `/sys/module`.
#[derive(Clone, Copy, Debug)]
struct SysfsLayout {
    list: Field,
    entry: Field,
    object: Field,
    module: Field,
}

impl ModulesLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let module = |member| profile.field("module", member);
        let (list, state, name) = (module("list")?, module("state")?, module("name")?);
        Ok(ModulesLayout {
            first: profile.symbol("modules"),
            list,
            head: Span::of(&[state, list, name]),
            state,
            name,
            refcount: module("refcnt")?,
            taints: module("taints")?,
            areas: areas(profile)?,
            code: module("core_layout.text_size").ok(),
            tree: TreeLayout::resolve(profile),
            sysfs: SysfsLayout::resolve(profile),
        })
    }
}

/// Base and size of each of a module's areas, the one with the code first.
fn areas(profile: &Profile) -> Resolved<Vec<(Field, Field)>> {
    let module = |path| profile.field("module", path);
    let Ok(array) = module("mem") else {
        let core = (module("core_layout.base")?, module("core_layout.size")?);
        return Ok(vec![core, (module("init_layout.base")?, module("init_layout.size")?)]);
    };
    let FieldKind::Array { count, element_bytes } = array.kind else { return Ok(Vec::new()) };
    let (base, size) = (profile.field("module_memory", "base")?, profile.field("module_memory", "size")?);
    let shift = |field: Field, by: u32| Field { offset: field.offset.saturating_add(by), ..field };
    let area = |index: u32| {
        let at = array.offset.saturating_add(index.saturating_mul(element_bytes));
        (shift(base, at), shift(size, at))
    };
    Ok((0..count.min(MAX_AREAS)).map(area).collect())
}

impl TreeLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        Ok(TreeLayout {
            trees: profile.field("mod_tree_root", "root.tree")?,
            tree_bytes: profile.size_of("rb_root")?,
            node: profile.field("mod_tree_node", "node")?,
            rb_bytes: profile.size_of("rb_node")?,
            latch_nodes: profile.field("latch_tree_node", "node")?,
            module: profile.field("mod_tree_node", "mod")?,
        })
    }
}

impl SysfsLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        Ok(SysfsLayout {
            list: profile.field("kset", "list")?,
            entry: profile.field("kobject", "entry")?,
            object: profile.field("module_kobject", "kobj")?,
            module: profile.field("module_kobject", "mod")?,
        })
    }
}

impl View<'_> {
    /// The modules on the kernel's list (`modules`).
    pub fn modules(&self) -> Partial<Module> {
        self.modules_by("module list", |layout| {
            let head = self.kernel().slid(layout.first.clone()?);
            let mut found = Partial::default();
            let nodes = self.list("module list", head);
            for node in found.absorb(nodes) {
                found.items.push(Gva(node.0.wrapping_sub(layout.list.offset.into())));
            }
            Ok(found)
        })
    }

    /// The modules in the tree by which the kernel finds the module of an address (`mod_tree`).
    pub fn modules_in_tree(&self) -> Partial<Module> {
        self.modules_by("module tree", |layout| {
            let tree = layout.tree.clone()?;
            let root = self.kernel().symbol("mod_tree")?.field(tree.trees.offset);
            let mut found = Partial::default();
            // The kernel updates one of the two while readers use the other: what is in either is there.
            for half in 0..2u32 {
                let nodes = self.rb_tree("module tree", root.field(half.saturating_mul(tree.tree_bytes)));
                let inside = tree.node.offset.saturating_add(tree.latch_nodes.offset);
                let inside = inside.saturating_add(half.saturating_mul(tree.rb_bytes));
                for node in found.absorb(nodes) {
                    let at = Gva(node.0.wrapping_sub(inside.into()));
                    let module = self.integer(at, tree.module).map(Gva);
                    found.keep("module tree", at, module);
                }
            }
            Ok(found)
        })
    }

    /// The modules that have a folder in `/sys/module` (`module_kset`).
    pub fn modules_in_sysfs(&self) -> Partial<Module> {
        self.modules_by("module objects", |layout| {
            let sysfs = layout.sysfs.clone()?;
            let kset = self.pointer(self.kernel().symbol("module_kset")?)?;
            let mut found = Partial::default();
            let nodes = self.list("module objects", kset.field(sysfs.list.offset));
            for node in found.absorb(nodes) {
                let inside = sysfs.entry.offset.saturating_add(sysfs.object.offset);
                let at = Gva(node.0.wrapping_sub(inside.into()));
                let module = self.integer(at, sysfs.module).map(Gva);
                // Built-in code has a folder as well, but is no module.
                let module = found.ok("module objects", at, module).filter(|module| !module.is_null());
                found.items.extend(module);
            }
            Ok(found)
        })
    }

    /// Reads the modules at the addresses that `find` gives, each once.
    fn modules_by(
        &self,
        what: &'static str,
        find: impl FnOnce(&super::ModulesLayout) -> Result<Partial<Gva>, GapReason>,
    ) -> Partial<Module> {
        let layout = match &self.kernel().layouts.modules {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let mut modules = Partial::default();
        let found = match find(layout) {
            Ok(found) => found,
            Err(reason) => return Partial::unavailable(what, reason),
        };
        let mut seen = HashSet::new();
        for at in modules.absorb(found) {
            if seen.insert(at) {
                let module = self.module_at(layout, at);
                let module = modules.ok("module", at, module).filter(|m| m.state != ModuleState::Unformed);
                modules.items.extend(module);
            }
        }
        modules
    }

    fn module_at(&self, layout: &ModulesLayout, at: Gva) -> Result<Module, GapReason> {
        let head = self.record(at, layout.head)?;
        let mut areas = Vec::new();
        for (base, size) in &layout.areas {
            areas.push((Gva(self.integer(at, *base)?), self.integer(at, *size)?));
        }
        let base = areas.first().map_or(Gva(0), |area| area.0);
        // As `/proc/modules` counts, whether an area still has memory or not.
        let size_bytes = areas.iter().fold(0u64, |sum, (_, size)| sum.saturating_add(*size));
        let code_bytes = match layout.code {
            Some(field) => self.integer(at, field)?,
            None => areas.first().map_or(0, |area| area.1),
        };
        areas.retain(|(base, size)| !base.is_null() && *size > 0);
        let taints = self.integer(at, layout.taints)?;
        let letters = TAINTS.chars().enumerate().filter(|(bit, _)| taints >> bit & 1 != 0);
        Ok(Module {
            at,
            name: self.string(at.field(layout.name.offset), NAME_BYTES)?,
            base,
            size_bytes,
            refcount: i64::from(self.integer(at, layout.refcount)? as i32).saturating_sub(REF_BASE),
            state: ModuleState::of(head.integer(layout.state)?),
            taints: letters.map(|(_, letter)| letter).collect(),
            areas,
            code_bytes,
        })
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;
