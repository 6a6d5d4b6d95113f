//! Writes a guest's RAM as a dump that other tools read: an ELF core, LiME or AVML.
//!
//! Sources: ELF gABI (64-bit core, `PN_XNUM`); LiME `src/lime.h`. Zero pages become holes of the file, so
//! that a dump takes no more room than the guest has content; AVML compresses it. A page that cannot be read is left out of the
//! dump's runs and reported, never zeros.
//! *Trusts*: nothing about the guest, which may move meanwhile: pause it, or take a blurred picture
//! ([`WriteReport::stability`]).
//! *Never*: touches an existing file unless told to. Until a dump is complete it starts with a broken header
//! that no tool takes.

mod avml;
mod sink;

use self::sink::{Sink, Written};
use super::segments::MAX_SEGMENTS;
use crate::addr::PAGE_BYTES;
use crate::memory::{Stability, ram_bytes};
use crate::{Gpa, GpaRange, GuestMemory, ReadError};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes read at once.
const CHUNK_BYTES: u64 = 1 << 20;
/// After so many pages in a row that the host refuses the guest is taken to be gone.
const MAX_LOST_PAGES: u32 = 256;

/// What to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteFormat {
    /// An ELF core of physical memory, with the kernel's VMCOREINFO as a note: drgn, Volatility, readelf.
    Elf,
    /// LiME version 1: Volatility, Rekall and most forensic tools.
    Lime,
    /// AVML's compressed form of LiME: Volatility 3, `avml-convert`. Less to keep and to carry, no holes.
    Avml,
}

/// What happens to a file that is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// It stays, and the dump is refused.
    Keep,
    /// It is replaced once the new dump is complete.
    Replace,
}

/// Memory that is not in the dump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// Which.
    pub range: GpaRange,
    /// What its first page's reading answered.
    pub why: ReadError,
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteReport {
    /// Memory in the dump, in bytes: zeros included, unreadable pages not.
    pub memory_bytes: u64,
    /// How much of it was zero pages, which are holes in the file, or compressed to next to nothing.
    pub zero_bytes: u64,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// What could not be read and is missing. Empty in a complete dump.
    pub unreadable: Vec<Unreadable>,
    /// [`Stability::Moving`] if the guest may have run meanwhile.
    pub stability: Stability,
}

/// Why no dump was written.
#[derive(Debug, thiserror::Error)]
pub enum DumpWriteError {
    /// The output exists; choose another name, or say that it may be replaced.
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),
    /// The host refused to write (disk full, no permission).
    #[error("{}: {source}", path.display())]
    File {
        /// The output.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// The host refused to write.
    #[error("cannot write the dump: {0}")]
    Io(#[from] io::Error),
    /// The guest is gone, or the look was ended.
    #[error("cannot read the guest any more: {0}")]
    Memory(ReadError),
    /// Readable and unreadable memory alternate too often to be listed.
    #[error("memory in more than {MAX_SEGMENTS} pieces")]
    TooManyPieces,
}

/// Writes a dump to a new file, readable by its owner only. `progress` hears bytes done and bytes in all,
/// every MiB. On an error no file is left behind.
pub fn write_file(
    memory: &dyn GuestMemory,
    path: &Path,
    format: WriteFormat,
    existing: Existing,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<WriteReport, DumpWriteError> {
    let target = match existing {
        Existing::Keep => path.to_owned(),
        Existing::Replace => partial_name(path),
    };
    let at = |source| DumpWriteError::File { path: target.clone(), source };
    let mut file = create(&target)?;
    let written = write(memory, &mut file, format, progress).map_err(|e| match e {
        DumpWriteError::Io(source) => at(source),
        other => other,
    });
    let done = written.and_then(|report| {
        file.sync_all().map_err(at)?;
        if target != path {
            std::fs::rename(&target, path).map_err(at)?;
        }
        Ok(report)
    });
    if done.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&target);
    }
    done
}

fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    PathBuf::from(name)
}

