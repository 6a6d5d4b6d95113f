//! Memory dumps: files that hold a guest's RAM as it was.
//!
//! *Does*: detects the format from the file's first bytes (never from its name), and reads guest-physical
//! memory out of it: raw images, LiME and AVML, ELF cores (QEMU, libvirt, `xl dump-core`, makedumpfile `-E`), kdump-compressed
//! files (QEMU, makedumpfile), and any of them in makedumpfile's flattened form. Uncompressed bytes come
//! straight from a mapping of the file. [`write`] writes dumps.
//! *Trusts*: nothing in the file. A table that makes no sense is an error, a part that is missing a warning,
//! and a page that is not there [`ReadError::Absent`], never zeros.
//! *Never*: writes, allocates more than the file's own tables justify (about 150 MiB for the largest),
//! follows a name.
//!
//! ```no_run
//! use lynceus_introspect::{GuestMemory, backend::dump::Dump};
//! let dump = Dump::open("guest.core".as_ref())?;
//! println!("{}, RAM at {:?}", dump.format(), dump.ram());
//! # Ok::<(), lynceus_introspect::backend::dump::DumpError>(())
//! ```
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod avml;
mod cache;
mod decompress;
mod detect;
mod elf;
mod flat;
mod image;
mod kdump;
mod lime;
mod lzo;
mod notes;
mod raw;
mod segments;
pub mod write;
mod xen;

pub use image::DumpError;
pub use raw::RawLayout;

use crate::memory::{STEP_BYTES, Stability};
use crate::processors::Processor;
use crate::{Gfn, Gpa, GpaRange, GuestMemory, ReadError};
use image::Image;
use notes::Notes;
use segments::Segments;
use std::path::Path;
use std::sync::Arc;

/// How a dump stores memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// RAM byte for byte, no header.
    Raw,
    /// LiME version 1.
    Lime,
    /// AVML's compressed form of LiME.
    Avml,
    /// An ELF core of physical memory.
    Elf,
    /// kdump-compressed.
    Kdump,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::Raw => "raw",
            Format::Lime => "LiME",
            Format::Avml => "AVML",
            Format::Elf => "ELF core",
            Format::Kdump => "kdump",
        })
    }
}

/// A dump file that was opened, and of which no byte was read: what is in it is somebody else's.
#[derive(Debug)]
pub struct DumpFile(Image);

impl DumpFile {
    /// Opens it. All rights are needed here and none to [parse](DumpFile::parse) it, so that a worker can lock itself down between.
    pub fn open(path: &Path) -> Result<DumpFile, DumpError> {
        Image::open(path).map(DumpFile)
    }

    /// Finds out what it holds. A raw image starts with [`RawLayout::Identity`].
    pub fn parse(self) -> Result<Dump, DumpError> {
        Dump::parse(self.0)
    }
}

/// An opened dump. Shared freely between threads.
#[derive(Debug)]
pub struct Dump {
    image: Arc<Image>,
    format: Format,
    source: Source,
    ram: Vec<GpaRange>,
    notes: Notes,
    warnings: Vec<String>,
    /// Of a Xen PV guest.
    frames: Option<xen::MachineFrames>,
}

#[derive(Debug)]
enum Source {
    Runs(Segments),
    Kdump(kdump::Kdump),
    Avml(avml::Avml),
}

impl Dump {
    /// Opens a dump of any known format. A raw image starts with [`RawLayout::Identity`].
    pub fn open(path: &Path) -> Result<Dump, DumpError> {
        DumpFile::open(path)?.parse()
    }

