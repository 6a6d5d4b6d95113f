//! Memory maps of a process, as `/proc/PID/maps` lists them.
//!
//! *Trusts*: nothing. A map whose own bounds are not those that the tree gives it is a gap, and so are maps that overlap.
//!
//! Layout: `struct vm_area_struct` (`include/linux/mm_types.h`); names by `get_vma_name` (`fs/proc/task_mmu.c`), 5.10 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::maple::MapleLayout;
use super::mm::Mm;
use super::record::{Record, Span};
use super::walk::MAX_NODES;
use super::{Resolved, View};
use crate::{AccessError, GapReason, Gva, Partial};
use lynceus_profiles::{Field, Profile};

/// `VM_` flags that `/proc` shows, and the letters.
const VM_READ: u64 = 1;
const VM_WRITE: u64 = 2;
const VM_EXEC: u64 = 4;
const VM_MAYSHARE: u64 = 0x80;
/// `MM_CONTEXT_HAS_VSYSCALL` (`arch/x86/include/asm/mmu.h`): a 64-bit process.
const HAS_VSYSCALL: u64 = 2;
/// `vsyscall_mode` `NONE` (`arch/x86/entry/vsyscall/vsyscall_64.c`).
const VSYSCALL_NONE: u32 = 2;
/// Longest name given by `prctl(PR_SET_VMA_ANON_NAME)`, with its NUL.
const MAX_NAME_BYTES: usize = 80;

/// One memory map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Map {
    /// First address.
    pub start: Gva,
    /// The address after the last.
    pub end: Gva,
    /// `VM_` flags of the kernel.
    pub flags: u64,
    /// Offset in the file, in bytes; 0 without a file.
    pub offset: u64,
    /// Device number of the file, major in the bits from 20 up; 0 without a file.
    pub device: u32,
    /// Inode number of the file; 0 without a file.
    pub inode: u64,
    /// File, `[heap]`, `[stack]`, `[vdso]`, `[anon:NAME]`; empty for anonymous memory without a name.
    pub path: String,
    /// Address of the `struct vm_area_struct`.
    pub at: Gva,
    /// Address of the `struct file`; null without a file.
    pub file: Gva,
    /// It has pages of its own: anonymous ones, or copies of a file's that something was written to (`anon_vma`).
    pub has_own_pages: bool,
}

impl Map {
    /// `rwxp`, as in `/proc/PID/maps`.
    pub fn perms(&self) -> String {
        let letter = |bit, letter| if self.flags & bit != 0 { letter } else { '-' };
        let shared = if self.flags & VM_MAYSHARE != 0 { 's' } else { 'p' };
        [letter(VM_READ, 'r'), letter(VM_WRITE, 'w'), letter(VM_EXEC, 'x'), shared].iter().collect()
    }
}

/// Members of memory maps.
#[derive(Clone, Debug)]
pub struct MapsLayout {
    members: Members,
    span: Span,
    start: Field,
    end: Field,
    flags: Field,
    offset: Field,
    file: Field,
    operations: Field,
    private: Field,
    anon: Field,
    /// Since 5.17: the name's pointer, and the text in what it points to.
    anon_name: Option<(Field, Field)>,
    /// Before 6.2 the name shared its place with what links a file's maps: only maps without a file have one.
    files_have_names: bool,
    operations_name: Field,
    special_name: Field,
    /// Link-time addresses: what names special maps, the gate page's map, and whether there is one.
    named_specially: Option<u64>,
    gate: Option<(u64, u64)>,
    file_inode: Field,
    inode_number: Field,
    inode_super: Field,
    super_device: Field,
    context_flags: Option<Field>,
}

/// How an `mm_struct` holds its maps.
#[derive(Clone, Copy, Debug)]
enum Members {
    /// A list (to 6.0).
    List { first: Field, next: Field },
    /// A maple tree (from 6.1).
    Maple { tree: Field, layout: MapleLayout },
}

