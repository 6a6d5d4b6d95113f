//! Who holds a BPF program: the descriptors of processes.
//!
//! *Trusts*: nothing. *Never*: takes a file for a program by its name: what its private data is is what counts.

use super::BpfProgram;
use crate::linux::{Task, View};
use crate::{GapReason, Gva, Partial};
use std::collections::BTreeSet;

/// The path of a perf event's file.
const PERF_EVENT: &str = "anon_inode:[perf_event]";

impl View<'_> {
    /// The BPF programs that a process holds in any of its threads: by descriptors of their own, by links (`struct bpf_link`), and by
    /// perf events at which they run (`perf_event.prog`).
    pub fn bpf_held(&self, process: &Task) -> Partial<BpfProgram> {
        let (mut found, mut held) = (Partial::default(), BTreeSet::new());
        let tables = self.descriptor_tables(process);
        for table in found.absorb(tables) {
            let files = self.files(table);
            for file in found.absorb(files).into_iter().filter(|file| !file.private.is_null()) {
                held.insert(file.private);
                if file.path == PERF_EVENT {
                    let program = self.program_of_event(file.private);
                    held.extend(found.ok("perf event", file.private, program).flatten());
                }
            }
        }
        if held.is_empty() {
            return found;
        }
        let links = self.bpf_links();
        let links = found.absorb(links).into_iter().filter(|link| held.contains(&link.at));
        let linked: BTreeSet<u32> = links.filter_map(|link| link.program).collect();
        let programs = self.bpf_programs();
        let mut programs = found.absorb(programs);
        programs.retain(|program| held.contains(&program.at) || linked.contains(&program.id));
        found.items = programs;
        found
    }

    fn program_of_event(&self, event: Gva) -> Result<Option<Gva>, GapReason> {
        let layout = self.kernel().layouts.bpf.as_ref().map_err(Clone::clone)?;
        let Some(field) = layout.event_program else { return Ok(None) };
        let program = Gva(self.integer(event, field)?);
        Ok((!program.is_null()).then_some(program))
    }
}