fn create(path: &Path) -> Result<File, DumpWriteError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => DumpWriteError::Exists(path.to_owned()),
        _ => DumpWriteError::File { path: path.to_owned(), source },
    })
}

/// Writes a dump into `out`, from its start. What is seeked over must read as zeros: give an empty file or
/// buffer.
pub fn write<W: Write + Seek>(
    memory: &dyn GuestMemory,
    out: &mut W,
    format: WriteFormat,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<WriteReport, DumpWriteError> {
    let mut sink = Sink::new(out, format);
    let (total, mut done) = (ram_bytes(memory), 0_u64);
    let mut reader = Reader { memory, unreadable: Vec::new(), lost: 0 };
    sink.start()?;
    let mut chunk = vec![0; usize::try_from(CHUNK_BYTES).unwrap_or(0)];
    for range in memory.ram() {
        for piece in pieces(*range, CHUNK_BYTES) {
            reader.copy(piece, &mut chunk, &mut sink)?;
            done = done.saturating_add(piece.len_bytes);
            progress(done, total);
        }
        sink.close();
    }
    let Written { memory_bytes, zero_bytes, file_bytes } = sink.finish()?;
    let unreadable = reader.unreadable;
    Ok(WriteReport { memory_bytes, zero_bytes, file_bytes, unreadable, stability: memory.stability() })
}

/// Cuts a range at every multiple of `step`.
fn pieces(range: GpaRange, step: u64) -> impl Iterator<Item = GpaRange> {
    let (mut here, end) = (range.start.0, range.end().0);
    std::iter::from_fn(move || {
        let to_edge = step.saturating_sub(here.checked_rem(step)?);
        let len_bytes = end.checked_sub(here).filter(|left| *left > 0)?.min(to_edge);
        let piece = GpaRange { start: Gpa(here), len_bytes };
        here = here.checked_add(len_bytes)?;
        Some(piece)
    })
}

struct Reader<'a> {
    memory: &'a dyn GuestMemory,
    unreadable: Vec<Unreadable>,
    /// Pages in a row that the host refused.
    lost: u32,
}

impl Reader<'_> {
    /// Copies a piece as one, or page by page where it has pages that cannot be read.
    fn copy<W: Write + Seek>(
        &mut self,
        piece: GpaRange,
        chunk: &mut [u8],
        sink: &mut Sink<'_, W>,
    ) -> Result<(), DumpWriteError> {
        let Some(buf) = usize::try_from(piece.len_bytes).ok().and_then(|len| chunk.get_mut(..len)) else {
            return Ok(());
        };
        if self.memory.read(piece.start, buf).is_ok() {
            self.lost = 0;
            return sink.store(piece.start, buf);
        }
        for page in pieces(piece, PAGE_BYTES) {
            let Some(buf) = usize::try_from(page.len_bytes).ok().and_then(|len| chunk.get_mut(..len)) else {
                continue;
            };
            match self.memory.read(page.start, buf) {
                Ok(()) => {
                    self.lost = 0;
                    sink.store(page.start, buf)?;
                }
                Err(why) => {
                    sink.close();
                    self.missing(page, why)?;
                }
            }
        }
        Ok(())
    }

    fn missing(&mut self, page: GpaRange, why: ReadError) -> Result<(), DumpWriteError> {
        let refused = matches!(why, ReadError::Lost { .. });
        self.lost = if refused { self.lost.saturating_add(1) } else { 0 };
        if matches!(why, ReadError::Exhausted { .. }) || self.lost >= MAX_LOST_PAGES {
            return Err(DumpWriteError::Memory(why));
        }
        match self.unreadable.last_mut() {
            Some(last) if last.range.end() == page.start && same_kind(&last.why, &why) => {
                last.range.len_bytes = last.range.len_bytes.saturating_add(page.len_bytes);
                Ok(())
            }
            _ => {
                self.unreadable.push(Unreadable { range: page, why });
                if self.unreadable.len() > MAX_SEGMENTS { Err(DumpWriteError::TooManyPieces) } else { Ok(()) }
            }
        }
    }
}

fn same_kind(a: &ReadError, b: &ReadError) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}
