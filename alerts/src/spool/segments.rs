//! The segment files of a spool, and the end of the last one, where records are added.
//!
//! *Does*: names segments by their first sequence, finds the end after a crash, adds bytes and waits until the disk has them.
//! *Never*: leaves half a record behind what is reported as written, or a file whose state is unknown in use.

use super::record::{self, HEADER_BYTES};
use super::{Damage, SpoolError};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Segments by their first sequence, with their length in bytes.
pub(super) type Segments = BTreeMap<u64, u64>;

/// The path of the segment that begins with `first`.
pub(super) fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("segment-{first:020}"))
}

/// The segments in `folder`.
pub(super) fn list(folder: &Path) -> Result<Segments, SpoolError> {
    let mut segments = Segments::new();
    for entry in fs::read_dir(folder).map_err(SpoolError::io("list", folder))? {
        let entry = entry.map_err(SpoolError::io("list", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(first) = name.strip_prefix("segment-").and_then(|first| first.parse().ok()) {
            let meta = entry.metadata().map_err(SpoolError::io("look at", &entry.path()))?;
            segments.insert(first, meta.len());
        }
    }
    Ok(segments)
}

/// What was found at the end of the last segment.
pub(super) struct Ending {
    /// The sequence that is free.
    pub(super) next: u64,
    /// What was cut off.
    pub(super) torn: Option<Damage>,
}

/// Finds the end of the segment that begins with `first`, and cuts off what is behind the last whole record.
pub(super) fn recover(folder: &Path, first: u64) -> Result<(Writer, Ending), SpoolError> {
    let path = path(folder, first);
    let io = |doing| SpoolError::io(doing, &path);
    let bytes = fs::read(&path).map_err(io("read"))?;
    let stretch = record::scan(&bytes, true);
    let end = stretch.records.last().map_or(0, |(_, end)| *end);
    let last = stretch.records.iter().map(|(record, _)| record.sequence).max();
    let file = OpenOptions::new().write(true).open(&path).map_err(io("open"))?;
    let torn = (end < bytes.len()).then(|| Damage {
        file: path.clone(),
        offset: end as u64,
        len_bytes: (bytes.len() - end) as u64,
        torn: true,
    });
    if torn.is_some() {
        file.set_len(end as u64).map_err(io("cut"))?;
        file.sync_all().map_err(io("sync"))?;
    }
    // Damaged records had numbers too, and those are not given a second time.
    let damaged: usize = stretch.damage.iter().map(|(from, to)| to - from).sum();
    let next = last.map_or(first, |last| last + 1) + (damaged / HEADER_BYTES) as u64;
    let writer = Writer { folder: folder.to_owned(), file, first, end: end as u64, suspect: false };
    Ok((writer, Ending { next, torn }))
}

/// The end of the last segment.
pub(super) struct Writer {
    folder: PathBuf,
    file: File,
    /// The first sequence of the segment.
    pub(super) first: u64,
    /// How much of it is on disk.
    pub(super) end: u64,
    /// Something failed: what lies behind `end` is unknown.
    suspect: bool,
}

impl Writer {
    /// Begins a segment.
    pub(super) fn create(folder: &Path, first: u64) -> Result<Writer, SpoolError> {
        let path = path(folder, first);
        let create = || -> std::io::Result<File> {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
            file.sync_all()?;
            File::open(folder)?.sync_all()?;
            Ok(file)
        };
        let file = create().map_err(SpoolError::io("create", &path))?;
        Ok(Writer { folder: folder.to_owned(), file, first, end: 0, suspect: false })
    }
    /// Adds records, the first of which is `sequence`, and returns when they are on disk. On an error none of them is.
    pub(super) fn append(
        &mut self,
        records: &[u8],
        sequence: u64,
        segment_bytes: u64,
    ) -> Result<(), SpoolError> {
        self.settle()?;
        // After a failed sync the kernel may call pages clean that never reached the disk: that file is not trusted again.
        if self.end > 0 && (self.suspect || self.end >= segment_bytes) {
            *self = Writer::create(&self.folder, sequence)?;
        }
        self.suspect = true;
        let path = path(&self.folder, self.first);
        let written = self.file.write_all_at(records, self.end).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What fails here is tried again before the next records.
            self.file.set_len(self.end).ok();
            return Err(SpoolError::io("write", &path)(error));
        }
        self.end += records.len() as u64;
        self.suspect = false;
        Ok(())
    }
    fn settle(&mut self) -> Result<(), SpoolError> {
        if !self.suspect {
            return Ok(());
        }
        let path = path(&self.folder, self.first);
        self.file.set_len(self.end).map_err(SpoolError::io("cut", &path))
    }
}
