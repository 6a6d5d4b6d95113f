//! Hidden files: ones that have a name by their own count, and that no lookup finds.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::each;
use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{FileKind, LinuxGuest, Mm, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gva, Partial};
use std::collections::BTreeSet;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "hidden_file",
    technique: "T1564",
    about: "files in memory that were not deleted, and that are in no folder",
    limits: Limits {
        sees: "a file of tmpfs, ramfs or devtmpfs that a process runs or has open, that counts a name and has none that a lookup finds: taken out of its folder without being deleted",
        evaded_by: "files on disks, whose names are not all in memory; files that are neither run nor open; a listing that is filtered, which operation_table sees",
        false_positives: "none known: what is deleted counts no name",
    },
    next: "lynceus files --pid of who has it open; its content is still in the page cache: lynceus scan --scope files, or lynceus dump",
    run: hidden_files,
};

/// Files that no lookup finds.
pub fn hidden_files(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    let mut found = each(guest, options, look);
    let mut told = BTreeSet::new();
    found.items.retain(|finding| told.insert(finding.summary.clone()));
    found
}

fn look(view: &View<'_>, task: &Task, mm: &Mm) -> Partial<Finding> {
    let mut found = Partial::default();
    let open = view.files(task.files);
    let mut files: Vec<(Gva, String)> = found
        .absorb(open)
        .into_iter()
        .filter(|file| file.kind == FileKind::Regular)
        .map(|file| (file.file, file.path))
        .collect();
    let program = view.exe(mm);
    if let Some(Some(path)) = found.ok("executable", mm.exe_file, program) {
        files.push((mm.exe_file, path));
    }
    files.sort();
    files.dedup();
    for (file, path) in files {
        let judged = judge(view, file, &path);
        let judged = found.ok("open file", file, judged).flatten();
        found.items.extend(judged);
    }
    found
}

fn judge(view: &View<'_>, file: Gva, path: &str) -> Result<Option<Finding>, GapReason> {
    let entry = view.entry_of_file(file)?;
    if entry.hashed || entry.parent == entry.at {
        return Ok(None);
    }
    let info = view.file_info(entry.inode)?;
    if info.links == 0 || !info.in_memory_only() || view.is_found_by_name(entry.inode)? {
        return Ok(None);
    }
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let summary = format!("{path} ({}) was not deleted and is in no folder: no lookup finds it", info.fs);
    let subject = Subject::File {
        path: path.to_owned(),
        fs: info.fs,
        inode: info.number,
        size_bytes: info.size_bytes,
        deleted: false,
        sha256: None,
    };
    Ok(Some(DETECTOR.finding(Severity::High, summary, subject)))
}
