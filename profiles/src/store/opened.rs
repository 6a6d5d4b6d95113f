//! A store whose files were all opened before, for a worker that can open none.
//!
//! *Does*: hands out what the admin imported and what was learned, from descriptors; takes what is learned and gives it back to
//! the caller as bytes, for a process with more rights to keep.
//! *Trusts*: the directory, as the store does, but not what a worker gave back: a worker that a guest took over may call anything
//! the profile of any kernel. So what came from one VM's worker is kept in a folder of that VM alone and offered to nobody else, is
//! named by a digest of the file itself, and is never taken for an imported profile, whatever it says.
//! *Never*: parses what is to be kept: that is for the next worker.

use super::{
    EXTENSION, Header, MAX_LEARNED, Origin, ProfileStore, StoreError, evict, files, format, header_of,
    is_learned, write_file,
};
use crate::Profile;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Most imported profiles, and most kernels, that are opened.
const MAX_TRUSTED: usize = 128;
/// Profiles kept of one VM: it changes its kernel now and then.
pub(super) const MAX_LEARNED_OF_VM: usize = 4;
/// Largest profile that is kept of what a worker hands back.
const MAX_LEARNED_BYTES: usize = 64 << 20;

/// Open files.
#[derive(Debug, Default)]
pub(super) struct Opened {
    profiles: Vec<(Origin, String, File)>,
    kernels: Vec<(String, Arc<File>)>,
    learned: Mutex<Vec<Vec<u8>>>,
}

impl Opened {
    pub(super) fn headers(&self) -> impl Iterator<Item = Header> {
        // Where a file came from says who vouches for it. What it says of itself must be the same.
        let header = |(origin, _, file): &(Origin, String, File)| {
            header_of(file).ok().filter(|header| header.origin == *origin)
        };
        self.profiles.iter().filter_map(header)
    }

    pub(super) fn trusted(&self, name: &str) -> Option<Header> {
        let file = self.profiles.iter().find(|(origin, of, _)| *origin == Origin::Trusted && of == name);
        header_of(&file?.2).ok()
    }

    pub(super) fn load(&self, header: &Header) -> Result<(Header, Profile), StoreError> {
        let is_its = |(origin, _, file): &&(Origin, String, File)| {
            *origin == header.origin && header_of(file).is_ok_and(|found| found == *header)
        };
        let file = self.profiles.iter().find(is_its);
        let (_, _, file) = file.ok_or(StoreError::Damaged("it was not there when the store was opened"))?;
        format::decode(&mut AtStart::of(file))
    }

    pub(super) fn kernel(&self, name: &str) -> Option<Arc<File>> {
        self.kernels.iter().find(|(of, _)| of == name).map(|(_, file)| file.clone())
    }

    pub(super) fn learn(&self, profile: Vec<u8>) -> Result<(), StoreError> {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.len() >= MAX_LEARNED_OF_VM || profile.len() > MAX_LEARNED_BYTES {
            return Err(StoreError::TooLarge);
        }
        learned.push(profile);
        Ok(())
    }
}

impl ProfileStore {
    /// The same store with all its files open, for a process that will open no more: what the admin imported, what was
    /// learned on this host, and what a worker of this VM learned before.
    pub fn opened(&self, vm: &str) -> Result<ProfileStore, StoreError> {
        let mut opened = Opened::default();
        let (learned, trusted): (Vec<PathBuf>, Vec<PathBuf>) =
            files(&self.directory, EXTENSION)?.into_iter().partition(|path| is_learned(path));
        opened.profiles.extend(open_all(trusted, MAX_TRUSTED, Origin::Trusted));
        opened.profiles.extend(open_all(learned, MAX_LEARNED, Origin::Learned));
        let own = files(&self.folder_of(vm), EXTENSION).unwrap_or_default();
        opened.profiles.extend(open_all(own, MAX_LEARNED_OF_VM, Origin::Learned));
        let kernels = open_all(files(&self.directory, "image")?, MAX_TRUSTED, Origin::Trusted);
        opened.kernels = kernels.map(|(_, name, file)| (name, Arc::new(file))).collect();
        Ok(ProfileStore { opened: Some(Arc::new(opened)), ..self.clone() })
    }

    /// All kernels' files of an [opened](ProfileStore::opened) store.
    pub fn opened_kernels(&self) -> impl Iterator<Item = Arc<File>> + '_ {
        self.opened.iter().flat_map(|opened| opened.kernels.iter().map(|(_, file)| file.clone()))
    }

    /// What an [opened](ProfileStore::opened) store was given to save, as files for [`ProfileStore::keep_for`].
    pub fn take_learned(&self) -> Vec<Vec<u8>> {
        let Some(opened) = &self.opened else { return Vec::new() };
        std::mem::take(&mut opened.learned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps what the worker of a VM learned, for the workers of the same VM.
    pub fn keep_for(&self, vm: &str, learned: &[u8]) -> Result<(), StoreError> {
        if learned.len() > MAX_LEARNED_BYTES {
            return Err(StoreError::TooLarge);
        }
        let folder = self.folder_of(vm);
        let failed = |source| StoreError::Io { path: folder.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let name = format!("learned-{}.{EXTENSION}", blake3::hash(learned).to_hex());
        write_file(&folder.join(name), learned)?;
        evict(&folder, MAX_LEARNED_OF_VM)
    }

    fn folder_of(&self, vm: &str) -> PathBuf {
        self.directory.join("vms").join(blake3::hash(vm.as_bytes()).to_hex().as_str())
    }
}

/// Regular files, opened. What cannot be is left out, as a store does with what cannot be read.
fn open_all(
    paths: Vec<PathBuf>,
    most: usize,
    origin: Origin,
) -> impl Iterator<Item = (Origin, String, File)> {
    let open = move |path: PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        let file = open_regular(&path).ok()?;
        Some((origin, name, file))
    };
    paths.into_iter().filter_map(open).take(most)
}

fn open_regular(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    File::open(path)
}

/// A file from its start, whoever else reads it.
pub(super) struct AtStart<'f> {
    file: &'f File,
    at: u64,
}

impl<'f> AtStart<'f> {
    pub(super) fn of(file: &'f File) -> AtStart<'f> {
        AtStart { file, at: 0 }
    }
}

impl Read for AtStart<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.at)?;
        self.at = self.at.saturating_add(read as u64);
        Ok(read)
    }
}
