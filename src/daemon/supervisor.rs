//! The process that keeps everything going.
//!
//! *Does*: one thread that owns all state and waits for events; starts workers, asks them, judges what they found by policy, raises alerts, responds.
//! *Trusts*: the kernel, its own files. Not its workers: each speaks for its own VM only, in bounded messages, and is ended when it does not keep to that.
//! *Never*: reads a guest's memory, or waits for anybody.

use super::config::Config;
use super::kernels::Blocks;
use super::respond::Responses;
use super::schedule::{Scheduler, VmId};
use super::stamps::{self, Stamp};
use super::vms::{Listed, Seen};
use super::watched::Watched;
use super::workers::begin;
use super::{Event, control, guard, store, tell};
use crate::commands::enforcer;
use crate::output::escape;
use anyhow::Result;
use lynceus_alerts::{Alert, Pipeline};
use lynceus_policy::Look;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::RandomState;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

/// Nothing waits longer than this for somebody to look whether it is time.
const TICK: Duration = Duration::from_secs(1);
/// So many late or incomplete looks in a row are more than chance.
pub(super) const PERSISTENT: u32 = 5;

/// What is told of a VM once.
const LEFT: &str = "its guest has migrated away: what is left here stands still, and is looked at no more";

/// The appliance.
pub(super) struct Supervisor {
    pub(super) config: Config,
    config_path: PathBuf,
    /// The files of rules that workers have begun with.
    rules: Vec<Stamp>,
    pub(super) started: Instant,
    pub(super) alerts: Pipeline,
    pub(super) scheduler: Scheduler,
    pub(super) kernels: Blocks,
    pub(super) modules: Blocks,
    pub(super) vms: BTreeMap<VmId, Watched>,
    next_id: VmId,
    pub(super) responses: Responses,
    /// What the policy says of looking, by VM.
    pub(super) looks: BTreeMap<String, Look>,
    pub(super) events: SyncSender<Event>,
    pub(super) chance: RandomState,
    pub(super) draws: u64,
    /// What is the matter with the host, as was told.
    pub(super) trouble: BTreeMap<&'static str, String>,
    /// A firewall policy is enforced.
    pub(super) guards: bool,
}

impl Supervisor {
    /// With nothing seen yet.
    pub(super) fn new(
        config: Config,
        config_path: PathBuf,
        alerts: Pipeline,
        events: SyncSender<Event>,
    ) -> Result<Supervisor> {
        let responses = store::load(&config.state)?;
        let scheduler = Scheduler::new(config.looks.limits(), Duration::ZERO);
        Ok(Supervisor {
            rules: rules(&config),
            config,
            config_path,
            started: Instant::now(),
            alerts,
            scheduler,
            kernels: Blocks::default(),
            modules: Blocks::default(),
            vms: BTreeMap::new(),
            next_id: 1,
            responses,
            looks: BTreeMap::new(),
            events,
            chance: RandomState::new(),
            draws: 0,
            trouble: BTreeMap::new(),
            guards: false,
        })
    }

    /// Since the start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Works until it is told to end.
    pub(super) fn run(&mut self, events: &Receiver<Event>) {
        loop {
            let wake_at = self.scheduler.wake_at().unwrap_or(Duration::MAX);
            let wait = wake_at.saturating_sub(self.now()).clamp(Duration::from_millis(1), TICK);
            match events.recv_timeout(wait) {
                Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.end_what_hangs();
            self.start_workers();
            self.begin_looks();
        }
    }

    /// Ends all workers, and waits a little for alerts to leave.
    pub(super) fn end(mut self) {
        self.vms.values_mut().for_each(Watched::end_worker);
        self.alerts.close(Duration::from_secs(5));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Vms(Ok(listed)) => self.see(listed),
            Event::Vms(Err(why)) => self.trouble("discovery", &format!("VMs cannot be listed: {why}")),
            Event::Worker(id, reply) => self.hear(id, reply),
            Event::Learned(id, profile) => self.learned(id, &profile),
            Event::Unpacked(id, file) => self.unpacked(id, file),
            Event::Paused(id, result) => self.answer_pause(id, result),
            Event::Registers(id, told) => self.answer_registers(id, told),
            Event::Control(asked, answer) => control::handle(self, asked, &answer),
            Event::Alert(alert) => self.raise(vec![*alert]),
            Event::Guard(event) => self.hear_guard(&event),
            Event::Finished(finished) => self.finished(*finished),
            Event::Reload => drop(self.reload()),
            Event::End => {}
        }
    }

