//! What a worker holds open.
//!
//! *Does*: closes what came from the parent by accident, and refuses a lock-down with anything open that can write to a file or
//! leads to other files.
//! *Trusts*: the host kernel's `/proc/self/fd`. *Never*: closes what the worker opened itself.

use super::{Put, raw};
use anyhow::{Context, Result, bail};
use std::fs::{self, FileType};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The highest of the standard streams.
const LAST_STANDARD: RawFd = 2;

/// Closes every descriptor but the standard streams and `keep`. For the first lines of a worker's program, when it owns no other.
pub(crate) fn close_inherited(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = LAST_STANDARD.unsigned_abs() + 1;
    for fd in keep {
        if first < fd {
            raw::close_range(first, fd - 1)?;
        }
        first = fd.saturating_add(1);
    }
    raw::close_range(first, u32::MAX)
}

/// Names what is open, and refuses what a worker must not have.
pub(super) fn check() -> Result<Put> {
    let mut names = Vec::new();
    for (fd, path) in open()? {
        // The listing's own descriptor is gone by now.
        let Ok(about) = fs::metadata(format!("/proc/self/fd/{fd}")) else { continue };
        let name = path.display().to_string();
        // Pipes, sockets, process handles: they have no path.
        if path.is_absolute() {
            refuse(fd, &path, about.file_type())?;
        }
        if fd > LAST_STANDARD {
            names.push(name);
        }
    }
    Ok(Put::Holds(match names.len() {
        0..=4 => format!("open: {}", if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }),
        more => format!("open: {} and {} more, all for reading", names[..3].join(", "), more - 3),
    }))
}

fn refuse(fd: RawFd, path: &Path, kind: FileType) -> Result<()> {
    if kind.is_dir() {
        bail!("descriptor {fd} is a folder, {}: it leads to other files", path.display());
    }
    if is_written(fd, kind, path)? {
        bail!("descriptor {fd} can write to {}", path.display());
    }
    Ok(())
}

/// Whether something that outlives the process could be written. A standard stream may be a terminal, or nothing at all.
fn is_written(fd: RawFd, kind: FileType, path: &Path) -> Result<bool> {
    let harmless =
        kind.is_fifo() || path == Path::new("/dev/null") || (fd <= LAST_STANDARD && kind.is_char_device());
    Ok(!harmless && flags(fd)? & libc::O_ACCMODE != libc::O_RDONLY)
}

fn flags(fd: RawFd) -> Result<i32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).context("/proc/self/fdinfo")?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    i32::from_str_radix(flags.context("no flags")?.trim(), 8).context("the flags of a descriptor")
}

fn open() -> Result<Vec<(RawFd, PathBuf)>> {
    let entries = fs::read_dir("/proc/self/fd").context("/proc/self/fd")?;
    let each = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let fd = entry.file_name().to_str()?.parse().ok()?;
        Some((fd, fs::read_link(entry.path()).ok()?))
    };
    let mut open: Vec<_> = entries.filter_map(each).collect();
    open.sort();
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_file_to_write_to_and_a_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let write = File::create(&path).unwrap();
        let read = File::open(&path).unwrap();
        let (listing, null) = (File::open(folder.path()).unwrap(), File::create("/dev/null").unwrap());
        let refused = |file: &File| {
            let fd = file.as_raw_fd();
            let path = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            refuse(fd, &path, file.metadata().unwrap().file_type()).is_err()
        };
        assert!(refused(&write) && refused(&listing));
        assert!(!refused(&read) && !refused(&null));
    }
}
