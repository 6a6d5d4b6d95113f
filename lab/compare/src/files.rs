//! Open files and mounts.
//!
//! Left out: PID 1's descriptors, which it opens to take the account, mounts of kernel workers, which come and go, and options that a file
//! system prints by code of its own (`size=64k`).

use crate::report::Report;
use crate::tasks;
use anyhow::Result;
use lynceus_introspect::linux::{FileKind, Reach, View};
use lynceus_lab::truth::Truth;

/// A property of the descriptor, not of the open file.
const O_CLOEXEC: u32 = 0o2_000_000;

pub(crate) fn compare(view: &View<'_>, truth: &Truth, report: &mut Report) -> Result<()> {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for pid in truth.pids().into_iter().filter(|pid| *pid != 1) {
        theirs.extend(truth.fds(pid)?.iter().map(|fd| {
            let (number, flags, dev) = (fd.fd, fd.flags & !O_CLOEXEC, fd.dev);
            let kind = FileKind::of_mode(fd.mode.into());
            format!("{pid} {number} {:?} {kind:?} {flags:o} {} {dev:?} {}", fd.target, fd.pos, fd.inode)
        }));
    }
    for task in report.whole("tasks", view.tasks()) {
        if task.files.is_null() || task.pid == 1 {
            continue;
        }
        let pid = task.pid;
        ours.extend(report.whole("files", view.files(task.files)).iter().map(|file| {
            let (number, kind, flags) = (file.fd, file.kind, file.flags);
            let dev = (file.device >> 20, file.device & 0xf_ffff);
            let position = file.position as i64;
            format!("{pid} {number} {:?} {kind:?} {flags:o} {position} {dev:?} {}", file.path, file.inode)
        }));
    }
    report.compare("file", theirs, ours);
    mounts(view, truth, report)
}

fn mounts(view: &View<'_>, truth: &Truth, report: &mut Report) -> Result<()> {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for pid in tasks::theirs(truth)?.into_iter().map(|task| task.pid) {
        theirs.extend(truth.mounts(pid)?.iter().map(|mount| {
            let generic = mount.super_options.split(',').filter(|option| GENERIC.contains(option));
            let generic = generic.collect::<Vec<_>>().join(",");
            format!(
                "{pid} {} {} {:?} {:?} on {:?} {} {:?} {} {generic}",
                mount.id,
                mount.parent,
                mount.dev,
                mount.root,
                mount.mount_point,
                mount.fstype,
                mount.source,
                mount.options
            )
        }));
    }
    for task in tasks::ours(view, report) {
        let pid = task.pid;
        let Some(root) = report.some("root", view.root_of(&task)) else { continue };
        let Some(namespaces) = report.some("namespaces", view.namespaces(&task)) else { continue };
        // Of a task that ends the kernel tells no mounts once it has no root any more (`mounts_open_common`, `fs/proc_namespace.c`).
        if namespaces.mnt_at.is_null() || root.is_none() {
            continue;
        }
        let mounts = report.whole("mounts", view.mounts(namespaces.mnt_at, root));
        ours.extend(mounts.iter().filter(|mount| mount.reach == Reach::Root).map(|mount| {
            let dev = (mount.device >> 20, mount.device & 0xf_ffff);
            format!(
                "{pid} {} {} {dev:?} {:?} on {:?} {} {:?} {} {}",
                mount.id,
                mount.parent,
                mount.root,
                mount.mountpoint,
                mount.fs_type,
                mount.source,
                mount.options,
                mount.super_options
            )
        }));
    }
    report.compare("mount", theirs, ours);
    Ok(())
}

/// Options that the kernel prints for every file system (`show_sb_opts`).
const GENERIC: [&str; 6] = ["rw", "ro", "sync", "dirsync", "mand", "lazytime"];
