//! `lynceus files`: open files with their full paths.

use crate::output::{Column, Row};
use lynceus_introspect::linux::{FileKind, OpenFile, Task, View};
use lynceus_introspect::{GapReason, Partial};
use serde::Serialize;

/// One descriptor of one process.
#[derive(Serialize)]
pub(super) struct FileRow {
    pid: u32,
    comm: String,
    fd: u32,
    kind: &'static str,
    mode: &'static str,
    flags: u32,
    position: u64,
    inode: u64,
    device: String,
    path: String,
}

/// The open files of a process.
pub(super) fn rows(view: &View<'_>, task: &Task, rows: &mut Partial<FileRow>) -> Result<(), GapReason> {
    let files = view.files(task.files);
    let files = rows.absorb(files);
    rows.items.extend(files.into_iter().map(|file| FileRow::new(task.pid, &task.comm, file)));
    Ok(())
}

impl FileRow {
    /// A descriptor of the process with that pid and name.
    pub(super) fn new(pid: u32, comm: &str, file: OpenFile) -> FileRow {
        FileRow {
            pid,
            comm: comm.to_owned(),
            fd: file.fd,
            kind: kind(file.kind),
            // O_ACCMODE and O_PATH of asm-generic/fcntl.h.
            mode: match (file.flags & 0o10_000_000 != 0, file.flags & 3) {
                (true, _) => "path",
                (_, 0) => "r",
                (_, 1) => "w",
                _ => "rw",
            },
            flags: file.flags,
            position: file.position,
            inode: file.inode,
            device: super::mounts::device(file.device),
            path: file.path,
        }
    }
}

fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "dir",
        FileKind::Character => "char",
        FileKind::Block => "block",
        FileKind::Pipe => "pipe",
        FileKind::Socket => "socket",
        FileKind::Link => "link",
        FileKind::Anonymous => "anon",
    }
}

impl Row for FileRow {
    const COLUMNS: &'static [Column] = &[
        Column::right("PID"),
        Column::left("COMM"),
        Column::right("FD"),
        Column::left("KIND"),
        Column::left("MODE"),
        Column::right("POSITION"),
        Column::right("INODE"),
        Column::left("PATH"),
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.pid.to_string(),
            self.comm.clone(),
            self.fd.to_string(),
            self.kind.to_owned(),
            self.mode.to_owned(),
            self.position.to_string(),
            self.inode.to_string(),
            self.path.clone(),
        ]
    }
}