    fn parse(image: Image) -> Result<Dump, DumpError> {
        let mut warnings = Vec::new();
        let image = image.unflatten(&mut warnings)?;
        let format = detect::format(&image)?;
        let (mut notes, mut frames) = (Notes::default(), None);
        let (source, ram) = match format {
            Format::Kdump => {
                let (kdump, ram, found) = kdump::open(&image, &mut warnings)?;
                notes = found;
                (Source::Kdump(kdump), ram)
            }
            Format::Avml => {
                let avml = avml::open(&image, &mut warnings)?;
                let ram = avml.ram();
                (Source::Avml(avml), ram)
            }
            Format::Raw | Format::Lime | Format::Elf => {
                let found = match format {
                    Format::Lime => lime::parse(&image, &mut warnings)?,
                    Format::Elf => {
                        let core = elf::parse(&image, &mut warnings)?;
                        (notes, frames) = (core.notes, core.frames);
                        core.segments
                    }
                    _ => RawLayout::Identity.segments(image.len_bytes()),
                };
                let runs = Segments::new(found, &image, &mut warnings);
                let ram = runs.ram();
                (Source::Runs(runs), ram)
            }
        };
        if ram.is_empty() {
            return Err(image.corrupt(0, "the dump holds no memory"));
        }
        Ok(Dump { image: Arc::new(image), format, source, ram, notes, warnings, frames })
    }

    /// How the file stores memory.
    pub fn format(&self) -> Format {
        self.format
    }

    /// What was odd about the file, in words for people: truncated, overlapping, unreadable notes.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The processors' registers, where the dump has them (QEMU's notes). Their writer is the hypervisor, not the
    /// guest.
    pub fn processors(&self) -> &[Processor] {
        &self.notes.processors
    }

    /// The kernel's VMCOREINFO text, where the dump has it. Its writer is the guest.
    pub fn vmcoreinfo(&self) -> Option<&str> {
        self.notes.vmcoreinfo.as_deref()
    }

    /// The layouts to try: of a raw image those of its length, likeliest first; none of other formats, which
    /// say where their memory belongs.
    pub fn raw_layouts(&self) -> Vec<RawLayout> {
        if self.format == Format::Raw { RawLayout::candidates(self.image.len_bytes()) } else { Vec::new() }
    }

    /// The same raw image with its bytes laid out otherwise. `None` of other formats.
    pub fn with_raw_layout(&self, layout: RawLayout) -> Option<Dump> {
        if self.format != Format::Raw {
            return None;
        }
        let mut warnings = self.warnings.clone();
        let runs = Segments::new(layout.segments(self.image.len_bytes()), &self.image, &mut warnings);
        let (image, notes) = (self.image.clone(), Notes::default());
        let (ram, source) = (runs.ram(), Source::Runs(runs));
        Some(Dump { image, format: Format::Raw, source, ram, notes, warnings, frames: None })
    }
}

impl GuestMemory for Dump {
    fn read_once(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        match &self.source {
            Source::Runs(runs) => runs.read(&self.image, at, buf, true),
            _ => self.read(at, buf),
        }
    }

    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        match &self.source {
            Source::Runs(runs) => return runs.read(&self.image, at, buf, false),
            _ if buf.is_empty() => return Ok(()),
            _ => {}
        }
        let len_bytes = buf.len() as u64;
        let after = self.ram.partition_point(|range| range.start <= at);
        let range = after.checked_sub(1).and_then(|index| self.ram.get(index));
        if !range.is_some_and(|range| range.contains(at, len_bytes)) {
            return Err(ReadError::NotRam { at, len_bytes });
        }
        match &self.source {
            Source::Runs(runs) => runs.read(&self.image, at, buf, false),
            Source::Kdump(kdump) => kdump.read(&self.image, at, buf),
            Source::Avml(avml) => avml.read(&self.image, at, buf),
        }
    }

    fn step_bytes(&self) -> usize {
        STEP_BYTES
    }

    fn ram(&self) -> &[GpaRange] {
        &self.ram
    }

    fn frame_of_entry(&self, entry_frame: u64) -> Option<Gfn> {
        match &self.frames {
            Some(frames) => frames.guest_frame(entry_frame),
            None => Some(Gfn(entry_frame)),
        }
    }

    fn stability(&self) -> Stability {
        Stability::Frozen
    }
}
