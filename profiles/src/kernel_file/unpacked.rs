//! A kernel's image as one block of bytes that many processes can map: what takes seconds and a hundred megabytes to read out of a
//! `vmlinuz` is read once, and is in the host's memory once.
//!
//! ```text
//! 0   8  "LYNCKERN"
//! 8   4  bytes of the head
//! 12     the head, JSON: what the kernel is, and where in what follows its parts are
//!        symbols, bytes as linked, relocations, places of rewriting
//! ```
//!
//! It is for processes of one build of this program, at one time: there is no version in it, and nobody should keep it.
//!
//! *Trusts*: nothing: a head that leads out of the block is an error, and tables are looked up inside it. That it is the image of the file
//! that it is said to be is for whoever hands it over to know.

use super::PatchSites;
use super::image::{KernelImage, Section};
use super::{KernelFileError, image::Relocation};
use crate::shared::{Shared, Table};
use crate::{BuildId, Identity, Symbols};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

const MAGIC: &[u8; 8] = b"LYNCKERN";
const PREFIX_BYTES: usize = 12;
/// A kernel has some hundred sections.
const MAX_HEAD_BYTES: usize = 1 << 20;

/// Where a part begins and ends, behind the head.
type Place = (usize, usize);

#[derive(Serialize, Deserialize)]
struct Head {
    /// Of the file that it was in.
    digest: String,
    build_id: Option<[u8; 20]>,
    banner: String,
    release: String,
    sections: Vec<(String, u64, u64)>,
    /// Names, entries, order by name.
    symbols: [Place; 3],
    /// Link-time address, and bytes.
    pieces: Vec<(u64, Place)>,
    relocations: Option<Place>,
    sites: Place,
}

/// A kernel's image, to be written as one block.
pub struct Unpacked<'a> {
    head: Vec<u8>,
    parts: Vec<&'a [u8]>,
}

impl Unpacked<'_> {
    /// How many bytes [`Unpacked::write`] writes.
    pub fn len_bytes(&self) -> u64 {
        let parts = self.parts.iter().map(|part| part.len() as u64);
        parts.fold((PREFIX_BYTES as u64).saturating_add(self.head.len() as u64), u64::saturating_add)
    }

    /// Writes it.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(MAGIC)?;
        out.write_all(&(self.head.len() as u32).to_le_bytes())?;
        out.write_all(&self.head)?;
        self.parts.iter().try_for_each(|part| out.write_all(part))
    }
}

/// The parts as they follow each other.
#[derive(Default)]
struct Parts<'a> {
    all: Vec<&'a [u8]>,
    end: usize,
}

impl<'a> Parts<'a> {
    fn add(&mut self, part: &'a [u8]) -> Place {
        let start = self.end;
        self.end = start.saturating_add(part.len());
        self.all.push(part);
        (start, self.end)
    }
}

impl KernelImage {
    /// For [`KernelImage::mapped`], with the [digest](super::digest) of the file that it was in.
    pub fn unpacked(&self, digest: &str) -> Unpacked<'_> {
        let mut parts = Parts::default();
        let symbols = &self.symbols;
        let head = Head {
            digest: digest.to_owned(),
            build_id: self.identity.build_id.map(|id| id.0),
            banner: self.identity.banner.clone(),
            release: self.identity.release.clone(),
            sections: self.sections().iter().map(|of| (of.name.clone(), of.start, of.end)).collect(),
            symbols: [&*symbols.names, symbols.entries.bytes(), symbols.by_name.bytes()]
                .map(|part| parts.add(part)),
            pieces: self.pieces.iter().map(|(at, bytes)| (*at, parts.add(bytes))).collect(),
            relocations: self.relocations.as_ref().map(|all| parts.add(all.bytes())),
            sites: parts.add(self.patch_sites().bytes()),
        };
        // Texts and numbers: nothing that JSON has no form for.
        Unpacked { head: serde_json::to_vec(&head).unwrap_or_default(), parts: parts.all }
    }

    /// The image in a block that [`Unpacked::write`] wrote, of the file with this digest.
    pub fn mapped(block: &Shared, digest: &str) -> Result<KernelImage, KernelFileError> {
        let broken = || KernelFileError::Unpacked;
        let (magic, rest) = block.split_first_chunk::<8>().ok_or_else(broken)?;
        let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        let len = u32::from_le_bytes(*len) as usize;
        let head = rest.get(..len).filter(|_| magic == MAGIC && len <= MAX_HEAD_BYTES).ok_or_else(broken)?;
        let head: Head = serde_json::from_slice(head).map_err(|_| broken())?;
        if head.digest != digest {
            return Err(broken());
        }
        let parts = PREFIX_BYTES.checked_add(len).and_then(|start| block.part(start, block.len()));
        let parts = parts.ok_or_else(broken)?;
        let part = |place: &Place| parts.part(place.0, place.1).ok_or_else(broken);
        let [names, entries, by_name] = &head.symbols;
        let symbols = Symbols {
            names: part(names)?,
            entries: Table::new(part(entries)?),
            by_name: Table::new(part(by_name)?),
        };
        let pieces = head.pieces.iter().map(|(at, place)| Ok((*at, part(place)?)));
        let pieces = pieces.collect::<Result<Vec<_>, KernelFileError>>()?;
        let relocations = head.relocations.as_ref().map(part).transpose()?;
        let relocations = relocations.map(Table::<Relocation, 5>::new);
        let sites = PatchSites::new(part(&head.sites)?);
        let sections = head.sections.into_iter().map(|(name, start, end)| Section { name, start, end });
        let build_id = head.build_id.map(BuildId);
        let identity = Identity { build_id, banner: head.banner, release: head.release };
        let unknown = Vec::new();
        let sections = sections.collect();
        Ok(KernelImage {
            identity,
            symbols,
            sections,
            pieces,
            relocations,
            unknown,
            patch_sites: sites.into(),
        })
    }
}
