//! The spool: alerts on disk, until every sink has them.
//!
//! *Does*: appends records to segment files, syncs them before anybody sees them, and keeps each until every sink has acknowledged it.
//! *Trusts*: a record's checksum, and that the disk keeps what it said it has. After a crash the torn end is cut off and told;
//! damage in the middle is skipped up to the next whole record and told.
//! *Never*: drops a record that a sink still waits for, but for sinks that the admin gave up for that case, and tells. When it is full, new
//! ones are refused.

mod commit;
mod cursor;
mod expendable;
mod reader;
pub(crate) mod record;
mod segments;
#[cfg(test)]
mod tests;

pub use commit::Ticket;
pub use reader::{Piece, Reader, Wait};
#[cfg(fuzzing)]
pub use record::fuzz;

use commit::{Queue, lock};
use expendable::Expendable;
use segments::{Segments, Writer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// The smallest spool.
pub const MIN_SPOOL_BYTES: u64 = 1 << 20;
const SEGMENT_BYTES: u64 = 8 << 20;
/// Kept free for saying that it is full.
const RESERVE_BYTES: u64 = 256 << 10;

/// Why the spool could not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SpoolError {
    /// A file or folder of the spool.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// Another process has it.
    #[error("{} is used by another process", .0.display())]
    InUse(PathBuf),
    /// Nothing fits in any more.
    #[error(
        "the spool has reached its {limit_bytes} bytes: a sink does not take its alerts, or `max_bytes` is too small"
    )]
    Full {
        /// How large it may be.
        limit_bytes: u64,
    },
    /// A record is too long.
    #[error("a record is longer than {limit_bytes} bytes")]
    TooLong {
        /// How long it may be.
        limit_bytes: usize,
    },
}

impl SpoolError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
        let path = path.to_owned();
        move |source| SpoolError::Io { doing, path, source: Arc::new(source) }
    }
}

/// Records that are lost.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Damage {
    /// In which file.
    pub file: PathBuf,
    /// From where on.
    pub offset: u64,
    /// How many bytes.
    pub len_bytes: u64,
    /// It was the end of the last file, where a crash had interrupted writing, and is cut off.
    pub torn: bool,
}

/// How much a spool holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Records that were appended since it was opened.
    pub appended: u64,
    /// Sequence of the last record on disk.
    pub last: u64,
}

/// What writer and readers share.
struct Shared {
    folder: PathBuf,
    limit_bytes: u64,
    reserve_bytes: u64,
    segment_bytes: u64,
    queue: Mutex<Queue>,
    written: Condvar,
    writer: Mutex<Writer>,
    tail: Mutex<Tail>,
    grown: Condvar,
    cursors: Mutex<BTreeMap<String, u64>>,
    expendable: Mutex<Expendable>,
    /// Held as long as the spool is open.
    _lock: File,
}

/// What is on disk.
struct Tail {
    segments: Segments,
    active: u64,
    last: u64,
    records: u64,
    stopped: bool,
}

/// Alerts on disk.
#[derive(Clone)]
pub struct Spool(Arc<Shared>);

