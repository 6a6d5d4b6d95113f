//! The folder of a kernel's modules, as distributions lay it out: `/lib/modules/RELEASE`.
//!
//! *Trusts*: nothing that is in it; the search is bounded and follows no links.

use super::block;
use super::{ModuleFile, ModuleFileError};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Most files and folders that are looked through: distributions' largest kernels have 7,000 modules.
const MAX_ENTRIES: usize = 1 << 17;
/// What a module's file name may end in.
const ENDINGS: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// The modules of a kernel, by name. Files are read when they are asked for, once.
#[derive(Debug)]
pub struct ModuleFolder {
    path: PathBuf,
    release: String,
    files: Files,
    read: Mutex<HashMap<String, Arc<ModuleFile>>>,
}

/// Where the files are.
#[derive(Debug)]
enum Files {
    Folder(HashMap<String, PathBuf>),
    Block(block::Files),
}

impl ModuleFolder {
    /// The modules of the kernel `release` below a folder: that of the kernel itself, or one that has a folder of that name.
    pub fn open(folder: &Path, release: &str) -> io::Result<ModuleFolder> {
        let own = folder.join(release);
        let path = if own.is_dir() { own } else { folder.to_owned() };
        let (mut open, mut files, mut seen) = (vec![path.clone()], HashMap::new(), 0usize);
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                seen = seen.saturating_add(1);
                if seen > MAX_ENTRIES {
                    return Err(io::Error::other("more files than any kernel has modules"));
                }
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    open.push(entry.path());
                } else if let Some(name) =
                    kind.is_file().then(|| module_name(&entry.file_name().to_string_lossy()))
                {
                    files.extend(name.map(|name| (name, entry.path())));
                }
            }
        }
        let files = Files::Folder(files);
        Ok(ModuleFolder { path, release: release.to_owned(), files, read: Mutex::default() })
    }

    /// The modules that a block holds.
    pub(super) fn of_block(path: PathBuf, release: String, files: block::Files) -> ModuleFolder {
        ModuleFolder { path, release, files: Files::Block(files), read: Mutex::default() }
    }

    /// The kernel that they are of, as `uname -r` names it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.files {
            Files::Folder(files) => files.len(),
            Files::Block(files) => files.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is a file of the module of that name.
    pub fn has(&self, name: &str) -> bool {
        match &self.files {
            Files::Folder(files) => files.contains_key(name),
            Files::Block(files) => files.contains_key(name),
        }
    }

    /// A module's file as it is on disk; none where the folder has none.
    pub(super) fn open_file(&self, name: &str) -> Option<io::Result<File>> {
        match &self.files {
            Files::Folder(files) => files.get(name).map(File::open),
            Files::Block(_) => None,
        }
    }

    /// Forgets the files that were read: who asks for one again reads it again.
    pub fn forget(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = HashMap::new();
    }

    /// The file of the module of that name; none where the folder has none.
    pub fn module(&self, name: &str) -> Option<Result<Arc<ModuleFile>, ModuleFileError>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = read.get(name) {
            return Some(Ok(known.clone()));
        }
        Some(self.load(name)?.map(|file| {
            let file = Arc::new(file);
            read.insert(name.to_owned(), file.clone());
            file
        }))
    }

    fn load(&self, name: &str) -> Option<Result<ModuleFile, ModuleFileError>> {
        let file = match &self.files {
            Files::Folder(files) => {
                File::open(files.get(name)?).map_err(Into::into).and_then(ModuleFile::load)
            }
            Files::Block(files) => ModuleFile::of_bytes(files.get(name)?),
        };
        let is_of_it = |file: ModuleFile| match file.release == self.release {
            true => Ok(file),
            false => Err(ModuleFileError::OtherKernel(file.release)),
        };
        Some(file.and_then(is_of_it))
    }
}

/// What the kernel calls the module in a file of that name.
fn module_name(file: &str) -> Option<String> {
    let stem = ENDINGS.iter().find_map(|ending| file.strip_suffix(ending))?;
    Some(stem.replace('-', "_"))
}
