//! BPF programs, maps and links that the kernel holds, from its id tables.
//!
//! *Trusts*: nothing. *Never*: takes a program's name for what it does; names are the loader's choice.
//!
//! Layouts: `include/linux/bpf.h`, `include/linux/filter.h`, `include/linux/idr.h`, `include/linux/perf_event.h` (Linux 5.10 to 7.2).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod held;
mod names;
mod pins;

pub use pins::BpfPin;

use super::record::Span;
use super::{Resolved, View};
use crate::{AccessError, GapReason, Gva, Partial};
use lynceus_profiles::{Field, Profile};

/// Most instructions of one program that are looked through: no program of the field has more.
const MAX_INSTRUCTIONS: u32 = 1 << 18;
/// Most maps that one program uses (`MAX_USED_MAPS`).
const MAX_USED_MAPS: u32 = 64;

/// A loaded BPF program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BpfProgram {
    /// Its id.
    pub id: u32,
    /// Number of its type (`enum bpf_prog_type`); see [`BpfProgram::type_name`].
    pub program_type: u32,
    /// Name given by the loader, up to 15 characters.
    pub name: String,
    /// Digest of its instructions, as `bpftool` shows it.
    pub tag: [u8; 8],
    /// User id of the loader.
    pub uid: Option<u32>,
    /// When it was loaded: nanoseconds of `CLOCK_BOOTTIME`.
    pub load_time_ns: u64,
    /// Number of its instructions.
    pub instructions: u32,
    /// Where its machine code is and how many bytes, if it was compiled.
    pub jited: Option<(Gva, u32)>,
    /// Ids of the maps it uses.
    pub maps: Vec<u32>,
    /// The kernel function it is attached to, where it was loaded for one.
    pub attached_to: Option<String>,
    /// Address of the `struct bpf_prog`.
    pub at: Gva,
}

/// A BPF map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BpfMap {
    /// Its id.
    pub id: u32,
    /// Number of its type (`enum bpf_map_type`).
    pub map_type: u32,
    /// Name given by its maker.
    pub name: String,
    /// Size of a key in bytes.
    pub key_bytes: u32,
    /// Size of a value in bytes.
    pub value_bytes: u32,
    /// Most entries it can hold.
    pub max_entries: u32,
    /// Address of the `struct bpf_map`.
    pub at: Gva,
}

/// A BPF link: a program held attached to something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BpfLink {
    /// Its id.
    pub id: u32,
    /// Number of its type (`enum bpf_link_type`).
    pub link_type: u32,
    /// Id of its program, where it has one.
    pub program: Option<u32>,
    /// Address of the `struct bpf_link`.
    pub at: Gva,
}

/// Members of BPF objects and where their id tables are.
#[derive(Clone, Debug)]
pub struct BpfLayout {
    programs: u64,
    maps: u64,
    /// Kernels since 5.8.
    links: Option<u64>,
    id_tree: Field,
    program: Span,
    program_type: Field,
    tag: Field,
    length: Field,
    jited_bytes: Field,
    jited: Field,
    function: Field,
    aux_pointer: Field,
    aux: Span,
    id: Field,
    name: Field,
    load_time: Field,
    user: Field,
    used_maps: Field,
    used_map_count: Field,
    attach_function: Field,
    /// Its instructions, behind the rest (`insnsi`).
    instructions: u32,
    user_id: Field,
    map: Span,
    map_id: Field,
    map_type: Field,
    map_name: Field,
    key_bytes: Field,
    value_bytes: Field,
    max_entries: Field,
    link_id: Field,
    link_type: Field,
    link_program: Field,
    /// The program that runs at a perf event, in kernels that have these.
    event_program: Option<Field>,
    /// The programs of an array of programs: pointers, in kernels that have these.
    array_programs: Option<Field>,
}

