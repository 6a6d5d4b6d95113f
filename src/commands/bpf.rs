//! `lynceus bpf`: loaded BPF programs.

use crate::output::{Column, Row};
use lynceus_introspect::Partial;
use lynceus_introspect::linux::{BpfProgram, View};
use serde::Serialize;

/// One program.
#[derive(Serialize)]
pub(super) struct BpfRow {
    id: u32,
    r#type: &'static str,
    name: String,
    tag: String,
    uid: Option<u32>,
    load_time_ns: u64,
    instructions: u32,
    jited_at: Option<u64>,
    jited_bytes: Option<u32>,
    maps: Vec<u32>,
    attached_to: Option<String>,
    pinned_at: Vec<String>,
}

/// Every loaded program, and where it is pinned, or a link to it.
pub(super) fn rows(view: &View<'_>) -> Partial<BpfRow> {
    let mut rows = Partial::default();
    let programs = view.bpf_programs();
    let programs = rows.absorb(programs);
    let pinned = view.bpf_pinned(programs);
    let pinned = rows.absorb(pinned);
    rows.items.extend(pinned.into_iter().map(|(program, paths)| BpfRow::new(program, paths)));
    rows
}

impl BpfRow {
    fn new(program: BpfProgram, pinned_at: Vec<String>) -> BpfRow {
        BpfRow {
            id: program.id,
            r#type: program.type_name(),
            tag: program.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
            uid: program.uid,
            load_time_ns: program.load_time_ns,
            instructions: program.instructions,
            jited_at: program.jited.map(|(at, _)| at.0),
            jited_bytes: program.jited.map(|(_, bytes)| bytes),
            name: program.name,
            maps: program.maps,
            attached_to: program.attached_to,
            pinned_at,
        }
    }
}

impl Row for BpfRow {
    const COLUMNS: &'static [Column] = &[
        Column::right("ID"),
        Column::left("TYPE"),
        Column::left("NAME"),
        Column::left("TAG"),
        Column::right("UID"),
        Column::right("INSNS"),
        Column::left("MAPS"),
        Column::left("ATTACHED TO"),
        Column::left("PINNED AT"),
    ];
    fn cells(&self) -> Vec<String> {
        let maps: Vec<String> = self.maps.iter().map(u32::to_string).collect();
        vec![
            self.id.to_string(),
            self.r#type.to_owned(),
            self.name.clone(),
            self.tag.clone(),
            self.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
            self.instructions.to_string(),
            maps.join(","),
            self.attached_to.clone().unwrap_or_else(|| "-".to_owned()),
            if self.pinned_at.is_empty() { "-".to_owned() } else { self.pinned_at.join(",") },
        ]
    }
}
