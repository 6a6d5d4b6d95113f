//! `lynceus vms`: the virtual machines of this host.

use crate::output::{Column, Outcome, Output, Row};
use anyhow::{Context, Result};
use lynceus_introspect::Partial;
use lynceus_introspect::backend::qemu::{self, Qemu, Vm, VmState};
use lynceus_introspect::backend::xen::{self, Domain, DomainKind, DomainState};
use serde::Serialize;

/// One VM.
#[derive(Serialize)]
struct VmRow {
    name: String,
    uuid: Option<String>,
    r#type: &'static str,
    /// Of QEMU's VMs.
    pid: Option<u32>,
    /// Of Xen's domains.
    domid: Option<u16>,
    uid: Option<u32>,
    memory_bytes: u64,
    vcpus: u32,
    state: String,
    machine: Option<String>,
    accelerator: Option<String>,
    can_pause: bool,
    interfaces: Vec<VifRow>,
}

/// One of a Xen domain's interfaces.
#[derive(Serialize)]
struct VifRow {
    host_name: String,
    mac: String,
}

/// Lists them.
pub(super) fn run(output: Output) -> Result<Outcome> {
    let mut items: Vec<VmRow> = qemu::list().into_iter().map(VmRow::from).collect();
    if xen::is_here() {
        let release = xen::release().context("Xen cannot be asked for its version")?;
        let domains = xen::list().context("the domains of Xen cannot be listed")?;
        items.extend(domains.into_iter().map(|domain| VmRow::of_xen(domain, &release)));
    }
    output.listing("virtual machines", &Partial { items, ..Partial::default() })
}

impl VmRow {
    fn of_xen(domain: Domain, release: &str) -> VmRow {
        let vif = |vif: &xen::Vif| VifRow {
            host_name: format!("vif{}.{}", domain.id, vif.number),
            mac: vif.mac.clone(),
        };
        VmRow {
            interfaces: domain.vifs.iter().map(vif).collect(),
            name: domain.name,
            uuid: Some(domain.uuid),
            r#type: match domain.kind {
                DomainKind::Pv => "xen-pv",
                DomainKind::Hvm => "xen-hvm",
            },
            pid: None,
            domid: Some(domain.id),
            uid: None,
            memory_bytes: domain.memory_bytes,
            vcpus: domain.vcpus,
            state: match domain.state {
                DomainState::Running => "running",
                DomainState::Paused => "paused",
                DomainState::Shutdown => "shutdown",
                DomainState::Dying => "dying",
            }
            .to_owned(),
            machine: None,
            accelerator: Some(format!("Xen {release}")),
            can_pause: true,
        }
    }
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
            pid: Some(vm.pid),
            domid: None,
            uid: Some(vm.uid),
            memory_bytes: vm.ram_bytes,
            vcpus: vm.vcpus,
            state,
            machine: vm.machine,
            accelerator: vm.accelerator,
            can_pause: !vm.qmp_sockets.is_empty(),
            interfaces: Vec::new(),
        }
    }
}

impl Row for VmRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("NAME"),
        Column::left("TYPE"),
        Column::right("PID"),
        Column::right("DOMID"),
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
            self.r#type.to_owned(),
            self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            self.domid.map_or_else(|| "-".to_owned(), |id| id.to_string()),
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
