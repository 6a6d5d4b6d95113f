//! Who holds a BPF program: the descriptors of processes.
//!
//! *Trusts*: nothing. *Never*: takes a file for a program by its name: what its private data is is what counts.

use super::{BpfMap, BpfProgram};
use crate::linux::{Task, View};
use crate::{GapReason, Gva, Partial};
use std::collections::BTreeSet;

/// The path of a perf event's file.
const PERF_EVENT: &str = "anon_inode:[perf_event]";
/// The type of maps of programs that others jump to.
const PROGRAM_ARRAY: &str = "prog_array";
/// Most programs of one such array that are read.
const MAX_ENTRIES: u32 = 4096;

impl View<'_> {
    /// The BPF programs that a process holds in any of its threads: by descriptors of their own, by links (`struct bpf_link`), and by
    /// perf events at which they run (`perf_event.prog`).
    pub fn bpf_held(&self, process: &Task) -> Partial<BpfProgram> {
        let mut found = Partial::default();
        let objects = self.behind_descriptors(process);
        let objects: BTreeSet<Gva> = found.absorb(objects).into_iter().collect();
        if objects.is_empty() {
            return found;
        }
        let programs = self.bpf_programs();
        let programs = found.absorb(programs);
        let held = self.held_among(&programs, &objects);
        let held: BTreeSet<Gva> = found.absorb(held).into_iter().collect();
        found.items.extend(programs.into_iter().filter(|program| held.contains(&program.at)));
        found
    }

    /// Those of all loaded BPF `programs` that no process holds, nor another program that one holds and that jumps to them: what attached them
    /// has ended, and the kernel runs them until somebody takes them away (`bpf_link` pinned in a file system, a device's programs).
    pub fn bpf_orphans(&self, programs: Vec<BpfProgram>) -> Partial<BpfProgram> {
        let (mut found, mut objects) = (Partial::default(), BTreeSet::new());
        let processes = self.processes();
        for (process, _) in found.absorb(processes).iter().filter(|(process, _)| !process.kthread) {
            let held = self.behind_descriptors(process);
            objects.extend(found.absorb(held));
        }
        let held = self.held_among(&programs, &objects);
        let held: BTreeSet<Gva> = found.absorb(held).into_iter().collect();
        let held = self.with_jumped_to(&programs, held, &objects);
        let held: BTreeSet<Gva> = found.absorb(held).into_iter().collect();
        found.items.extend(programs.into_iter().filter(|program| !held.contains(&program.at)));
        found
    }

    /// The private data of all files that a process has open, and the programs of perf events among them.
    fn behind_descriptors(&self, process: &Task) -> Partial<Gva> {
        let mut found = Partial::default();
        let tables = self.descriptor_tables(process);
        for table in found.absorb(tables) {
            let files = self.files(table);
            for file in found.absorb(files).into_iter().filter(|file| !file.private.is_null()) {
                found.items.push(file.private);
                if file.path == PERF_EVENT {
                    let program = self.program_of_event(file.private);
                    let program = found.ok("perf event", file.private, program).flatten();
                    found.items.extend(program);
                }
            }
        }
        found
    }

    /// Which of these programs are among `objects`, or held by a link that is.
    fn held_among(&self, programs: &[BpfProgram], objects: &BTreeSet<Gva>) -> Partial<Gva> {
        let mut found = Partial::default();
        let links = self.bpf_links();
        let links = found.absorb(links).into_iter().filter(|link| objects.contains(&link.at));
        let linked: BTreeSet<u32> = links.filter_map(|link| link.program).collect();
        let is_held = |program: &&BpfProgram| objects.contains(&program.at) || linked.contains(&program.id);
        found.items.extend(programs.iter().filter(is_held).map(|program| program.at));
        found
    }

    /// The same programs, and those that they may jump to: in arrays of programs that one of them uses, or that are among `objects`.
    fn with_jumped_to(
        &self,
        programs: &[BpfProgram],
        mut held: BTreeSet<Gva>,
        objects: &BTreeSet<Gva>,
    ) -> Partial<Gva> {
        let mut found = Partial::default();
        let maps = self.bpf_maps();
        let mut arrays = found.absorb(maps);
        arrays.retain(|map| map.type_name() == PROGRAM_ARRAY);
        // Each round takes an array at least.
        loop {
            let users = programs.iter().filter(|program| held.contains(&program.at));
            let used: BTreeSet<u32> = users.flat_map(|program| program.maps.iter().copied()).collect();
            let is_used = |map: &BpfMap| objects.contains(&map.at) || used.contains(&map.id);
            let (taken, left): (Vec<BpfMap>, _) = arrays.into_iter().partition(is_used);
            for array in &taken {
                let jumped_to = self.programs_of_array(array);
                held.extend(found.absorb(jumped_to));
            }
            arrays = left;
            if taken.is_empty() {
                break;
            }
        }
        found.items.extend(held);
        found
    }

    fn programs_of_array(&self, array: &BpfMap) -> Partial<Gva> {
        let mut found = Partial::default();
        let layout = self.kernel().layouts.bpf.as_ref();
        let Some(first) = layout.ok().and_then(|layout| layout.array_programs) else { return found };
        if array.max_entries > MAX_ENTRIES {
            found.gap("programs of a BPF map", array.at, GapReason::Limit(u64::from(MAX_ENTRIES)));
        }
        let mut bytes =
            vec![0; usize::try_from(array.max_entries.min(MAX_ENTRIES)).unwrap_or(0).saturating_mul(8)];
        let read = self.space().read(array.at.field(first.offset), &mut bytes);
        if found.ok("programs of a BPF map", array.at, read.map_err(GapReason::from)).is_some() {
            let pointers = bytes.as_chunks::<8>().0.iter().map(|pointer| Gva(u64::from_le_bytes(*pointer)));
            found.items.extend(pointers.filter(|pointer| !pointer.is_null()));
        }
        found
    }

    fn program_of_event(&self, event: Gva) -> Result<Option<Gva>, GapReason> {
        let layout = self.kernel().layouts.bpf.as_ref().map_err(Clone::clone)?;
        let Some(field) = layout.event_program else { return Ok(None) };
        let program = Gva(self.integer(event, field)?);
        Ok((!program.is_null()).then_some(program))
    }
}
