//! Reads the spool for one sink.
//!
//! *Does*: gives records in order, from the sink's cursor to the end of what is on disk, and says where some were damaged.
//! *Never*: reads what is not synced yet, or more than a window of a file at a time.

use super::commit::lock;
use super::{Damage, Shared, SpoolError, record, segments};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Read at a time; longer than the longest record.
const WINDOW_BYTES: u64 = 256 << 10;

/// Some of the spool.
#[derive(Default, Debug)]
pub struct Piece {
    /// Records with their sequences.
    pub records: Vec<(u64, Vec<u8>)>,
    /// What was lost before or between them.
    pub damage: Vec<Damage>,
}

/// What waiting for more led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// There may be more.
    More,
    /// There is nothing more, and there will be none.
    Stopped,
}

/// Where a sink reads.
pub struct Reader {
    shared: Arc<Shared>,
    /// Sequences up to this one were read.
    read: u64,
    /// The last sequence on disk when there was nothing more to read.
    seen: u64,
    segment: Option<(u64, File)>,
    offset: u64,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, read: u64) -> Reader {
        Reader { shared, read, seen: 0, segment: None, offset: 0 }
    }
    /// Reads again from what comes after `sequence`.
    pub fn rewind(&mut self, sequence: u64) {
        (self.read, self.seen, self.segment, self.offset) = (sequence, 0, None, 0);
    }
    /// The next records, at most `max`. Empty when there are none yet.
    pub fn next(&mut self, max: usize) -> Result<Piece, SpoolError> {
        let mut piece = Piece::default();
        while piece.records.is_empty() && piece.damage.is_empty() {
            if !self.enter()? {
                break;
            }
            self.window(max, &mut piece)?;
        }
        Ok(piece)
    }
    /// Waits until there may be more, the spool is stopped, or the time is over.
    pub fn wait(&self, at_most: Duration) -> Wait {
        let tail = lock(&self.shared.tail);
        if tail.last > self.seen {
            return Wait::More;
        }
        if tail.stopped {
            return Wait::Stopped;
        }
        drop(self.shared.grown.wait_timeout(tail, at_most).unwrap_or_else(PoisonError::into_inner));
        Wait::More
    }
    /// Opens the segment to read in. False when all that is on disk was read.
    fn enter(&mut self) -> Result<bool, SpoolError> {
        loop {
            let tail = lock(&self.shared.tail);
            let current = self.segment.as_ref().map(|(first, _)| *first);
            let next = match current {
                Some(first) if tail.segments.get(&first).is_some_and(|len| self.offset < *len) => {
                    return Ok(true);
                }
                Some(first) => tail.segments.range(first + 1..).next(),
                // The last segment that begins at or before what is wanted, or the first there is.
                None => {
                    tail.segments.range(..=self.read + 1).next_back().or_else(|| tail.segments.iter().next())
                }
            };
            let Some((&first, _)) = next else {
                self.seen = tail.last;
                return Ok(false);
            };
            drop(tail);
            let path = segments::path(&self.shared.folder, first);
            let file = File::open(&path).map_err(SpoolError::io("open", &path))?;
            (self.segment, self.offset) = (Some((first, file)), 0);
        }
    }
    fn window(&mut self, max: usize, piece: &mut Piece) -> Result<(), SpoolError> {
        let Some((first, file)) = &self.segment else { return Ok(()) };
        let len = lock(&self.shared.tail).segments.get(first).copied().unwrap_or(0);
        let wanted = (len - self.offset.min(len)).min(WINDOW_BYTES);
        let path = segments::path(&self.shared.folder, *first);
        let mut window = vec![0; wanted as usize];
        let got = read_at(file, &mut window, self.offset).map_err(SpoolError::io("read", &path))?;
        window.truncate(got);
        let damage = |offset, len_bytes| Damage { file: path.clone(), offset, len_bytes, torn: false };
        // Somebody made the file shorter than what was written to it.
        let cut = (got as u64) < wanted;
        let stretch = record::scan(&window, cut || self.offset + wanted == len);
        let mut consumed = stretch.consumed;
        for (found, end) in stretch.records {
            if found.sequence > self.read {
                if piece.records.len() == max {
                    break;
                }
                piece.records.push((found.sequence, found.payload.to_vec()));
                self.read = found.sequence;
                consumed = end;
            }
        }
        if piece.records.len() < max {
            consumed = stretch.consumed;
        }
        let within = stretch.damage.into_iter().filter(|(_, to)| *to <= consumed);
        piece.damage.extend(within.map(|(from, to)| damage(self.offset + from as u64, (to - from) as u64)));
        if cut {
            piece.damage.push(damage(self.offset + got as u64, len - self.offset - got as u64));
            consumed = (len - self.offset) as usize;
        }
        self.offset += consumed as u64;
        Ok(())
    }
}

/// Reads until the buffer or the file ends.
fn read_at(file: &File, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = buf.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + got as u64) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
