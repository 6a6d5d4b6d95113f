//! `lynceus vms`: the virtual machines of this host.

use crate::output::{Column, Outcome, Output, Row, escape};
use anyhow::{Context, Result};
use lynceus_introspect::Partial;
use lynceus_introspect::backend::qemu::{self, Qemu, Vm, VmState};
use lynceus_introspect::backend::xen::{self, Domain, DomainKind, DomainState};
use serde::Serialize;
use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

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
    output.listing("virtual machines", &Partial { items: all()?, ..Partial::default() })
}

fn all() -> Result<Vec<VmRow>> {
    let mut all: Vec<VmRow> = qemu::list().into_iter().map(VmRow::from).collect();
    if xen::is_here() {
        let release = xen::release().context("Xen cannot be asked for its version")?;
        let domains = xen::list().context("the domains of Xen cannot be listed")?;
        all.extend(domains.into_iter().map(|domain| VmRow::of_xen(domain, &release)));
    }
    Ok(all)
}

/// How often QEMU's processes are looked for. Xen tells by itself.
const EVERY: Duration = Duration::from_secs(1);

/// A VM that appeared or is gone.
#[derive(Serialize)]
struct Event<'a> {
    event: &'static str,
    #[serde(flatten)]
    vm: &'a VmRow,
}

/// Tells when it is time to look which VMs there are.
pub(crate) struct Changes {
    woken: mpsc::Receiver<()>,
    /// Held, so that there is always somebody who might wake.
    _wake: mpsc::Sender<()>,
}

impl Changes {
    /// Listens from now on.
    pub(crate) fn open() -> Result<Changes> {
        let (wake, woken) = mpsc::channel();
        if xen::is_here() {
            let mut domains = xen::Changes::open().context("XenStore cannot be asked to tell of domains")?;
            let wake = wake.clone();
            std::thread::spawn(move || while domains.wait().is_ok() && wake.send(()).is_ok() {});
        }
        Ok(Changes { woken, _wake: wake })
    }

    /// Waits until Xen tells of a change, or a second is over. One look answers all that came meanwhile.
    pub(crate) fn wait(&self) {
        let _ = self.woken.recv_timeout(EVERY);
        self.woken.try_iter().for_each(drop);
    }
}

/// Tells of each that appears and each that is gone, until nobody reads it any more.
pub(super) fn follow(output: Output) -> Result<Outcome> {
    let changes = Changes::open()?;
    let mut known: Vec<VmRow> = Vec::new();
    loop {
        let now = all()?;
        let lacks = |list: &[VmRow], vm: &VmRow| !list.iter().any(|other| other.is(vm));
        known.iter().filter(|vm| lacks(&now, vm)).try_for_each(|vm| tell(output, "gone", vm))?;
        now.iter().filter(|vm| lacks(&known, vm)).try_for_each(|vm| tell(output, "appeared", vm))?;
        known = now;
        changes.wait();
    }
}

fn tell(output: Output, event: &'static str, vm: &VmRow) -> Result<()> {
    if output.is_json() {
        return output.json_line(&Event { event, vm });
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{event:<8}  {}",
        vm.cells().iter().map(|cell| escape(cell)).collect::<Vec<_>>().join("  ")
    )?;
    Ok(out.flush()?)
}

impl VmRow {
    /// Whether it is the same VM, and not one that got its name or number since.
    fn is(&self, other: &VmRow) -> bool {
        (self.pid, self.domid, &self.uuid, &self.name) == (other.pid, other.domid, &other.uuid, &other.name)
    }

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
