//! Blocks of bytes that many processes map: a head that says what is where, and parts behind it.
//!
//! ```text
//! 0   8  what kind of block it is
//! 8   4  bytes of the head, little endian
//! 12     the head, JSON
//!        the parts
//! ```
//!
//! They are for processes of one build of this program, at one time: there is no version in them, and nobody should keep one.
//!
//! *Trusts*: nothing: a head that leads out of the block is no head. That a block holds what it is said to hold is for whoever hands it
//! over to know.

use crate::shared::Shared;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::io::{self, Write};

/// What kind of block it is.
pub(crate) type Magic = [u8; 8];

/// Where a part begins and ends, behind the head.
pub(crate) type Place = (usize, usize);

const PREFIX_BYTES: usize = 12;
const MAX_HEAD_BYTES: usize = 1 << 20;

/// A block that is to be written.
#[derive(Debug)]
pub struct Block<'a> {
    magic: Magic,
    head: Vec<u8>,
    parts: Vec<Cow<'a, [u8]>>,
}

impl Block<'_> {
    /// How many bytes [`Block::write`] writes.
    pub fn len_bytes(&self) -> u64 {
        let parts = self.parts.iter().map(|part| part.len() as u64);
        parts.fold((PREFIX_BYTES as u64).saturating_add(self.head.len() as u64), u64::saturating_add)
    }

    /// Writes it.
    ///
    /// # Errors
    /// What `out` refuses.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.magic)?;
        out.write_all(&(self.head.len() as u32).to_le_bytes())?;
        out.write_all(&self.head)?;
        self.parts.iter().try_for_each(|part| out.write_all(part))
    }
}

/// The parts as they follow each other.
#[derive(Default)]
pub(crate) struct Parts<'a> {
    all: Vec<Cow<'a, [u8]>>,
    end: usize,
}

impl<'a> Parts<'a> {
    /// Where it comes to lie.
    pub(crate) fn add(&mut self, part: impl Into<Cow<'a, [u8]>>) -> Place {
        let (part, start) = (part.into(), self.end);
        self.end = start.saturating_add(part.len());
        self.all.push(part);
        (start, self.end)
    }

    /// With a head, which is made of texts and numbers: nothing that JSON has no form for.
    pub(crate) fn behind(self, magic: &Magic, head: &impl Serialize) -> Block<'a> {
        Block { magic: *magic, head: serde_json::to_vec(head).unwrap_or_default(), parts: self.all }
    }
}

/// The head of a block, and what is behind it. None where it is no block of that kind.
pub(crate) fn read<H: DeserializeOwned>(block: &Shared, magic: &Magic) -> Option<(H, Shared)> {
    let (found, rest) = block.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    let head = rest.get(..len).filter(|_| found == magic && len <= MAX_HEAD_BYTES)?;
    let head = serde_json::from_slice(head).ok()?;
    Some((head, block.part(PREFIX_BYTES.checked_add(len)?, block.len())?))
}