impl MapsLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let vma = |member| profile.field("vm_area_struct", member);
        let members = match profile.field("mm_struct", "mm_mt") {
            Ok(tree) => Members::Maple { tree, layout: MapleLayout::resolve(profile)? },
            Err(_) => Members::List { first: profile.field("mm_struct", "mmap")?, next: vma("vm_next")? },
        };
        let (start, end, flags) = (vma("vm_start")?, vma("vm_end")?, vma("vm_flags")?);
        let (offset, file, operations) = (vma("vm_pgoff")?, vma("vm_file")?, vma("vm_ops")?);
        let (private, anon) = (vma("vm_private_data")?, vma("anon_vma")?);
        let anon_name =
            vma("anon_name").and_then(|name| Ok((name, profile.field("anon_vma_name", "name")?))).ok();
        let files_have_names = anon_name.is_some_and(|(name, _)| match vma("shared") {
            Ok(shared) => {
                name.offset < shared.offset || name.offset >= shared.offset.saturating_add(shared.size)
            }
            Err(_) => true,
        });
        Ok(MapsLayout {
            members,
            span: Span::of(&[start, end, flags, offset, file, operations, private, anon]),
            start,
            end,
            flags,
            offset,
            file,
            operations,
            private,
            anon,
            anon_name,
            files_have_names,
            operations_name: profile.field("vm_operations_struct", "name")?,
            special_name: profile.field("vm_special_mapping", "name")?,
            named_specially: profile.symbol("special_mapping_name").ok(),
            gate: profile.symbol("gate_vma").ok().zip(profile.symbol("vsyscall_mode").ok()),
            file_inode: profile.field("file", "f_inode")?,
            inode_number: profile.field("inode", "i_ino")?,
            inode_super: profile.field("inode", "i_sb")?,
            super_device: profile.field("super_block", "s_dev")?,
            context_flags: profile.field("mm_struct", "context.flags").ok(),
        })
    }
}

