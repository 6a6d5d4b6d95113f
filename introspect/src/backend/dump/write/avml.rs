//! Memory as AVML's compressed dump: blocks of up to 16 MiB, each with a header, its bytes as a snappy stream, and that stream's length.
//!
//! Source: AVML `src/image.rs`. There is no way to leave zeros out; a run of them takes a twentieth of its length.
//! *Never*: writes the first header's version before everything else is written.
//!
//! Volatility 3 reads no further into a block than the block is long unpacked. A block that snappy makes longer — a small one of noise —
//! it cannot read; so a block that did not shrink goes on into what follows it, as far as its run does.

use super::super::avml::MAGIC;
use super::super::lime::HEADER_BYTES;
use super::DumpWriteError;
use crate::{Gpa, GpaRange};
use std::io::{Seek, SeekFrom, Write};

/// Blocks as AVML makes them. A reader of one block's header keeps so much in memory.
const BLOCK_BYTES: usize = 16 << 20;
/// What a block of noise may grow to.
const MAX_BLOCK_BYTES: usize = 64 << 20;

/// A block that is being collected.
#[derive(Default)]
pub(super) struct Block {
    start: Gpa,
    bytes: Vec<u8>,
    /// At this length it did not shrink: tried again at twice that.
    tried_bytes: usize,
    /// The file's first block, once it is written.
    first: Option<GpaRange>,
}

impl Block {
    /// Adds memory that follows the last, or begins a block.
    pub(super) fn add(&mut self, at: Gpa, bytes: &[u8]) {
        if self.bytes.is_empty() {
            self.start = at;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes the block to `at` and empties it; where the next one goes. A block that may still grow stays where it should.
    pub(super) fn flush(
        &mut self,
        out: &mut (impl Write + Seek),
        at: u64,
        may_grow: bool,
    ) -> Result<u64, DumpWriteError> {
        let len = self.bytes.len();
        if len == 0 || may_grow && len < self.tried_bytes.saturating_mul(2).max(BLOCK_BYTES) {
            return Ok(at);
        }
        let stream = stream(&self.bytes)?;
        if may_grow && stream.len() >= len && len < MAX_BLOCK_BYTES {
            self.tried_bytes = len;
            return Ok(at);
        }
        let range = GpaRange { start: self.start, len_bytes: len as u64 };
        let mut header = header(range);
        if self.first.is_none() {
            self.first = Some(range);
            // The magic alone: of no version that there is, and not to be taken for a raw image.
            header.iter_mut().skip(4).for_each(|byte| *byte = 0);
        }
        out.seek(SeekFrom::Start(at))?;
        for part in [header.as_slice(), &stream, &(stream.len() as u64).to_le_bytes()] {
            out.write_all(part)?;
        }
        self.bytes.clear();
        self.tried_bytes = 0;
        Ok(at.saturating_add(HEADER_BYTES).saturating_add(stream.len() as u64).saturating_add(8))
    }

    /// Makes the file a dump: its first header.
    pub(super) fn finish(&self, out: &mut (impl Write + Seek)) -> Result<(), DumpWriteError> {
        let Some(first) = self.first else { return Ok(()) };
        out.seek(SeekFrom::Start(0))?;
        Ok(out.write_all(&header(first))?)
    }
}

fn header(range: GpaRange) -> Vec<u8> {
    let last = range.end().0.saturating_sub(1);
    let (magic, version) = (MAGIC.to_le_bytes(), 2_u32.to_le_bytes());
    [magic.as_slice(), &version, &range.start.0.to_le_bytes(), &last.to_le_bytes(), &[0; 8]].concat()
}

/// Snappy's framing format: an identifier, then chunks of at most 64 KiB, each with a sum of its bytes.
fn stream(bytes: &[u8]) -> Result<Vec<u8>, DumpWriteError> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::with_capacity(bytes.len() / 4));
    encoder.write_all(bytes)?;
    encoder.into_inner().map_err(|error| std::io::Error::other(error.to_string()).into())
}
