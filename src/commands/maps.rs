//! `lynceus maps`: memory maps of processes.

use super::mounts::device;
use crate::output::{Column, Row};
use lynceus_introspect::linux::{Map, Task, View};
use lynceus_introspect::{GapReason, Partial};
use serde::Serialize;

/// One memory map of one process.
#[derive(Serialize)]
pub(super) struct MapRow {
    pid: u32,
    start: u64,
    end: u64,
    perms: String,
    path: String,
    offset: u64,
    device: String,
    inode: u64,
}

/// The maps of a process; none where it has no memory of its own.
pub(super) fn rows(view: &View<'_>, task: &Task, rows: &mut Partial<MapRow>) -> Result<(), GapReason> {
    if !task.mm.is_null() && !task.kthread {
        let maps = view.maps(&view.mm(task.mm)?);
        let found = rows.absorb(maps).into_iter().map(|map| MapRow::new(task.pid, map));
        rows.items.extend(found);
    }
    Ok(())
}

impl MapRow {
    fn new(pid: u32, map: Map) -> MapRow {
        MapRow {
            pid,
            start: map.start.0,
            end: map.end.0,
            perms: map.perms(),
            offset: map.offset,
            device: device(map.device),
            inode: map.inode,
            path: map.path,
        }
    }
}

impl Row for MapRow {
    const COLUMNS: &'static [Column] = &[
        Column::right("PID"),
        Column::right("START"),
        Column::right("END"),
        Column::left("PERM"),
        Column::right("OFFSET"),
        Column::right("DEVICE"),
        Column::right("INODE"),
        Column::left("PATH"),
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.pid.to_string(),
            format!("{:012x}", self.start),
            format!("{:012x}", self.end),
            self.perms.clone(),
            format!("{:x}", self.offset),
            self.device.clone(),
            self.inode.to_string(),
            self.path.clone(),
        ]
    }
}
