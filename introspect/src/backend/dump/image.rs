//! The dump file as bytes at offsets, and why one is refused.
//!
//! *Does*: copies from a mapping of the file, or by `pread` where it cannot be mapped; undoes the flattened form
//! on the way.
//! *Trusts*: the file system. *Never*: writes, blocks on a FIFO, or reads what was not asked for.

use super::flat::{self, Extent};
use crate::backend::map::{ReadOnlyMap, open_read_only};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Why a file cannot be opened as a memory dump.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The host refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// No kind of dump: a directory, a FIFO, an empty or a text file.
    #[error("{}: not a memory dump: {why}", path.display())]
    NotADump {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// A dump whose own structure cannot be used.
    #[error("{}: corrupt at offset {offset:#x}: {why}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        why: String,
    },
    /// A sound dump in a form that is not read; the text says how to convert it.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The form, and the way out.
        what: String,
    },
}

/// A dump file, opened for reading.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    map: Option<ReadOnlyMap>,
    path: PathBuf,
    len_bytes: u64,
    /// Of a flattened dump: where its bytes are.
    extents: Option<Vec<Extent>>,
}

impl Image {
    pub(crate) fn open(path: &Path) -> Result<Image, DumpError> {
        let io = |source| DumpError::Io { path: path.to_owned(), source };
        let file = open_read_only(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        let refuse = |why: &str| Err(DumpError::NotADump { path: path.to_owned(), why: why.to_owned() });
        if about.is_dir() {
            return refuse("it is a directory");
        }
        if !about.is_file() {
            return refuse("it is not a regular file");
        }
        if about.len() == 0 {
            return refuse("it is empty");
        }
        let map = ReadOnlyMap::whole(&file).ok();
        Ok(Image { file, map, path: path.to_owned(), len_bytes: about.len(), extents: None })
    }

    /// The dump inside a flattened one; any other image as it is.
    pub(crate) fn unflatten(mut self, warnings: &mut Vec<String>) -> Result<Image, DumpError> {
        let mut magic = [0; flat::MAGIC.len()];
        if self.read_exact(0, &mut magic).is_err() || magic != *flat::MAGIC {
            return Ok(self);
        }
        let extents = flat::parse(&self, warnings)?;
        self.len_bytes = extents.last().map_or(0, Extent::end);
        self.extents = Some(extents);
        Ok(self)
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Fills `buf` from `offset`; an end of file inside it is an error.
    pub(crate) fn read_exact(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(extents) = &self.extents else { return self.read_stored(offset, buf) };
        let (mut here, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let next = extents.get(extents.partition_point(|e| e.end() <= here));
            let Some(extent) = next else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            let gap = extent.start.saturating_sub(here);
            let run = if gap > 0 { gap } else { extent.end().saturating_sub(here) };
            let run = run.min(rest.len() as u64);
            let (part, tail) = rest.split_at_mut(usize::try_from(run).unwrap_or(usize::MAX));
            if gap > 0 {
                part.fill(0);
            } else {
                let inside = here.saturating_sub(extent.start);
                self.read_stored(extent.stored_at.saturating_add(inside), part)?;
            }
            (here, rest) = (here.saturating_add(run), tail);
        }
        Ok(())
    }

    /// The same for bytes that are read once: never through the mapping, which would fault in more than is asked for.
    pub(crate) fn read_exact_once(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.extents {
            None => self.file.read_exact_at(buf, offset),
            Some(_) => self.read_exact(offset, buf),
        }
    }

    /// As [`Image::read_exact`], of the file as it is.
    fn read_stored(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match &self.map {
            Some(map) => {
                map.copy_out(offset, buf).map_err(|e| io::Error::new(io::ErrorKind::UnexpectedEof, e))
            }
            None => self.file.read_exact_at(buf, offset),
        }
    }

    /// `len` bytes at `offset` for a parser. Checked against the file's length before anything is allocated.
    pub(crate) fn bytes(&self, offset: u64, len: u64, what: &str) -> Result<Vec<u8>, DumpError> {
        if offset.checked_add(len).is_none_or(|end| end > self.len_bytes) {
            return Err(self.corrupt(offset, format!("{what}: {len} bytes reach past the end of the file")));
        }
        let size = usize::try_from(len).map_err(|_| self.corrupt(offset, format!("{what}: too large")))?;
        let mut buf = vec![0; size];
        self.read_exact(offset, &mut buf)
            .map_err(|source| DumpError::Io { path: self.path.clone(), source })?;
        Ok(buf)
    }

    pub(crate) fn corrupt(&self, offset: u64, why: impl Into<String>) -> DumpError {
        DumpError::Corrupt { path: self.path.clone(), offset, why: why.into() }
    }

    pub(crate) fn not_a_dump(&self, why: impl Into<String>) -> DumpError {
        DumpError::NotADump { path: self.path.clone(), why: why.into() }
    }

    pub(crate) fn unsupported(&self, what: impl Into<String>) -> DumpError {
        DumpError::Unsupported { path: self.path.clone(), what: what.into() }
    }
}

/// The little-endian `u16` at `offset`, if it is there.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The little-endian `u32` at `offset`, if it is there.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The little-endian `u64` at `offset`, if it is there.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}
