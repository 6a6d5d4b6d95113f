//! How everything is: for `lynceus status`, `lynceus top` and the metrics.

use super::groups;
use super::process::status_kib;
use super::schedule::Kind;
use super::supervisor::Supervisor;
use super::watched::Watched;
use lynceus_alerts::Stats;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How everything is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// This program's.
    pub(crate) version: String,
    /// Since the start.
    pub(crate) uptime_s: u64,
    /// The supervisor's own memory.
    pub(crate) memory_bytes: u64,
    /// Unpacked kernels, which all workers share.
    #[serde(default)]
    pub(crate) kernels_bytes: u64,
    /// Why workers have no control groups of their own, where they have none.
    #[serde(default)]
    pub(crate) no_groups: Option<String>,
    /// What is wrong with the host, by part.
    pub(crate) trouble: BTreeMap<String, String>,
    /// The VMs.
    pub(crate) vms: Vec<VmRow>,
    /// Whether a firewall policy is enforced.
    pub(crate) guards: bool,
    /// Findings that wait for a person.
    pub(crate) waiting: usize,
    /// The alerts and where they go.
    pub(crate) alerts: Stats,
}

/// One VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VmRow {
    /// What people call it.
    pub(crate) vm: String,
    /// What it is opened by.
    pub(crate) target: String,
    /// In a word.
    pub(crate) state: String,
    /// What was done to it.
    pub(crate) responses: Vec<String>,
    /// What is wrong with looking at it, by part.
    pub(crate) trouble: BTreeMap<String, String>,
    /// Its kernel's release.
    pub(crate) kernel: Option<String>,
    /// What its kernel's code is compared with.
    pub(crate) image: Option<String>,
    /// How many modules can be compared with their files.
    pub(crate) modules: usize,
    /// Layers of its worker's lock-down that this host lacks.
    pub(crate) missing_layers: Vec<String>,
    /// Looks so far, by kind.
    pub(crate) looks: BTreeMap<String, u64>,
    /// Looks that could not read everything.
    pub(crate) incomplete: u64,
    /// Looks that came after their deadline.
    pub(crate) late: u64,
    /// Workers that failed.
    pub(crate) failures: u64,
    /// Different findings since it was seen.
    pub(crate) findings: usize,
    /// Since the last look.
    pub(crate) last_look_ms: Option<u64>,
    /// CPU time of its workers.
    pub(crate) cpu_ms: u64,
    /// What its worker allocated.
    pub(crate) memory_bytes: Option<u64>,
    /// Its worker.
    pub(crate) worker_pid: Option<u32>,
}

/// A finding in a VM that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FoundRow {
    /// The alert's id.
    pub(crate) id: String,
    /// The VM.
    pub(crate) vm: String,
    /// Who found it.
    pub(crate) detector: String,
    /// How bad it is.
    pub(crate) severity: lynceus_scanners::Severity,
    /// In a line.
    pub(crate) summary: String,
    /// Since a look showed it last.
    pub(crate) seen_ms_ago: u64,
}

/// What was done to a VM, or waits for a person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ResponseRow {
    /// `done` or `waits`.
    pub(crate) state: String,
    /// The VM.
    pub(crate) vm: String,
    /// `isolate` or `pause`.
    pub(crate) deed: String,
    /// The alert's id.
    pub(crate) id: String,
    /// Why it was done, or why it waits.
    pub(crate) why: String,
    /// Since when.
    pub(crate) since: String,
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn owned(trouble: &BTreeMap<&'static str, String>) -> BTreeMap<String, String> {
    trouble.iter().map(|(what, why)| ((*what).to_owned(), why.clone())).collect()
}

/// How everything is.
pub(super) fn of(supervisor: &Supervisor) -> Status {
    let row = |(id, vm): (&u64, &Watched)| row(supervisor, *id, vm);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: supervisor.now().as_secs(),
        memory_bytes: status_kib(std::process::id(), "RssAnon:").unwrap_or(0) << 10,
        kernels_bytes: supervisor.kernels.len_bytes() + supervisor.modules.len_bytes(),
        no_groups: groups::missing().map(str::to_owned),
        trouble: owned(&supervisor.trouble),
        vms: supervisor.vms.iter().map(row).collect(),
        guards: supervisor.guards,
        waiting: supervisor.responses.waiting.len(),
        alerts: supervisor.alerts.stats(),
    }
}