    /// Raises alerts. What the disk does not take is told in the log, and as trouble.
    pub(super) fn raise(&mut self, alerts: Vec<Alert>) {
        for alert in &alerts {
            let (vm, kind) = (alert.vm.as_deref().unwrap_or("-"), alert.kind());
            tracing::debug!(vm, kind, id = alert.id, "{}", escape(alert.summary()));
        }
        match self.alerts.raise_all(alerts) {
            // Told by the log alone: what would tell of it could not be kept either.
            Ok(()) => drop(self.trouble.remove("alerts")),
            Err(error) => {
                if self.trouble.insert("alerts", error.to_string()).is_none() {
                    tracing::error!("alerts cannot be kept: {error}");
                }
            }
        }
    }

    /// Tells once that something of the host is wrong.
    pub(super) fn trouble(&mut self, what: &'static str, why: &str) {
        if self.trouble.insert(what, why.to_owned()).is_none() {
            tracing::error!(what, "{}", escape(why));
            self.raise(vec![tell::health(None, what, "failed", why)]);
        }
    }

    /// Tells once that it is right again.
    pub(super) fn well(&mut self, what: &'static str) {
        if self.trouble.remove(what).is_some() {
            tracing::info!(what, "works again");
            self.raise(vec![tell::health(None, what, "recovered", "works again")]);
        }
    }

    /// The same for one VM.
    pub(super) fn vm_trouble(&mut self, id: VmId, what: &'static str, why: &str) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let name = vm.seen.name.clone();
        if vm.trouble.insert(what, why.to_owned()).is_none() {
            tracing::warn!(vm = name, what, "{}", escape(why));
            self.raise(vec![tell::health(Some(&name), what, "failed", why)]);
        }
    }

