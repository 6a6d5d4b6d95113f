//! Modules' files as one block of bytes that many processes can map: read and unpacked once, in the host's memory once.
//!
//! It is a [block](crate::block): the files, unpacked, behind a head that says which modules of which kernel they are.
//!
//! *Trusts*: nothing: files are parsed when they are asked for. That they are those of the folder is for whoever hands the block over to
//! know.

use super::{MAX_FILE_BYTES, ModuleFileError, ModuleFolder, unpacked};
use crate::block::{self, Magic, Parts, Place};
use crate::shared::Shared;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;

const MAGIC: &Magic = b"LYNCMODS";
/// Most bytes of files of one block, packed: a kernel with all of a distribution's modules that its hardware could need has a tenth.
const MAX_PACKED_BYTES: u64 = 256 << 20;

/// Unpacked files by their modules' names.
pub(super) type Files = HashMap<String, Shared>;

#[derive(Serialize, Deserialize)]
struct Head {
    /// What whoever asked for it calls it.
    key: String,
    path: PathBuf,
    release: String,
    /// Name, and where the file is.
    files: Vec<(String, Place)>,
}

/// Files as they are on disk, read and not looked into.
#[derive(Debug)]
pub struct PackedModules {
    path: PathBuf,
    release: String,
    files: Vec<(String, Vec<u8>)>,
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

    /// The modules in a block that [`PackedModules::unpack`] made, which was called `key`.
    pub fn mapped(block: &Shared, key: &str) -> Result<ModuleFolder, ModuleFileError> {
        let broken = || ModuleFileError::Block;
        let (head, files): (Head, Shared) =
            block::read(block, MAGIC).filter(|(head, _): &(Head, _)| head.key == key).ok_or_else(broken)?;
        let part = |(name, (start, end))| Some((name, files.part(start, end)?));
        let all = head.files.into_iter().map(part).collect::<Option<Files>>().ok_or_else(broken)?;
        Ok(ModuleFolder::of_block(head.path, head.release, all))
    }
}

impl PackedModules {
    /// Unpacks them. One that cannot be stays as it is: who asks for it learns why.
    pub fn unpack(self, key: &str) -> crate::Block<'static> {
        let (mut files, mut parts) = (Vec::new(), Parts::default());
        for (name, packed) in self.files {
            let bytes = unpacked(&packed).map_or_else(|_| packed.clone(), |bytes| bytes.into_owned());
            files.push((name, parts.add(bytes)));
        }
        parts.behind(MAGIC, &Head { key: key.to_owned(), path: self.path, release: self.release, files })
    }
}
