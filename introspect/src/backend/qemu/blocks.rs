//! From RAM blocks to something to read: a mapping of the file that backs a block, or addresses in QEMU's own memory.
//!
//! *Does*: finds each block among the process's mappings, by the address that QEMU tells (`gpa2hva`) or, without a control
//! socket, by its exact size and by `VM_DONTCOPY`, which QEMU sets on RAM. Refuses where more than one mapping fits.
//! *Trusts*: QEMU and the host kernel. *Never*: takes guest content as a hint to where guest memory is.

use super::QemuError;
use super::argv::{Backend, Config};
use super::layout::{self, Placed};
use super::maps::{self, Mapping};
use super::process::Process;
use super::qmp::{Qmp, QmpError};
use super::shared::SharedRam;
use crate::backend::map::open_read_only;
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// A run of guest-physical addresses and where its bytes are.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) gpa: u64,
    pub(super) len_bytes: u64,
    pub(super) source: Source,
}

/// Where bytes are.
#[derive(Debug)]
pub(super) enum Source {
    /// In a file mapped here, `offset` bytes into the mapping.
    Shared { ram: Arc<SharedRam>, offset: u64 },
    /// In the process's private memory.
    Process { address: u64 },
}

/// Segments as QEMU describes them.
pub(super) fn told(process: &Process, qmp: &mut Qmp) -> Result<Vec<Segment>, QemuError> {
    let unusable = |what: &str| QmpError::Broken(format!("{what} is not understood"));
    let memdevs = qmp.execute("query-memdev", json!({}))?;
    let ids =
        memdevs.as_array().into_iter().flatten().filter_map(|dev| dev.get("id").and_then(Value::as_str));
    let ids: Vec<String> = ids.map(str::to_owned).collect();
    let rows = layout::ram_rows(layout::flat_view(&qmp.human("info mtree -f")?), &ids);
    let mut placed = Vec::new();
    for row in &rows {
        let answer = qmp.human(&format!("gpa2hva {:#x}", row.placed.gpa))?;
        let address =
            answer.rsplit_once(" is 0x").and_then(|(_, hex)| u64::from_str_radix(hex.trim(), 16).ok());
        placed.push((row.placed.clone(), address.ok_or_else(|| unusable("the answer to gpa2hva"))?));
    }
    if placed.is_empty() {
        return Err(unusable("the memory tree").into());
    }
    let maps = read_maps(process, "maps")?;
    back(process, placed, &maps::join(&maps))
}

/// Segments as the command line implies them.
pub(super) fn derived(process: &Process, config: &Config) -> Result<Vec<Segment>, QemuError> {
    let pid = process.pid();
    let refuse = |what: String| QemuError::Unsupported { pid, what };
    if let Some(what) = config.beyond {
        return Err(refuse(what.to_owned()));
    }
    let placed = layout::derive(config).map_err(refuse)?;
    let own = Backend {
        kind: if config.mem_path { "file" } else { "ram" }.to_owned(),
        len_bytes: config.ram_bytes,
        ..Backend::default()
    };
    let blocks = if config.blocks.is_empty() { vec![own] } else { config.blocks.clone() };
    let sum = blocks.iter().try_fold(0u64, |sum, block| sum.checked_add(block.len_bytes));
    if sum != Some(config.ram_bytes) {
        return Err(refuse("memory backends whose sizes do not add up to the RAM".to_owned()));
    }
    let maps = read_maps(process, "smaps")?;
    let (mut found, mut start): (Vec<(u64, Mapping)>, u64) = (Vec::new(), 0);
    for block in &blocks {
        let map = the_mapping(process, block, &maps)?;
        if found.iter().any(|(_, other)| other.start == map.start) || config.can_grow && grown(&maps, config)
        {
            return Err(refuse("more RAM blocks than can be told apart".to_owned()));
        }
        found.push((start, map));
        start = start.saturating_add(block.len_bytes);
    }
    let pieces =
        placed.iter().flat_map(|run| found.iter().filter_map(|(start, map)| cut(run, *start, map))).collect();
    let maps: Vec<Mapping> = found.into_iter().map(|(_, map)| map).collect();
    back(process, pieces, &maps)
}

/// The part of a run that lies in one block, with its address.
fn cut(run: &Placed, block_start: u64, map: &Mapping) -> Option<(Placed, u64)> {
    let from = run.offset.max(block_start);
    let to = run.offset.checked_add(run.len_bytes)?.min(block_start.checked_add(map.len_bytes)?);
    let len_bytes = to.checked_sub(from).filter(|len| *len > 0)?;
    let gpa = run.gpa.checked_add(from.checked_sub(run.offset)?)?;
    let inside = from.checked_sub(block_start)?;
    Some((Placed { gpa, len_bytes, offset: inside }, map.start.checked_add(inside)?))
}

/// Whether there are RAM-like mappings that may be DIMMs plugged in since the start: whole multiples of 128 MiB, beyond the RAM.
fn grown(maps: &[Mapping], config: &Config) -> bool {
    let blocks: Vec<u64> =
        config.blocks.iter().map(|block| block.len_bytes).chain([config.ram_bytes]).collect();
    let like_dimm = |map: &&Mapping| {
        map.dont_fork && map.len_bytes >= 128 << 20 && map.len_bytes.is_multiple_of(128 << 20)
    };
    maps::join(maps).iter().filter(like_dimm).any(|map| !blocks.contains(&map.len_bytes))
}