    pub(super) fn vm_well(&mut self, id: VmId, what: &'static str) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        if vm.trouble.remove(what).is_some() {
            let name = vm.seen.name.clone();
            tracing::info!(vm = name, what, "works again");
            self.raise(vec![tell::health(Some(&name), what, "recovered", "works again")]);
        }
    }

    /// VMs came or went.
    fn see(&mut self, Listed { seen, left }: Listed) {
        self.well("discovery");
        let seen: BTreeSet<Seen> = seen.into_iter().collect();
        let gone: Vec<VmId> =
            self.vms.iter().filter(|(_, vm)| !seen.contains(&vm.seen)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.forget(id));
        let known: BTreeSet<Seen> = self.vms.values().map(|vm| vm.seen.clone()).collect();
        for seen in seen.difference(&known) {
            tracing::info!(vm = seen.name, target = seen.target, "appeared");
            let id = self.next_id;
            self.next_id += 1;
            self.vms.insert(id, Watched::new(seen.clone(), self.now()));
        }
        self.see_left(&left);
    }

    /// Guests migrate: what they leave here is looked at no more, unless they come back.
    fn see_left(&mut self, left: &BTreeSet<String>) {
        let has_left = |vm: &Watched| left.contains(&vm.seen.incarnation);
        let changed = self.vms.iter().filter(|(_, vm)| has_left(vm) != vm.has_left).map(|(id, _)| *id);
        for id in changed.collect::<Vec<_>>() {
            let Some(vm) = self.vms.get_mut(&id) else { continue };
            vm.has_left = !vm.has_left;
            if !vm.has_left {
                self.vm_well(id, "migrated");
                continue;
            }
            self.replace_worker(id);
            self.vm_trouble(id, "migrated", LEFT);
        }
    }

    fn forget(&mut self, id: VmId) {
        let Some(mut vm) = self.vms.remove(&id) else { return };
        self.scheduler.remove(id);
        tracing::info!(vm = vm.seen.name, "gone");
        vm.end_worker();
        let findings = vm.findings.into_keys().collect();
        self.responses.forget(&vm.seen.name, &findings);
        self.keep_responses();
    }

    /// What the policy says of looking at a VM.
    pub(super) fn look_of(&self, vm: &str) -> Look {
        self.looks.get(vm).cloned().unwrap_or_default()
    }

    /// Looks at a VM as often as policy and configuration want it, from now on.
    pub(super) fn schedule(&mut self, id: VmId) {
        let Some(vm) = self.vms.get(&id) else { return };
        let every = self.looks.get(&vm.seen.name).and_then(|look| look.every_s);
        let periods = self.config.looks.periods(every.map(Duration::from_secs));
        self.scheduler.set(id, periods, self.started.elapsed());
    }

    /// What the policy says of looking, from now on.
    pub(super) fn set_looks(&mut self, looks: BTreeMap<String, Look>) {
        self.looks = looks;
        let ready = self.vms.iter().filter(|(_, vm)| vm.ready.is_some());
        let ready: Vec<VmId> = ready.map(|(id, _)| *id).collect();
        ready.into_iter().for_each(|id| self.schedule(id));
    }

    pub(super) fn keep_responses(&mut self) {
        match store::save(&self.config.state, &self.responses) {
            Ok(()) => self.well("state"),
            Err(error) => self.trouble("state", &format!("what was decided cannot be kept: {error:#}")),
        }
    }

    fn hear_guard(&mut self, event: &enforcer::Event) {
        let (port, vm) = (event.port.as_deref().unwrap_or_default(), event.vm.as_deref().unwrap_or_default());
        let text = event.text.as_deref().unwrap_or_default();
        tracing::info!(event = event.event, port, vm, "{}", escape(text));
        match event.event {
            "failed" => self.trouble("firewall", text),
            "flows" => self.trouble("flows", text),
            "hears" => self.well("flows"),
            "names failing" => self.trouble("names", text),
            "names known" => self.well("names"),
            "processes" => {}
            "repaired" | "rolled back" => self.raise(vec![tell::policy(event)]),
            _ => self.well("firewall"),
        }
    }

    /// Takes a changed configuration and policy. What is wrong changes nothing.
    pub(super) fn reload(&mut self) -> Result<String> {
        let done = self.try_reload();
        match &done {
            Ok(what) => {
                tracing::info!("reloaded: {what}");
                self.well("reload");
            }
            Err(error) => {
                self.trouble.remove("reload");
                self.trouble("reload", &format!("nothing was changed: {error:#}"));
            }
        }
        done
    }

    fn try_reload(&mut self) -> Result<String> {
        let config = Config::load(&self.config_path)?;
        // Policies are tested and enforced in one transaction; only then anything else changes.
        let looks = guard::apply(&config)?;
        self.alerts.reconfigure(&config.alerts)?;
        self.scheduler.set_limits(config.looks.limits());
        let nobody = Seen { name: String::new(), target: String::new(), incarnation: String::new() };
        let rules = rules(&config);
        let restart = begin(&self.config, &nobody) != begin(&config, &nobody) || rules != self.rules;
        self.rules = rules;
        // What threads began with holds until a restart.
        let of_threads =
            |config: &Config| format!("{:?}", (&config.vms, &config.control, &config.log, &config.state));
        let waits = of_threads(&self.config) != of_threads(&config);
        self.config = config;
        self.set_looks(looks);
        self.well("policy");
        self.keep_guarding();
        self.read_files_again();
        if restart {
            // Rules and limits are a worker's from its start on.
            let ids: Vec<VmId> = self.vms.keys().copied().collect();
            ids.into_iter().for_each(|id| self.replace_worker(id));
        }
        let restart =
            if waits { "; what changed of vms, control, log and state takes a restart" } else { "" };
        Ok(format!("{} VMs have a policy{restart}", self.looks.len()))
    }

    /// The VM of a name.
    pub(super) fn by_name(&self, name: &str) -> Option<VmId> {
        self.vms.iter().find(|(_, vm)| vm.seen.name == name).map(|(id, _)| *id)
    }

    /// The same with what is known of it.
    pub(super) fn named(&self, name: &str) -> Option<&Watched> {
        self.vms.get(&self.by_name(name)?)
    }

    /// Enforces the policy. One that cannot be enforced leaves the last good one.
    pub(super) fn guard(&mut self) {
        let applied = guard::apply(&self.config);
        if let Err(error) = &applied {
            self.trouble("policy", &format!("the last good policy stays: {error:#}"));
        }
        match applied.or_else(|_| guard::last_good(&self.config)) {
            Ok(looks) => self.set_looks(looks),
            Err(error) => self.trouble("firewall", &format!("{error:#}")),
        }
        self.keep_guarding();
    }

    fn keep_guarding(&mut self) {
        if self.guards {
            return;
        }
        match guard::start(&self.config, self.events.clone()) {
            Ok(guards) => self.guards = guards,
            Err(error) => self.trouble("firewall", &format!("{error:#}")),
        }
    }
}

/// The files of rules as they are now.
fn rules(config: &Config) -> Vec<Stamp> {
    stamps::of(config.looks.rules.iter().chain(&config.looks.hashes).map(PathBuf::as_path))
}
