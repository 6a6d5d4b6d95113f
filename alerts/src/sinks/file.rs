//! Lines in a file, or on standard output.
//!
//! *Does*: appends a line for each alert and puts the file aside when it is large: `alerts.log` becomes `alerts.log.1`, that `.2`, and so on.
//! Acknowledged means: synced. For standard output: taken by whoever reads it.
//! *Never*: splits a line over two files.

use super::{Event, Rejected, Sink, SinkError};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

/// Standard output.
pub(super) struct Stdout;

impl Sink for Stdout {
    fn deliver(&mut self, events: &[Event]) -> Result<Vec<Rejected>, SinkError> {
        let mut out = io::stdout().lock();
        let written = out.write_all(&lines(events)).and_then(|()| out.flush());
        written.map(|()| Vec::new()).map_err(|error| SinkError::io("cannot write to standard output", &error))
    }
}

/// A file that is put aside when it is large.
pub(super) struct RotatedFile {
    path: PathBuf,
    rotate_bytes: u64,
    keep_files: u32,
}

impl RotatedFile {
    pub(super) fn new(path: impl Into<PathBuf>, rotate_bytes: u64, keep_files: u32) -> RotatedFile {
        RotatedFile { path: path.into(), rotate_bytes, keep_files }
    }
    fn aside(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}.{number}", self.path.display()))
    }
    fn rotate(&self) -> io::Result<()> {
        if self.keep_files == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep_files).rev() {
            ignore_missing(fs::rename(self.aside(number), self.aside(number + 1)))?;
        }
        fs::rename(&self.path, self.aside(1))
    }
    /// Opened each time: `logrotate` or a person may have moved it.
    fn append(&self, lines: &[u8]) -> io::Result<()> {
        let open = || File::options().read(true).append(true).create(true).mode(0o640).open(&self.path);
        let mut file = open()?;
        let len = file.metadata()?.size();
        if len > 0 && len + lines.len() as u64 > self.rotate_bytes {
            self.rotate()?;
            file = open()?;
        }
        let before = file.metadata()?.size();
        let mut last = [b'\n'];
        if before > 0 {
            file.read_exact_at(&mut last, before - 1)?;
        }
        // A crash may have cut the last line off: what comes now is not glued to it.
        let ended = if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") };
        let written = ended.and_then(|()| file.write_all(lines)).and_then(|()| file.sync_data());
        if written.is_err() {
            // Half a line would spoil the next one.
            file.set_len(before)?;
        }
        written
    }
}

impl Sink for RotatedFile {
    fn deliver(&mut self, events: &[Event]) -> Result<Vec<Rejected>, SinkError> {
        let doing = format!("cannot write to {}", self.path.display());
        self.append(&lines(events)).map(|()| Vec::new()).map_err(|error| SinkError::io(doing, &error))
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn lines(events: &[Event]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(events.iter().map(|event| event.text.len() + 1).sum());
    for event in events {
        lines.extend_from_slice(event.text.as_bytes());
        lines.push(b'\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        let alert = crate::Alert::new("a", crate::tests::finding(1), std::time::UNIX_EPOCH);
        Event { alert, text: text.to_owned() }
    }

    #[test]
    fn a_line_that_a_crash_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, "half a li").unwrap();
        let mut file = RotatedFile::new(&path, 1000, 2);
        file.deliver(&[event("whole")]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "half a li\nwhole\n");
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut file = RotatedFile::new(&path, 10, 2);
        for text in ["one", "two", "three", "four", "five"] {
            assert!(file.deliver(&[event(text)]).unwrap().is_empty());
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("a.log").as_str(), read("a.log.1").as_str()), ("four\nfive\n", "three\n"));
        assert_eq!(read("a.log.2"), "one\ntwo\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
