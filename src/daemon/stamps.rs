//! Whether files of rules are still what they were, by what the file system keeps of them.
//!
//! *Does*: notes each file's place, length and time of change, of a folder those of all files below it. *Trusts*: the host's file system.
//! *Never*: reads a file; follows a link below a folder; looks at more than [`MAX_FILES`].

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More files than any set of rules has.
const MAX_FILES: usize = 100_000;

/// A file at some time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Stamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    len_bytes: u64,
    /// Whatever is done to a file changes this: seconds and nanoseconds.
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path, about: &Metadata) -> Stamp {
        Stamp {
            path: path.to_owned(),
            device: about.dev(),
            inode: about.ino(),
            len_bytes: about.len(),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// What there is at these places. Rules beside a file that is named may be included by it.
pub(super) fn of<'p>(paths: impl Iterator<Item = &'p Path>) -> Vec<Stamp> {
    let mut stamps = Vec::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(about) if about.is_dir() => below(path, &|_| true, &mut stamps),
            Ok(about) => {
                stamps.push(Stamp::of(path, &about));
                let is_rules =
                    |path: &Path| path.extension().is_some_and(|end| end == "yar" || end == "yara");
                path.parent().into_iter().for_each(|folder| below(folder, &is_rules, &mut stamps));
            }
            Err(_) => {}
        }
    }
    stamps.sort();
    stamps.dedup();
    stamps
}

fn below(folder: &Path, wanted: &dyn Fn(&Path) -> bool, stamps: &mut Vec<Stamp>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        if stamps.len() >= MAX_FILES {
            return;
        }
        if about.is_dir() {
            below(&path, wanted, stamps);
        } else if about.is_file() && wanted(&path) {
            stamps.push(Stamp::of(&path, &about));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_seen_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("below")).unwrap();
        for name in ["one.yar", "below/two.inc", "config.toml"] {
            fs::write(at(name), "rule").unwrap();
        }
        let all = || of([folder.path()].into_iter());
        let (before, named) = (all(), of([at("one.yar").as_path()].into_iter()));
        assert_eq!((before.len(), named.len()), (3, 1));
        assert_eq!(before, all());
        // The same length, another file: what an editor leaves.
        fs::write(at("new"), "elur").unwrap();
        fs::rename(at("new"), at("below/two.inc")).unwrap();
        assert_ne!(before, all());
        assert_eq!(named, of([at("one.yar").as_path()].into_iter()));
        fs::write(at("three.yara"), "rule").unwrap();
        assert_ne!(named, of([at("one.yar").as_path()].into_iter()));
        assert!(of([Path::new("/no/such")].into_iter()).is_empty());
    }
}
