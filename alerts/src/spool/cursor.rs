//! How far each sink is: one small file each, replaced as a whole.
//!
//! *Does*: keeps the sequence of the last alert that a sink acknowledged.
//! *Never*: leaves half a file: the new one is on disk before it takes the old one's name.

use super::SpoolError;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

const PREFIX: &str = "cursor-";

/// The cursors that are in `folder`. One that cannot be read counts as new: its sink gets again what is still there.
pub(super) fn load(folder: &Path) -> Result<BTreeMap<String, u64>, SpoolError> {
    let entries = fs::read_dir(folder).map_err(SpoolError::io("list", folder))?;
    let mut cursors = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(SpoolError::io("list", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(sink) = name.strip_prefix(PREFIX).filter(|sink| !sink.ends_with(".new")) else { continue };
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        cursors.insert(sink.to_owned(), text.trim().parse().unwrap_or(0));
    }
    Ok(cursors)
}

/// Writes a sink's cursor and waits until it is on disk.
pub(super) fn store(folder: &Path, sink: &str, acknowledged: u64) -> Result<(), SpoolError> {
    let (path, new) = (path(folder, sink), folder.join(format!("{PREFIX}{sink}.new")));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(format!("{acknowledged}\n").as_bytes())?;
        file.sync_data()?;
        fs::rename(&new, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(SpoolError::io("write", &path))
}

/// Removes the cursor of a sink that is no more.
pub(super) fn remove(folder: &Path, sink: &str) -> Result<(), SpoolError> {
    let path = path(folder, sink);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SpoolError::io("remove", &path)(error))
        }
        _ => Ok(()),
    }
}

fn path(folder: &Path, sink: &str) -> PathBuf {
    folder.join(format!("{PREFIX}{sink}"))
}
