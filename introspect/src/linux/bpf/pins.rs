//! Where BPF objects are pinned: the files of BPF file systems, each of which keeps what it stands for without a process.
//!
//! *Trusts*: nothing. All files of such a file system are in the directory cache, which is walked with a bound.
//! *Never*: takes a file for what its name says: what its inode keeps is what counts (`kernel/bpf/inode.c`, Linux 5.10 to 7.2).

use super::BpfProgram;
use crate::linux::{FileKind, PathAt, View};
use crate::{GapReason, Gva, Partial};
use std::collections::{BTreeMap, BTreeSet};

/// The kind of file system.
const FS: &str = "bpf";
/// Most files and directories that are walked.
const MAX_ENTRIES: u64 = 1 << 14;

/// A file that keeps a BPF object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BpfPin {
    /// Address of the `struct bpf_prog`, `bpf_map` or `bpf_link`.
    pub object: Gva,
    /// Its path in the mount namespace that it was found in.
    pub path: String,
}

impl View<'_> {
    /// Every pinned BPF object of every BPF file system that a process can reach.
    pub fn bpf_pins(&self) -> Partial<BpfPin> {
        let (mut found, mut seen, mut walked) = (Partial::default(), BTreeSet::new(), 0);
        let roots = self.bpf_file_systems();
        let mut left: Vec<PathAt> = found.absorb(roots);
        while let Some(at) = left.pop() {
            if !seen.insert(at.dentry) {
                continue;
            }
            let entries = self.entries_in(at.dentry);
            for entry in found.ok("directory", at.dentry, entries).into_iter().flatten() {
                if walked == MAX_ENTRIES {
                    found.gap("pinned BPF objects", entry.at, GapReason::Limit(MAX_ENTRIES));
                    return found;
                }
                walked = walked.saturating_add(1);
                let there = PathAt { mount: at.mount, dentry: entry.at };
                let info = self.file_info(entry.inode);
                match found.ok("file", entry.inode, info) {
                    Some(info) if FileKind::of_mode(info.mode.into()) == FileKind::Directory => {
                        left.push(there)
                    }
                    Some(_) => {
                        let pin = self.bpf_pin(there, entry.inode);
                        found.keep("pinned BPF object", entry.inode, pin);
                    }
                    None => {}
                }
            }
        }
        found
    }

    /// Each of these programs, and the paths where it is pinned, or a link to it.
    pub fn bpf_pinned(&self, programs: Vec<BpfProgram>) -> Partial<(BpfProgram, Vec<String>)> {
        let (mut found, pins) = (Partial::default(), self.bpf_pins());
        let mut pins = found.absorb(pins);
        pins.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        let mut by_place: BTreeMap<Gva, u32> =
            programs.iter().map(|program| (program.at, program.id)).collect();
        if !pins.is_empty() {
            let links = self.bpf_links();
            let links = found.absorb(links);
            by_place.extend(links.iter().filter_map(|link| Some((link.at, link.program?))));
        }
        let mut paths: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for pin in pins {
            if let Some(id) = by_place.get(&pin.object) {
                paths.entry(*id).or_default().push(pin.path);
            }
        }
        let pinned = programs.into_iter().map(|program| {
            let own = paths.remove(&program.id).unwrap_or_default();
            (program, own)
        });
        found.items.extend(pinned);
        found
    }

    fn bpf_pin(&self, at: PathAt, inode: Gva) -> Result<BpfPin, GapReason> {
        Ok(BpfPin { object: self.inode_private(inode)?, path: self.path(at.mount, at.dentry)? })
    }

    /// Their root directories, each once for each mount of it.
    fn bpf_file_systems(&self) -> Partial<PathAt> {
        let mut found = Partial::default();
        let processes = self.processes();
        let processes = found.absorb(processes);
        // One that ends has none any more.
        let namespaces = processes.iter().filter_map(|(task, _)| self.namespaces(task).ok());
        let namespaces: BTreeSet<Gva> = namespaces.map(|of| of.mnt_at).filter(|at| !at.is_null()).collect();
        for namespace in namespaces {
            let mounted = self.mounted(namespace, FS);
            let mounted = found.absorb(mounted);
            found.items.extend(mounted);
        }
        found
    }
}
