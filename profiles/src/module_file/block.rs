//! Modules' files as one block of bytes that many processes can map: read and unpacked once, in the host's memory once.
//!
//! ```text
//! 0   8  "LYNCMODS"
//! 8   4  bytes of the head
//! 12     the head, JSON: which modules of which kernel, and where in what follows each file is
//!        the files, unpacked
//! ```
//!
//! It is for processes of one build of this program, at one time: there is no version in it, and nobody should keep it.
//!
//! *Trusts*: nothing: a head that leads out of the block is an error, and files are parsed when they are asked for. That the files are
//! those of the folder is for whoever hands the block over to know.

use super::{MAX_FILE_BYTES, ModuleFileError, ModuleFolder, unpacked};
use crate::shared::Shared;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

const MAGIC: &[u8; 8] = b"LYNCMODS";
const PREFIX_BYTES: usize = 12;
const MAX_HEAD_BYTES: usize = 1 << 20;
/// Most bytes of files of one block, packed: a kernel with all of a distribution's modules that its hardware could need has a tenth.
const MAX_PACKED_BYTES: u64 = 256 << 20;

/// Unpacked files by their modules' names.
pub(super) type Block = HashMap<String, Shared>;

#[derive(Serialize, Deserialize)]
struct Head {
    /// What whoever asked for it calls it.
    key: String,
    path: PathBuf,
    release: String,
    /// Name, and where the file begins and ends, behind the head.
    files: Vec<(String, usize, usize)>,
}

/// Files as they are on disk, read and not looked into.
#[derive(Debug)]
pub struct PackedModules {
    path: PathBuf,
    release: String,
    files: Vec<(String, Vec<u8>)>,
}

/// Files unpacked, to be written as one block.
#[derive(Debug)]
pub struct UnpackedModules {
    head: Vec<u8>,
    files: Vec<Vec<u8>>,
}

impl ModuleFolder {
    /// Reads the files of the modules of these names, as far as there are any.
    ///
    /// # Errors
    /// A file that cannot be read, or too many bytes.
    pub fn packed<'n>(&self, names: impl Iterator<Item = &'n String>) -> io::Result<PackedModules> {
        let (mut files, mut left) = (Vec::new(), MAX_PACKED_BYTES);
        for name in names {
            let Some(file) = self.open_file(name) else { continue };
            let mut bytes = Vec::new();
            let most = left.min(MAX_FILE_BYTES).saturating_add(1);
            let got = file?.take(most).read_to_end(&mut bytes)? as u64;
            if got == most {
                return Err(io::Error::other("too many bytes of modules' files"));
            }
            left = left.saturating_sub(got);
            files.push((name.clone(), bytes));
        }
        Ok(PackedModules { path: self.path().to_owned(), release: self.release().to_owned(), files })
    }

    /// The modules in a block that [`UnpackedModules::write`] wrote, which was called `key`.
    pub fn mapped(block: &Shared, key: &str) -> Result<ModuleFolder, ModuleFileError> {
        let broken = || ModuleFileError::Block;
        let (magic, rest) = block.split_first_chunk::<8>().ok_or_else(broken)?;
        let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        let len = u32::from_le_bytes(*len) as usize;
        let head = rest.get(..len).filter(|_| magic == MAGIC && len <= MAX_HEAD_BYTES).ok_or_else(broken)?;
        let head: Head = serde_json::from_slice(head).map_err(|_| broken())?;
        let files = PREFIX_BYTES.checked_add(len).and_then(|start| block.part(start, block.len()));
        let files = files.filter(|_| head.key == key).ok_or_else(broken)?;
        let part = |(name, start, end)| Some((name, files.part(start, end)?));
        let all = head.files.into_iter().map(part).collect::<Option<Block>>().ok_or_else(broken)?;
        Ok(ModuleFolder::of_block(head.path, head.release, all))
    }
}

impl PackedModules {
    /// Unpacks them. One that cannot be stays as it is: who asks for it learns why.
    pub fn unpack(self, key: &str) -> UnpackedModules {
        let (mut places, mut files, mut start) = (Vec::new(), Vec::new(), 0usize);
        for (name, packed) in self.files {
            let bytes = unpacked(&packed).map_or_else(|_| packed.clone(), |bytes| bytes.into_owned());
            let end = start.saturating_add(bytes.len());
            places.push((name, start, end));
            files.push(bytes);
            start = end;
        }
        let head = Head { key: key.to_owned(), path: self.path, release: self.release, files: places };
        // Texts and numbers: nothing that JSON has no form for.
        UnpackedModules { head: serde_json::to_vec(&head).unwrap_or_default(), files }
    }
}

impl UnpackedModules {
    /// How many bytes [`UnpackedModules::write`] writes.
    pub fn len_bytes(&self) -> u64 {
        let files = self.files.iter().map(|file| file.len() as u64);
        files.fold((PREFIX_BYTES as u64).saturating_add(self.head.len() as u64), u64::saturating_add)
    }

    /// Writes them.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(MAGIC)?;
        out.write_all(&(self.head.len() as u32).to_le_bytes())?;
        out.write_all(&self.head)?;
        self.files.iter().try_for_each(|file| out.write_all(file))
    }
}