impl BpfLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let program = |path| profile.field("bpf_prog", path);
        let (program_type, tag, length) = (program("type")?, program("tag")?, program("len")?);
        let (jited_bytes, jited) = (program("jited_len")?, program("jited")?);
        let (function, aux_pointer) = (program("bpf_func")?, program("aux")?);
        let aux = |path| profile.field("bpf_prog_aux", path);
        let (id, name, load_time, user) = (aux("id")?, aux("name")?, aux("load_time")?, aux("user")?);
        let (used_maps, used_map_count) = (aux("used_maps")?, aux("used_map_cnt")?);
        let attach_function = aux("attach_func_name")?;
        let map = |path| profile.field("bpf_map", path);
        let (map_id, map_type, map_name) = (map("id")?, map("map_type")?, map("name")?);
        let (key_bytes, value_bytes) = (map("key_size")?, map("value_size")?);
        let max_entries = map("max_entries")?;
        Ok(BpfLayout {
            programs: profile.symbol("prog_idr")?,
            maps: profile.symbol("map_idr")?,
            links: profile.symbol("link_idr").ok(),
            id_tree: profile.field("idr", "idr_rt")?,
            program: Span::of(&[program_type, tag, length, jited_bytes, jited, function, aux_pointer]),
            program_type,
            tag,
            length,
            jited_bytes,
            jited,
            function,
            aux_pointer,
            aux: Span::of(&[id, name, load_time, user, used_maps, used_map_count, attach_function]),
            id,
            name,
            load_time,
            user,
            used_maps,
            used_map_count,
            attach_function,
            instructions: program("insnsi")?.offset,
            user_id: profile.field("user_struct", "uid")?,
            map: Span::of(&[map_id, map_type, map_name, key_bytes, value_bytes, max_entries]),
            map_id,
            map_type,
            map_name,
            key_bytes,
            value_bytes,
            max_entries,
            link_id: profile.field("bpf_link", "id")?,
            link_type: profile.field("bpf_link", "type")?,
            link_program: profile.field("bpf_link", "prog")?,
            event_program: profile.field("perf_event", "prog").ok(),
            array_programs: profile.field("bpf_array", "ptrs").ok(),
        })
    }
}

impl<'a> View<'a> {
    /// Every BPF program with an id.
    pub fn bpf_programs(&self) -> Partial<BpfProgram> {
        self.bpf_objects(
            "BPF programs",
            |layout| Some(layout.programs),
            |view, layout, at, gaps| view.bpf_program(layout, at, gaps),
        )
    }

    /// Every BPF map with an id.
    pub fn bpf_maps(&self) -> Partial<BpfMap> {
        self.bpf_objects(
            "BPF maps",
            |layout| Some(layout.maps),
            |view, layout, at, _| view.bpf_map(layout, at),
        )
    }

    /// Every BPF link with an id.
    pub fn bpf_links(&self) -> Partial<BpfLink> {
        self.bpf_objects("BPF links", |layout| layout.links, |view, layout, at, _| view.bpf_link(layout, at))
    }