/// The one mapping that fits a block.
fn the_mapping(process: &Process, block: &Backend, maps: &[Mapping]) -> Result<Mapping, QemuError> {
    let file = block.path.as_deref().filter(|_| block.kind == "file").and_then(|path| inode(process, path));
    let fits = |map: &&Mapping| {
        let kind = match block.kind.as_str() {
            "file" => map.file.inode != 0 && file.is_none_or(|inode| map.file.inode == inode),
            "memfd" => map.path.starts_with("/memfd:"),
            "ram" => map.file.inode == 0 || map.path.starts_with("/dev/zero"),
            _ => true,
        };
        map.len_bytes == block.len_bytes && map.writable && map.dont_fork && kind
    };
    let joined = maps::join(maps);
    let mut fitting: Vec<&Mapping> = maps.iter().filter(fits).collect();
    if fitting.is_empty() {
        fitting = joined.iter().filter(fits).collect();
    }
    match fitting.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(QemuError::NoRam { pid: process.pid(), len_bytes: block.len_bytes }),
        many => Err(QemuError::Unsupported {
            pid: process.pid(),
            what: format!("{} mappings that could each be its RAM", many.len()),
        }),
    }
}

/// The inode of a regular file, as the process sees the path; a folder (hugetlbfs) has temporary files instead.
fn inode(process: &Process, path: &Path) -> Option<u64> {
    let file = File::from(process.locate(path).ok()?);
    file.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.ino())
}

fn read_maps(process: &Process, name: &str) -> Result<Vec<Mapping>, QemuError> {
    let text = process.text(name).map_err(|why| QemuError::Host { pid: process.pid(), why })?;
    Ok(maps::parse(&text))
}

/// Backs runs, whose addresses in the process are known, by files where the guest's RAM is shared.
fn back(process: &Process, runs: Vec<(Placed, u64)>, maps: &[Mapping]) -> Result<Vec<Segment>, QemuError> {
    let mut opened: Vec<(u64, Option<Arc<SharedRam>>)> = Vec::new();
    let mut segments = Vec::new();
    for (run, address) in runs {
        let end = address.saturating_add(run.len_bytes);
        let map = maps.iter().find(|map| map.start <= address && end <= map.end());
        let map = map.ok_or(QemuError::NoRam { pid: process.pid(), len_bytes: run.len_bytes })?;
        if !opened.iter().any(|(start, _)| *start == map.start) {
            opened.push((map.start, open_shared(process, map)));
        }
        let shared =
            opened.iter().find(|(start, _)| *start == map.start).and_then(|(_, shared)| shared.clone());
        let source = match shared {
            Some(ram) => Source::Shared { ram, offset: address.saturating_sub(map.start) },
            None => Source::Process { address },
        };
        segments.push(Segment { gpa: run.gpa, len_bytes: run.len_bytes, source });
    }
    segments.sort_by_key(|segment| segment.gpa);
    Ok(segments)
}

/// Maps the file behind a shared mapping. `None` where there is none, or no right to it: the process's memory does as well.
fn open_shared(process: &Process, map: &Mapping) -> Option<Arc<SharedRam>> {
    if !map.shared || map.file.inode == 0 {
        return None;
    }
    let pid = process.pid();
    // Joined mappings have no map_files entry under their whole range; the descriptors then do.
    let exact = format!("/proc/{pid}/map_files/{:x}-{:x}", map.start, map.end());
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let fds = fds.filter_map(|entry| Some(entry.ok()?.path())).take(65_536);
    for path in std::iter::once(exact.into()).chain(fds) {
        // Looked at before it is opened: opening a descriptor of another kind may have effects.
        let same =
            |meta: std::fs::Metadata| meta.is_file() && meta.ino() == map.file.inode && is_device(&meta, map);
        if !std::fs::metadata(&path).is_ok_and(same) {
            continue;
        }
        let Ok(file) = open_read_only(&path) else { continue };
        if !file.metadata().is_ok_and(same) || !process.is_alive() {
            continue;
        }
        if let Ok(ram) = SharedRam::new(file, map.offset, map.len_bytes) {
            return Some(Arc::new(ram));
        }
    }
    None
}

fn is_device(meta: &std::fs::Metadata, map: &Mapping) -> bool {
    (libc::major(meta.dev()), libc::minor(meta.dev())) == map.file.dev
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_runs_at_blocks() {
        let map = maps::parse(b"10000-14000 rw-p 0 0:0 0\n").remove(0);
        let run = Placed { gpa: 0x10_0000, len_bytes: 0x6000, offset: 0x1000 };
        let (piece, address) = cut(&run, 0, &map).unwrap();
        assert_eq!((piece.gpa, piece.len_bytes, address), (0x10_0000, 0x3000, 0x11000));
        let (piece, address) = cut(&run, 0x4000, &map).unwrap();
        assert_eq!((piece.gpa, piece.len_bytes, address), (0x10_3000, 0x3000, 0x10000));
        assert!(cut(&run, 0x7000, &map).is_none());
    }
}
