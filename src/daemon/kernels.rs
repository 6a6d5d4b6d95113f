//! Kernels' own files, unpacked once for all workers.
//!
//! A worker compares its guest's kernel with the file that it was booted from, which is ten megabytes packed and sixty unpacked. One that
//! has read such a file by itself names it by a digest; a process that does nothing else unpacks it, locked down like a worker and never
//! reading a guest; what it says is kept here in a file in memory, sealed before anyone sees it, and every worker that starts from then on maps
//! that.
//!
//! *Trusts*: that what a process unpacks is what it was told to unpack: before it gives up its rights it makes sure that the file has that digest. *Never*: takes
//! an image from a worker that may have read a guest, or parses one: that is for workers, which look nothing up outside of it.

use super::Event;
use super::process::WorkerId;
use super::protocol::Unpacks;
use super::schedule::VmId;
use super::supervisor::Supervisor;
use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, SealFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// Blocks of a kind that are kept; the one that was unpacked first goes first. Workers that have mapped it keep it.
const MAX_BLOCKS: usize = 16;
/// Largest image: no kernel is half as large.
pub(super) const MAX_BYTES: u64 = 1 << 30;
/// A VM's worker is replaced so often, to have the next one share what it has read by itself: whatever it says of that.
const MAX_REPLACED: u32 = 3;
/// Digests of files that could not be unpacked.
const MAX_REFUSED: usize = 256;

/// What was unpacked, by the digest of the file that it was in, or what else it is called.
#[derive(Default)]
pub(super) struct Blocks {
    known: BTreeMap<String, (u64, File)>,
    kept: u64,
    refused: Vec<String>,
}

impl Blocks {
    /// Where workers find them: this process's descriptors, which only who has its rights can open.
    pub(super) fn offers(&self) -> BTreeMap<String, PathBuf> {
        self.known.keys().filter_map(|digest| self.offer(digest)).collect()
    }

    /// The same of one.
    pub(super) fn offer(&self, digest: &str) -> Option<(String, PathBuf)> {
        let (_, file) = self.known.get(digest)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Some((digest.to_owned(), PathBuf::from(path)))
    }

    pub(super) fn has(&self, digest: &str) -> bool {
        self.known.contains_key(digest)
    }

    pub(super) fn has_refused(&self, digest: &str) -> bool {
        self.refused.iter().any(|refused| refused == digest)
    }

    /// Memory that all workers share.
    pub(super) fn len_bytes(&self) -> u64 {
        self.known.values().filter_map(|(_, file)| Some(file.metadata().ok()?.len())).sum()
    }

    fn keep(&mut self, digest: String, file: File) {
        self.kept += 1;
        self.known.insert(digest, (self.kept, file));
        if self.known.len() > MAX_BLOCKS
            && let Some(first) =
                self.known.iter().min_by_key(|(_, (kept, _))| *kept).map(|(of, _)| of.clone())
        {
            self.known.remove(&first);
        }
    }

    fn refuse(&mut self, digest: &str) {
        if self.refused.len() >= MAX_REFUSED {
            self.refused.remove(0);
        }
        self.refused.push(digest.to_owned());
    }
}

/// What a process that unpacks says, in a file that nobody can change any more.
pub(super) fn sealed(from: &mut impl Read, len_bytes: u64) -> Result<File> {
    ensure!((1..=MAX_BYTES).contains(&len_bytes), "a block of {len_bytes} bytes");
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file =
        File::from(rustix::fs::memfd_create("lynceus-unpacked", flags).context("no file in memory")?);
    let got = io::copy(&mut from.take(len_bytes), &mut file)?;
    ensure!(got == len_bytes, "it ends after {got} of {len_bytes} bytes");
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )
    .context("the file in memory cannot be sealed")?;
    Ok(file)
}