impl Spool {
    /// Opens the spool in `folder`, or begins one. The second part is what a crash has torn.
    pub fn open(folder: &Path, limit_bytes: u64) -> Result<(Spool, Option<Damage>), SpoolError> {
        fs::create_dir_all(folder).map_err(SpoolError::io("create", folder))?;
        let lock = take_lock(folder)?;
        let cursors = cursor::load(folder)?;
        let mut segments = segments::list(folder)?;
        let (writer, mut next, torn) = match segments.last_key_value() {
            None => (None, 0, None),
            Some((&first, _)) => {
                let (writer, ending) = segments::recover(folder, first)?;
                (Some(writer), ending.next, ending.torn)
            }
        };
        next = next.max(cursors.values().max().map_or(0, |last| last + 1));
        if next == 0 {
            next = first_sequence();
        }
        let writer = writer.map_or_else(|| Writer::create(folder, next), Ok)?;
        segments.insert(writer.first, writer.end);
        let limit_bytes = limit_bytes.max(MIN_SPOOL_BYTES);
        let shared = Shared {
            folder: folder.to_owned(),
            limit_bytes,
            reserve_bytes: RESERVE_BYTES.min(limit_bytes / 4),
            segment_bytes: SEGMENT_BYTES.min(limit_bytes / 8),
            queue: Mutex::new(Queue::new(next)),
            written: Condvar::new(),
            tail: Mutex::new(Tail {
                segments,
                active: writer.first,
                last: next - 1,
                records: 0,
                stopped: false,
            }),
            writer: Mutex::new(writer),
            grown: Condvar::new(),
            cursors: Mutex::new(cursors),
            expendable: Mutex::default(),
            _lock: lock,
        };
        Ok((Spool(Arc::new(shared)), torn))
    }
    /// Numbers `payloads`, in this order, to be on disk when [`Spool::wait`] returns.
    pub fn enqueue(&self, payloads: &[Vec<u8>]) -> Result<Ticket, SpoolError> {
        self.0.enqueue(payloads, false)
    }
    /// The same, into what is kept free for saying that the spool is full.
    pub fn enqueue_reserved(&self, payloads: &[Vec<u8>]) -> Result<Ticket, SpoolError> {
        self.0.enqueue(payloads, true)
    }
    /// Returns when what the ticket is for is on disk.
    pub fn wait(&self, ticket: Ticket) -> Result<(), SpoolError> {
        self.0.wait(ticket)
    }
    /// Appends and waits.
    pub fn append(&self, payloads: &[Vec<u8>]) -> Result<(), SpoolError> {
        self.wait(self.enqueue(payloads)?)
    }
    /// Reads for `sink` from where it was. One that is new begins with the oldest record that is there.
    pub fn reader(&self, sink: &str) -> Reader {
        let from = *lock(&self.0.cursors).entry(sink.to_owned()).or_insert(0);
        Reader::new(self.0.clone(), from)
    }
    /// `sink` has everything up to `sequence`. What every sink has is removed, even where the cursor cannot be written: the disk may be full.
    pub fn acknowledge(&self, sink: &str, sequence: u64) -> Result<(), SpoolError> {
        {
            // A worker that is being replaced may come late with less.
            let mut cursors = lock(&self.0.cursors);
            let Some(cursor) = cursors.get_mut(sink).filter(|cursor| **cursor < sequence) else {
                return Ok(());
            };
            *cursor = sequence;
        }
        let stored = cursor::store(&self.0.folder, sink, sequence);
        self.tidy()?;
        stored
    }
    /// Removes what every sink has. Where that is everything, the last segment too, if it is large: nothing else would ever make room for
    /// what comes next.
    pub fn tidy(&self) -> Result<(), SpoolError> {
        self.0.rotate()?;
        self.0.reclaim()
    }
    /// How many records `sink` has not acknowledged, at most: sequences have gaps.
    pub fn waiting(&self, sink: &str) -> u64 {
        let acknowledged = lock(&self.0.cursors).get(sink).copied().unwrap_or(0);
        let tail = lock(&self.0.tail);
        let removed = tail.segments.keys().next().map_or(0, |first| first.saturating_sub(1));
        tail.last.saturating_sub(acknowledged.max(removed))
    }
    /// Only these sinks are waited for from now on.
    pub fn keep_sinks(&self, sinks: &[&str]) -> Result<(), SpoolError> {
        let mut cursors = lock(&self.0.cursors);
        let gone: Vec<String> =
            cursors.keys().filter(|sink| !sinks.contains(&sink.as_str())).cloned().collect();
        for sink in gone {
            cursor::remove(&self.0.folder, &sink)?;
            cursors.remove(&sink);
        }
        sinks.iter().for_each(|sink| {
            cursors.entry((*sink).to_owned()).or_insert(0);
        });
        drop(cursors);
        self.0.reclaim()
    }
    /// How much it holds.
    pub fn usage(&self) -> Usage {
        let tail = lock(&self.0.tail);
        Usage { bytes: tail.segments.values().sum(), appended: tail.records, last: tail.last }
    }
    /// Whether at least a quarter of it is free.
    pub fn has_room(&self) -> bool {
        self.0.used_bytes() < self.0.limit_bytes / 4 * 3
    }
    /// Wakes readers that wait.
    pub fn wake(&self) {
        self.0.grown.notify_all();
    }
    /// Readers come to an end when they have read everything.
    pub fn stop(&self) {
        lock(&self.0.tail).stopped = true;
        self.wake();
    }
}

impl Shared {
    fn used_bytes(&self) -> u64 {
        lock(&self.tail).segments.values().sum()
    }
    /// Begins a segment, if the last one is large and every sink has all of it.
    fn rotate(&self) -> Result<(), SpoolError> {
        let everywhere = lock(&self.cursors).values().min().copied().unwrap_or(0);
        let mut writer = lock(&self.writer);
        let mut tail = lock(&self.tail);
        if everywhere >= tail.last && writer.end >= self.segment_bytes {
            *writer = Writer::create(&self.folder, tail.last + 1)?;
            tail.active = writer.first;
            tail.segments.insert(writer.first, 0);
        }
        Ok(())
    }
    /// Removes segments that every sink has. The last one stays: its name keeps the sequence.
    fn reclaim(&self) -> Result<(), SpoolError> {
        let everywhere = lock(&self.cursors).values().min().copied().unwrap_or(0);
        let mut tail = lock(&self.tail);
        while let Some((&first, _)) = tail.segments.first_key_value() {
            let next = tail.segments.keys().nth(1).copied();
            let delivered = everywhere >= tail.last || next.is_some_and(|next| next <= everywhere + 1);
            if first == tail.active || !delivered {
                break;
            }
            let path = segments::path(&self.folder, first);
            fs::remove_file(&path).map_err(SpoolError::io("remove", &path))?;
            tail.segments.remove(&first);
        }
        Ok(())
    }
}

fn take_lock(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join("lock");
    let file =
        File::options().create(true).append(true).open(&path).map_err(SpoolError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(SpoolError::InUse(folder.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(SpoolError::io("lock", &path)(error)),
    }
}

/// Where a new spool begins to count: the time in microseconds. A spool that was removed and made again so counts on, not from one, and a
/// number stays exact in a JavaScript reader (below 2⁵³ until the year 2255).
fn first_sequence() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64).max(1)
}