impl View<'_> {
    /// The memory maps of a process, lowest first, and last the gate page that the kernel shows to all.
    pub fn maps(&self, mm: &Mm) -> Partial<Map> {
        let layout = match &self.kernel().layouts.maps {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("maps", missing.clone()),
        };
        let mut maps = match layout.members {
            Members::List { first, next } => self.maps_listed(layout, mm, first, next),
            Members::Maple { tree, layout: maple } => self.maps_in_tree(layout, mm, tree, &maple),
        };
        let gate = self.gate_map(layout, mm);
        let gate = maps.ok("gate map", mm.at, gate).flatten();
        maps.items.extend(gate);
        maps
    }

    fn maps_in_tree(&self, layout: &MapsLayout, mm: &Mm, tree: Field, maple: &MapleLayout) -> Partial<Map> {
        let mut maps = Partial::default();
        let entries = self.maple_tree("maps", maple, mm.at.field(tree.offset));
        for entry in maps.absorb(entries) {
            let map = self.map_at(layout, mm, entry.at);
            let Some(map) = maps.ok("map", entry.at, map) else { continue };
            if (map.start.0, map.end.0.wrapping_sub(1)) != (entry.first, entry.last) {
                maps.gap(
                    "map",
                    entry.at,
                    GapReason::Inconsistent("a map's bounds are not those of its place in the tree"),
                );
            }
            maps.items.push(map);
        }
        maps
    }

    fn maps_listed(&self, layout: &MapsLayout, mm: &Mm, first: Field, next: Field) -> Partial<Map> {
        let mut maps = Partial::<Map>::default();
        let (mut link, mut field, mut end) = (mm.at, first, Gva(0));
        loop {
            let at = self.integer(link, field).map(Gva);
            let Some(at) = maps.ok("map list", link, at) else { break };
            if at.is_null() {
                break;
            }
            let map = self.map_at(layout, mm, at);
            let Some(map) = maps.ok("map", at, map) else { break };
            // The list ascends: whatever does not is a circle or a forgery.
            if map.start < end || map.end <= map.start {
                maps.gap("map list", at, GapReason::Inconsistent("maps that overlap or go backwards"));
                break;
            }
            if maps.items.len() >= MAX_NODES {
                maps.gap("map list", at, GapReason::Limit(MAX_NODES as u64));
                break;
            }
            end = map.end;
            maps.items.push(map);
            (link, field) = (at, next);
        }
        maps
    }

    fn map_at(&self, layout: &MapsLayout, mm: &Mm, at: Gva) -> Result<Map, GapReason> {
        let vma = self.record(at, layout.span)?;
        let (start, end) = (vma.pointer(layout.start)?, vma.pointer(layout.end)?);
        let mut map = Map {
            start,
            end,
            flags: vma.integer(layout.flags)?,
            offset: 0,
            device: 0,
            inode: 0,
            path: String::new(),
            at,
            file: vma.pointer(layout.file)?,
            has_own_pages: !vma.pointer(layout.anon)?.is_null(),
        };
        let anon_name = match layout.anon_name {
            Some((pointer, text)) if map.file.is_null() || layout.files_have_names => {
                self.anon_name(vma.base(), pointer, text)?
            }
            _ => None,
        };
        if map.file.is_null() {
            map.path = self.unfiled_name(layout, mm, &vma, (start, end), anon_name)?;
            return Ok(map);
        }
        let inode = Gva(self.integer(map.file, layout.file_inode)?);
        let super_block = Gva(self.integer(inode, layout.inode_super)?);
        map.inode = self.integer(inode, layout.inode_number)?;
        map.device = (self.integer(super_block, layout.super_device)? & u64::from(u32::MAX)) as u32;
        map.offset = vma.integer(layout.offset)?.wrapping_shl(12);
        map.path = match anon_name {
            Some(name) => format!("[anon_shmem:{name}]"),
            None => self.file_path(map.file)?,
        };
        Ok(map)
    }

    fn anon_name(&self, vma: Gva, pointer: Field, text: Field) -> Result<Option<String>, AccessError> {
        let name = Gva(self.integer(vma, pointer)?);
        if name.is_null() {
            return Ok(None);
        }
        self.string(name.field(text.offset), MAX_NAME_BYTES).map(Some)
    }

    /// The name of a map without a file.
    fn unfiled_name(
        &self,
        layout: &MapsLayout,
        mm: &Mm,
        vma: &Record<'_, '_>,
        (start, end): (Gva, Gva),
        anon_name: Option<String>,
    ) -> Result<String, GapReason> {
        let operations = vma.pointer(layout.operations)?;
        if !operations.is_null() {
            let named_by = Gva(self.integer(operations, layout.operations_name)?);
            // The only `vm_ops->name` of the kernel itself besides the gate page's.
            if layout.named_specially.is_some_and(|function| self.kernel().slid(function) == named_by) {
                let mapping = vma.pointer(layout.private)?;
                let name = Gva(self.integer(mapping, layout.special_name)?);
                return Ok(self.string(name, MAX_NAME_BYTES)?);
            }
        }
        if start < mm.heap.1 && end > mm.heap.0 {
            return Ok("[heap]".to_owned());
        }
        if start <= mm.start_stack && end >= mm.start_stack {
            return Ok("[stack]".to_owned());
        }
        Ok(anon_name.map_or_else(String::new, |name| format!("[anon:{name}]")))
    }

    /// The page at a fixed address through which old programs ask for the time (`get_gate_vma`).
    fn gate_map(&self, layout: &MapsLayout, mm: &Mm) -> Result<Option<Map>, GapReason> {
        let Some((at, mode)) = layout.gate else { return Ok(None) };
        let (at, mode) = (self.kernel().slid(at), self.kernel().slid(mode));
        let is_64_bit = match layout.context_flags {
            Some(flags) => self.integer(mm.at, flags)? & HAS_VSYSCALL != 0,
            None => true,
        };
        if !is_64_bit || self.u32(mode)? == VSYSCALL_NONE {
            return Ok(None);
        }
        let vma = self.record(at, layout.span)?;
        Ok(Some(Map {
            start: vma.pointer(layout.start)?,
            end: vma.pointer(layout.end)?,
            flags: vma.integer(layout.flags)?,
            offset: 0,
            device: 0,
            inode: 0,
            path: "[vsyscall]".to_owned(),
            at,
            file: Gva(0),
            has_own_pages: false,
        }))
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;