impl Supervisor {
    /// A worker has read a kernel's file by itself: the next one of this VM shares it, when it is unpacked.
    pub(super) fn share_kernel(&mut self, id: VmId, digest: &str) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let is_digest = digest.len() == 64 && digest.bytes().all(|digit| digit.is_ascii_hexdigit());
        let is_refused = self.kernels.has_refused(digest);
        if !is_digest || is_refused || vm.replaced >= MAX_REPLACED {
            return;
        }
        vm.replaced += 1;
        if !self.kernels.has(digest) {
            vm.unpacks = Some(Unpacks::Kernel(digest.to_owned()));
        }
        self.replace_worker(id);
    }

    /// After a reload files are read again that could not be before, or were not there: somebody may have seen to them.
    pub(super) fn read_files_again(&mut self) {
        self.kernels.refused.clear();
        self.modules = Blocks::default();
        let mut unshared = Vec::new();
        for (id, vm) in &mut self.vms {
            vm.replaced = 0;
            vm.modules.again();
            unshared.extend(vm.ready.as_ref().and_then(|ready| Some((*id, ready.unshared.clone()?))));
        }
        unshared.into_iter().for_each(|(id, digest)| self.share_kernel(id, &digest));
    }

    /// A process that unpacks has come to its end: now for the worker.
    pub(super) fn unpacked(&mut self, id: WorkerId, file: Result<File, String>) {
        let Some(vm) = self.vms.get_mut(&id.vm) else { return };
        if vm.worker.as_ref().is_none_or(|worker| worker.id != id) {
            return;
        }
        // Nobody else was told to unpack anything.
        let Some(unpacks) = vm.unpacks.take() else { return };
        match file {
            Ok(file) => self.blocks(&unpacks).keep(unpacks.key().to_owned(), file),
            Err(why) => self.not_unpacked(id.vm, &unpacks, &why),
        }
        self.replace_worker(id.vm);
    }

    /// Workers read this kernel's file by themselves from now on; files of modules they have none.
    pub(super) fn not_unpacked(&mut self, id: VmId, unpacks: &Unpacks, why: &str) {
        let name = self.vms.get(&id).map(|vm| vm.seen.name.as_str()).unwrap_or_default();
        let what = match unpacks {
            Unpacks::Kernel(_) => "its kernel's file is not shared",
            Unpacks::Modules(_) => "its modules are not compared with their files",
        };
        tracing::warn!(vm = name, "{what}: {}", crate::output::escape(why));
        self.blocks(unpacks).refuse(unpacks.key());
    }

    fn blocks(&mut self, unpacks: &Unpacks) -> &mut Blocks {
        match unpacks {
            Unpacks::Kernel(_) => &mut self.kernels,
            Unpacks::Modules(_) => &mut self.modules,
        }
    }
}

/// What a thread that hears a process that unpacks passes on.
pub(super) fn heard(id: WorkerId, from: &mut impl Read, len_bytes: u64) -> Event {
    Event::Unpacked(id, sealed(from, len_bytes).map_err(|error| format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lynceus_introspect::backend::sealed::SealedMap;
    use std::io::Write;

    #[test]
    fn what_was_unpacked_is_mapped_and_nobody_changes_it() {
        let text = b"an image".to_vec();
        let mut file = sealed(&mut &text[..], text.len() as u64).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(SealedMap::new(&File::open(&path).unwrap()).unwrap().as_ref(), text);
        assert!(file.write_all(b"other").is_err() && file.set_len(1).is_err());
        assert!(
            File::options().write(true).open(&path).and_then(|mut file| file.write_all(b"other")).is_err()
        );
        assert!(sealed(&mut &text[..], 9).is_err() && sealed(&mut &text[..], 0).is_err());
        assert!(SealedMap::new(&tempfile::tempfile().unwrap()).is_err());
    }

    #[test]
    fn the_first_of_too_many_goes() {
        let mut kernels = Blocks::default();
        for number in 0..=MAX_BLOCKS {
            kernels.keep(format!("{:02}", 99 - number), tempfile::tempfile().unwrap());
        }
        assert_eq!(kernels.offers().len(), MAX_BLOCKS);
        assert!(!kernels.offers().contains_key("99"));
    }
}