fn row(supervisor: &Supervisor, id: u64, vm: &Watched) -> VmRow {
    let done = supervisor.responses.done.get(&vm.seen.name);
    let looks = Kind::ALL.iter().map(|kind| (kind.name().to_owned(), vm.counts.looks[*kind as usize]));
    let ready = vm.ready.as_ref();
    VmRow {
        vm: vm.seen.name.clone(),
        target: vm.seen.target.clone(),
        state: vm.state().to_owned(),
        responses: done.map(|done| done.deeds.keys().cloned().collect()).unwrap_or_default(),
        trouble: owned(&vm.trouble),
        kernel: ready.map(|ready| ready.release.clone()),
        image: ready.and_then(|ready| ready.image.clone()),
        modules: ready.map_or(0, |ready| ready.modules),
        missing_layers: ready.map(|ready| ready.missing_layers.clone()).unwrap_or_default(),
        looks: looks.collect(),
        incomplete: vm.counts.incomplete,
        late: supervisor.scheduler.late(id).0,
        failures: vm.counts.failures,
        findings: vm.findings.len(),
        last_look_ms: vm.last_look.map(|at| ms(supervisor.now().saturating_sub(at))),
        cpu_ms: ms(vm.counts.cost),
        memory_bytes: vm.worker.as_ref().and_then(|worker| worker.memory_bytes()),
        worker_pid: vm.worker.as_ref().map(|worker| worker.pid()),
    }
}

/// What was found in the VMs that run, the worst first.
pub(super) fn findings(supervisor: &Supervisor) -> Vec<FoundRow> {
    let of_vm = |vm: &Watched| {
        let row = |(id, found): (&String, &super::watched::Remembered)| FoundRow {
            id: id.clone(),
            vm: vm.seen.name.clone(),
            detector: found.detector.clone(),
            severity: found.severity,
            summary: found.summary.clone(),
            seen_ms_ago: ms(supervisor.now().saturating_sub(found.seen)),
        };
        vm.findings.iter().map(row).collect::<Vec<_>>()
    };
    let mut all: Vec<FoundRow> = supervisor.vms.values().flat_map(of_vm).collect();
    all.sort_by(|one, other| (other.severity, &one.vm, &one.id).cmp(&(one.severity, &other.vm, &other.id)));
    all
}

/// What was done to VMs, and what waits for a person.
pub(super) fn responses(supervisor: &Supervisor) -> Vec<ResponseRow> {
    let responses = &supervisor.responses;
    let waiting = responses.waiting.iter().map(|(id, waiting)| ResponseRow {
        state: "waits".to_owned(),
        vm: waiting.vm.clone(),
        deed: waiting.deed.name().to_owned(),
        id: id.clone(),
        why: format!("{}; {}", waiting.why, waiting.summary),
        since: waiting.since.to_string(),
    });
    let done = responses.done.iter().flat_map(|(vm, done)| {
        done.deeds.iter().map(move |(deed, id)| ResponseRow {
            state: "done".to_owned(),
            vm: vm.clone(),
            deed: deed.clone(),
            id: id.clone(),
            why: String::new(),
            since: done.since.to_string(),
        })
    });
    waiting.chain(done).collect()
}

impl Status {
    /// The VMs by what they are doing: for a line.
    pub(crate) fn states(&self) -> BTreeMap<&str, usize> {
        let mut states = BTreeMap::new();
        self.vms.iter().for_each(|vm| *states.entry(vm.state.as_str()).or_default() += 1);
        states
    }

    /// Whether everything works: all VMs are looked at, and every alert finds its way.
    pub(crate) fn is_well(&self) -> bool {
        let down = self.alerts.sinks.iter().any(|sink| sink.is_down());
        self.trouble.is_empty() && !down && self.vms.iter().all(|vm| vm.trouble.is_empty())
    }

    /// What is wrong, in words.
    pub(crate) fn troubles(&self) -> BTreeSet<String> {
        let host = self.trouble.iter().map(|(what, why)| format!("{what}: {why}"));
        let vms = self
            .vms
            .iter()
            .flat_map(|vm| vm.trouble.iter().map(move |(what, why)| format!("{}: {what}: {why}", vm.vm)));
        let down = self.alerts.sinks.iter().filter(|sink| sink.is_down());
        let sinks = down
            .map(|sink| format!("sink {}: {}", sink.name, sink.last_error.as_deref().unwrap_or("is down")));
        host.chain(vms).chain(sinks).collect()
    }
}
