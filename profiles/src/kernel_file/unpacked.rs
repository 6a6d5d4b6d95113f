//! A kernel's image as one block of bytes that many processes can map: what takes seconds and a hundred megabytes to read out of a
//! `vmlinuz` is read once, and is in the host's memory once.
//!
//! It is a [block](crate::block): symbols, bytes as linked, relocations, places of rewriting behind a head that says what the kernel is.
//!
//! *Trusts*: nothing: tables are looked up inside the block. That it is the image of the file that it is said to be is for whoever hands
//! it over to know.

use super::PatchSites;
use super::image::{KernelImage, Section};
use super::{KernelFileError, image::Relocation};
use crate::block::{self, Block, Magic, Parts, Place};
use crate::shared::{Shared, Table};
use crate::{BuildId, Identity, Symbols};
use serde::{Deserialize, Serialize};

const MAGIC: &Magic = b"LYNCKERN";

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

impl KernelImage {
    /// For [`KernelImage::mapped`], with the [digest](super::digest) of the file that it was in.
    pub fn unpacked(&self, digest: &str) -> Block<'_> {
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
            pieces: self.pieces.iter().map(|(at, bytes)| (*at, parts.add(&**bytes))).collect(),
            relocations: self.relocations.as_ref().map(|all| parts.add(all.bytes())),
            sites: parts.add(self.patch_sites().bytes()),
        };
        parts.behind(MAGIC, &head)
    }

    /// The image in a block that [`KernelImage::unpacked`] made, of the file with this digest.
    pub fn mapped(block: &Shared, digest: &str) -> Result<KernelImage, KernelFileError> {
        let broken = || KernelFileError::Unpacked;
        let (head, parts): (Head, Shared) = block::read(block, MAGIC).ok_or_else(broken)?;
        if head.digest != digest {
            return Err(broken());
        }
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
