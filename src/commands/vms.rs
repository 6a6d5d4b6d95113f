//! `lynceus vms`: the virtual machines of this host.

use crate::output::{Column, Outcome, Output, Row};
use anyhow::Result;
use lynceus_introspect::Partial;
use lynceus_introspect::backend::qemu::{self, Qemu, Vm, VmState};
use serde::Serialize;

/// One VM.
#[derive(Serialize)]
struct VmRow {
    name: String,
    uuid: Option<String>,
    r#type: &'static str,
    pid: u32,
    uid: u32,
    memory_bytes: u64,
    vcpus: u32,
    state: String,
    machine: Option<String>,
    accelerator: Option<String>,
    can_pause: bool,
}

/// Lists them.
pub(super) fn run(output: Output) -> Result<Outcome> {
    let items = qemu::list().into_iter().map(VmRow::from).collect();
    output.listing("virtual machines", &Partial { items, ..Partial::default() })
}

impl From<Vm> for VmRow {
    fn from(vm: Vm) -> VmRow {
        // QEMU knows whether the guest is paused; its process says only whether it runs itself.
        let asked = match vm.state {
            VmState::Running if !vm.qmp_sockets.is_empty() => {
                Qemu::open(vm.pid).ok().and_then(|qemu| qemu.run_state().ok())
            }
            _ => None,
        };
        let state = asked.unwrap_or_else(|| match vm.state {
            VmState::Running => "running".to_owned(),
            VmState::Stopped => "process stopped".to_owned(),
        });
        VmRow {
            name: vm.name,
            uuid: vm.uuid,
            r#type: "qemu",
            pid: vm.pid,
            uid: vm.uid,
            memory_bytes: vm.ram_bytes,
            vcpus: vm.vcpus,
            state,
            machine: vm.machine,
            accelerator: vm.accelerator,
            can_pause: !vm.qmp_sockets.is_empty(),
        }
    }
}

impl Row for VmRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("NAME"),
        Column::right("PID"),
        Column::right("MEMORY"),
        Column::right("VCPUS"),
        Column::left("STATE"),
        Column::left("ACCEL"),
        Column::left("PAUSE"),
        Column::left("MACHINE"),
        Column::left("UUID"),
    ];
    fn cells(&self) -> Vec<String> {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            self.name.clone(),
            self.pid.to_string(),
            format!("{} MiB", self.memory_bytes >> 20),
            self.vcpus.to_string(),
            self.state.clone(),
            or_dash(&self.accelerator),
            if self.can_pause { "yes" } else { "no" }.to_owned(),
            or_dash(&self.machine),
            or_dash(&self.uuid),
        ]
    }
}