    fn bpf_objects<T>(
        &self,
        what: &'static str,
        table: impl Fn(&BpfLayout) -> Option<u64>,
        read: impl Fn(&View<'a>, &BpfLayout, Gva, &mut Partial<T>) -> Result<T, GapReason>,
    ) -> Partial<T> {
        let layout = match &self.kernel().layouts.bpf {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let mut found = Partial::default();
        let Some(table) = table(layout) else { return found };
        let entries = self.xarray(what, self.kernel().slid(table).field(layout.id_tree.offset));
        for (_, at) in found.absorb(entries) {
            let object = read(self, layout, at, &mut found);
            let object = found.ok(what, at, object);
            found.items.extend(object);
        }
        found
    }

    fn bpf_program(
        &self,
        layout: &BpfLayout,
        at: Gva,
        gaps: &mut Partial<BpfProgram>,
    ) -> Result<BpfProgram, GapReason> {
        let program = self.record(at, layout.program)?;
        let aux = self.record(program.pointer(layout.aux_pointer)?, layout.aux)?;
        let (maps, count) = (aux.pointer(layout.used_maps)?, aux.u32(layout.used_map_count)?);
        if count > MAX_USED_MAPS {
            gaps.gap("maps of a BPF program", at, GapReason::Limit(u64::from(MAX_USED_MAPS)));
        }
        let user = aux.pointer(layout.user)?;
        let code = (program.pointer(layout.function)?, program.u32(layout.jited_bytes)?);
        let attached_to = aux.pointer(layout.attach_function)?;
        Ok(BpfProgram {
            id: aux.u32(layout.id)?,
            program_type: program.u32(layout.program_type)?,
            name: aux.text(layout.name)?,
            tag: program.bytes(layout.tag)?,
            uid: if user.is_null() { None } else { Some(self.low32(user, layout.user_id)?) },
            load_time_ns: aux.integer(layout.load_time)?,
            instructions: program.u32(layout.length)?,
            jited: (program.integer(layout.jited)? != 0).then_some(code),
            maps: (0..count.min(MAX_USED_MAPS))
                .map(|slot| self.low32(self.pointer(maps.field(slot.wrapping_mul(8)))?, layout.map_id))
                .collect::<Result<_, _>>()?,
            attached_to: if attached_to.is_null() { None } else { Some(self.string(attached_to, 128)?) },
            at,
        })
    }

    /// The functions of the kernel that a program calls, each once, ascending.
    ///
    /// An instruction is 8 bytes (`struct bpf_insn`); a call has code 0x85 and, once loaded, the function's distance from
    /// `__bpf_call_base` as its 32-bit operand (`kernel/bpf/verifier.c`, `fixup_bpf_calls`). Calls of the program's own functions
    /// have 1 for a source register, those of the kernel's by BTF id 2, with the same kind of operand.
    pub fn bpf_calls(&self, program: &BpfProgram) -> Result<Vec<Gva>, GapReason> {
        const CALL: u8 = 0x85;
        const OWN: u8 = 1;
        let layout = self.kernel().layouts.bpf.as_ref().map_err(Clone::clone)?;
        let base = self.kernel().symbol("__bpf_call_base")?;
        let count = program.instructions.min(MAX_INSTRUCTIONS);
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0).saturating_mul(8)];
        self.space().read(program.at.field(layout.instructions), &mut bytes)?;
        let mut calls = Vec::new();
        for [code, registers, _, _, operand @ ..] in bytes.as_chunks::<8>().0 {
            if *code == CALL && registers >> 4 != OWN {
                calls.push(Gva(base.0.wrapping_add_signed(i32::from_le_bytes(*operand).into())));
            }
        }
        calls.sort_unstable();
        calls.dedup();
        Ok(calls)
    }

    fn bpf_map(&self, layout: &BpfLayout, at: Gva) -> Result<BpfMap, GapReason> {
        let map = self.record(at, layout.map)?;
        Ok(BpfMap {
            id: map.u32(layout.map_id)?,
            map_type: map.u32(layout.map_type)?,
            name: map.text(layout.map_name)?,
            key_bytes: map.u32(layout.key_bytes)?,
            value_bytes: map.u32(layout.value_bytes)?,
            max_entries: map.u32(layout.max_entries)?,
            at,
        })
    }

    fn bpf_link(&self, layout: &BpfLayout, at: Gva) -> Result<BpfLink, GapReason> {
        let program = Gva(self.integer(at, layout.link_program)?);
        let aux = if program.is_null() { Gva(0) } else { Gva(self.integer(program, layout.aux_pointer)?) };
        Ok(BpfLink {
            id: self.low32(at, layout.link_id)?,
            link_type: self.low32(at, layout.link_type)?,
            program: if aux.is_null() { None } else { Some(self.low32(aux, layout.id)?) },
            at,
        })
    }

    fn low32(&self, base: Gva, field: Field) -> Result<u32, AccessError> {
        self.integer(base, field).map(|value| (value & 0xffff_ffff) as u32)
    }
}
