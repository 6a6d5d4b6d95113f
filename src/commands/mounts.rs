//! `lynceus mounts`: mounts of every mount namespace.

use crate::output::{Column, Row};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{Mount, View};
use serde::Serialize;
use std::collections::BTreeMap;

/// One mount in one namespace.
#[derive(Serialize)]
pub(super) struct MountRow {
    namespace: u32,
    id: u32,
    parent: u32,
    device: String,
    root: String,
    mountpoint: String,
    fstype: String,
    source: String,
    options: String,
    super_options: String,
}

/// The mounts of every mount namespace that a process lives in, each once.
pub(super) fn rows(view: &View<'_>) -> Partial<MountRow> {
    let mut rows = Partial::default();
    let tasks = view.processes();
    let mut namespaces = BTreeMap::new();
    for (task, _) in rows.absorb(tasks) {
        let found = rows.ok("task namespaces", task.at, view.namespaces(&task));
        if let Some((number, at)) = found.and_then(|found| found.mnt.map(|number| (number, found.mnt_at))) {
            namespaces.insert(number, at);
        }
    }
    for (number, at) in namespaces {
        let mounts = view.mounts(at, None);
        let mounts = rows.absorb(mounts);
        rows.items.extend(mounts.into_iter().map(|mount| MountRow::new(number, mount)));
    }
    rows
}

impl MountRow {
    /// A mount of the mount namespace with that inode number.
    pub(super) fn new(namespace: u32, mount: Mount) -> MountRow {
        MountRow {
            namespace,
            id: mount.id,
            parent: mount.parent,
            device: device(mount.device),
            root: mount.root,
            mountpoint: mount.mountpoint,
            fstype: mount.fs_type,
            source: mount.source,
            options: mount.options,
            super_options: mount.super_options,
        }
    }
}

/// `major:minor` of a kernel device number (`linux/kdev_t.h`).
pub(super) fn device(number: u32) -> String {
    format!("{}:{}", number >> 20, number & 0xf_ffff)
}

impl Row for MountRow {
    const COLUMNS: &'static [Column] = &[
        Column::right("MNTNS"),
        Column::right("ID"),
        Column::right("PARENT"),
        Column::left("SOURCE"),
        Column::left("FSTYPE"),
        Column::left("OPTIONS"),
        Column::left("MOUNTPOINT"),
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.namespace.to_string(),
            self.id.to_string(),
            self.parent.to_string(),
            self.source.clone(),
            self.fstype.clone(),
            self.options.clone(),
            self.mountpoint.clone(),
        ]
    }
}
