//! `lynceus modules`: loaded kernel modules.

use crate::output::{Column, Row};
use lynceus_introspect::linux::Module;
use serde::Serialize;

/// One module.
#[derive(Serialize)]
pub(super) struct ModuleRow {
    name: String,
    base: u64,
    size_bytes: u64,
    refcount: i64,
    state: &'static str,
    taints: String,
}

impl From<Module> for ModuleRow {
    fn from(module: Module) -> ModuleRow {
        ModuleRow {
            name: module.name,
            base: module.base.0,
            size_bytes: module.size_bytes,
            refcount: module.refcount,
            state: module.state.name(),
            taints: module.taints,
        }
    }
}

impl Row for ModuleRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("NAME"),
        Column::left("BASE"),
        Column::right("SIZE"),
        Column::right("USED"),
        Column::left("STATE"),
        Column::left("TAINTS"),
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            format!("{:#x}", self.base),
            self.size_bytes.to_string(),
            self.refcount.to_string(),
            self.state.to_owned(),
            self.taints.clone(),
        ]
    }
}
