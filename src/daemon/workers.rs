//! The supervisor's dealings with its workers.
//!
//! *Does*: starts them, asks them one thing at a time, hears them, ends those that fail, hang or misbehave and starts them again, later each time.
//! *Trusts*: no word of theirs but on their own VM. *Never*: waits for one.

use super::config::Config;
use super::groups::Room;
use super::process::{Worker, WorkerId};
use super::protocol::{Begin, Ready, Reply, Request};
use super::schedule::{Kind, VmId};
use super::supervisor::{PERSISTENT, Supervisor};
use super::vms::Seen;
use super::watched::{Busy, Watched};
use super::{Event, Process, tell, worker};
use crate::attach;
use crate::output::escape;
use crate::sandbox;
use lynceus_introspect::{ControlError, Processor};
use lynceus_policy::Look;
use lynceus_profiles::store::ProfileStore;
use lynceus_scanners::DETECTORS;
use std::hash::BuildHasher;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::time::Duration;

/// The detectors of [`Kind::Processes`].
const QUICK: [&str; 2] = ["hidden_task", "hidden_module"];
/// So many workers find their kernels at the same time: that takes the most memory, and a host may start with a hundred VMs.
const MAX_ATTACHING: usize = 8;
/// A VM that was seen for the first time this long ago should have booted.
const TIME_TO_BOOT: Duration = Duration::from_secs(120);
/// A guest that is paused for a look waits no longer for its worker.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Starts the workers that are missing.
    pub(super) fn start_workers(&mut self) {
        let now = self.now();
        let attaching = self.vms.values().filter(|vm| matches!(vm.busy, Some((Busy::Attaching, _)))).count();
        let missing =
            self.vms.iter().filter(|(_, vm)| vm.worker.is_none() && vm.not_before <= now && !vm.has_left);
        let mut missing: Vec<(u64, VmId)> = missing.map(|(id, vm)| (vm.turn, *id)).collect();
        // Who makes its attach take long holds up those who do the same, and not who comes anew.
        missing.sort_unstable();
        for (_, id) in missing.into_iter().take(MAX_ATTACHING.saturating_sub(attaching)) {
            let Some(vm) = self.vms.get_mut(&id) else { continue };
            vm.turn += 1;
            let begin = Begin {
                kernels: self.kernels.offers(),
                modules: vm.modules.key.as_ref().and_then(|key| self.modules.offer(key)),
                unpacks: vm.unpacks.clone(),
                ..begin(&self.config, &vm.seen)
            };
            let room = Room::of(begin.memory_bytes, &self.config.workers, &begin.target);
            match Worker::start(WorkerId { vm: id, turn: vm.turn }, &begin, &room, &self.events) {
                Ok(worker) => {
                    vm.worker = Some(worker);
                    vm.busy = Some((Busy::Attaching, now + worker::TIME_TO_ATTACH));
                }
                Err(error) => {
                    vm.back_off(now);
                    self.vm_trouble(id, "worker", &format!("{error:#}"));
                }
            }
        }
    }

    /// A worker that takes too long does not do what it should.
    pub(super) fn end_what_hangs(&mut self) {
        let now = self.now();
        let is_late = |vm: &Watched| vm.busy.as_ref().is_some_and(|(_, until)| *until < now);
        let hanging: Vec<VmId> = self.vms.iter().filter(|(_, vm)| is_late(vm)).map(|(id, _)| *id).collect();
        for id in hanging {
            let what = self.vms.get(&id).and_then(|vm| vm.busy.as_ref()).map_or("", |(busy, _)| busy.name());
            self.fail(id, &format!("hangs: {what} is not done in time"), false);
        }
    }

    /// A worker is of no more use: the next one comes later.
    fn fail(&mut self, id: VmId, why: &str, hung_up: bool) {
        let now = self.now();
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let Some(mut worker) = vm.worker.take() else { return };
        let cost = worker.cost();
        let how = worker.end(hung_up);
        vm.counts.failures += 1;
        vm.counts.cost += cost;
        vm.ready = None;
        vm.paused = None;
        let unpacks = vm.unpacks.take();
        if let Some((Busy::Listing(asked), _)) = vm.busy.take() {
            let _ = asked.send(Err(format!("{why}; {how}")));
        }
        vm.back_off(now);
        self.scheduler.done(id, cost, 0.0, now);
        self.scheduler.remove(id);
        if let Some(unpacks) = unpacks {
            self.not_unpacked(id, &unpacks, why);
        }
        self.vm_trouble(id, "worker", &format!("{why}; {how}"));
    }

    /// No kernel was found: a guest that was just started may still be in its firmware, and that is no trouble yet.
    fn not_attached(&mut self, id: VmId, why: &str) {
        let now = self.now();
        let Some(vm) = self.vms.get_mut(&id) else { return };
        if now.saturating_sub(vm.since) > TIME_TO_BOOT {
            return self.fail(id, why, true);
        }
        tracing::debug!(vm = vm.seen.name, "not yet: {}", escape(why));
        vm.worker.take().map(|worker| worker.end(true));
        vm.back_off(now);
    }

    /// A worker said something, or hung up.
    pub(super) fn hear(&mut self, id: WorkerId, reply: Option<Result<Reply, String>>) {
        let Some(vm) = self.vms.get_mut(&id.vm) else { return };
        if vm.worker.as_ref().is_none_or(|worker| worker.id != id) {
            return;
        }
        let busy = vm.busy.take();
        match (reply, busy) {
            (Some(Ok(Reply::Ready(ready))), Some((Busy::Attaching, _))) => self.ready(id.vm, *ready),
            (Some(Ok(Reply::Looked(mut looked))), Some((Busy::Looking(kind), _))) => {
                let lacks = std::mem::take(&mut looked.lacks);
                self.looked(id.vm, kind, *looked);
                self.go_on(id.vm);
                self.share_modules(id.vm, &lacks);
            }
            (Some(Ok(Reply::Evidence(text))), Some((Busy::Keeping(alert), _))) => {
                self.keep_evidence(&alert, text);
                self.go_on(id.vm);
            }
            (Some(Ok(Reply::Processes(all))), Some((Busy::Listing(asked), _))) => {
                let _ = asked.send(Ok(all));
                self.go_on(id.vm);
            }
            (Some(Ok(Reply::Failed(why))), Some((Busy::Keeping(_), _))) => {
                tracing::warn!("evidence: {}", escape(&why));
                self.go_on(id.vm);
            }
            (Some(Ok(reply @ (Reply::Pause | Reply::Resume))), Some(busy)) => {
                vm.busy = Some(busy);
                self.pause(id, matches!(reply, Reply::Pause));
            }
            (Some(Ok(Reply::Registers)), Some(busy)) => {
                vm.busy = Some(busy);
                self.tell_registers(id);
            }
            (Some(Ok(Reply::Failed(why))), Some((Busy::Attaching, _))) if vm.unpacks.is_some() => {
                self.unpacked(id, Err(why));
            }
            (Some(Ok(Reply::Failed(why))), Some((Busy::Attaching, _))) => self.not_attached(id.vm, &why),
            (Some(Ok(Reply::Failed(why))), busy) => {
                vm.busy = busy;
                self.fail(id.vm, &why, true);
            }
            (Some(Ok(_)), busy) => {
                vm.busy = busy;
                self.fail(id.vm, "it answered what was not asked", false);
            }
            (Some(Err(why)), busy) => {
                vm.busy = busy;
                self.fail(id.vm, &format!("what it says cannot be understood: {why}"), true);
            }
            (None, busy) => {
                vm.busy = busy;
                self.fail(id.vm, "it is gone", true);
            }
        }
    }

    /// What a worker learned is kept for the next worker of the same VM, so that it attaches in milliseconds. Nobody else gets it: a worker that its
    /// guest owns could have made it up.
    pub(super) fn learned(&mut self, id: WorkerId, profile: &[u8]) {
        let Some(vm) = self.vms.get(&id.vm).filter(|vm| vm.ready.is_none()) else { return };
        let folder = self.config.looks.profiles.clone().unwrap_or_else(ProfileStore::default_directory);
        let kept = ProfileStore::open(folder).and_then(|store| store.keep_for(&vm.seen.name, profile));
        if let Err(error) = kept {
            tracing::warn!(vm = vm.seen.name, "what was learned of its kernel cannot be kept: {error}");
        }
        sandbox::give_memory_back();
    }

    fn ready(&mut self, id: VmId, ready: Ready) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let (name, image) = (vm.seen.name.clone(), ready.image.as_deref().unwrap_or("nothing"));
        tracing::info!(
            vm = name,
            kernel = escape(&ready.release),
            profile = escape(&ready.profile),
            code_compared_with = escape(image),
            modules_compared = ready.modules,
            took_ms = ready.took_ms,
            "attached"
        );
        ready.warnings.iter().for_each(|warning| tracing::warn!(vm = name, "{}", escape(warning)));
        let (unshared, lacks) = (ready.unshared.clone(), ready.lacks.clone());
        vm.ready = Some(ready);
        self.schedule(id);
        if let Some(digest) = unshared {
            self.share_kernel(id, &digest);
        }
        self.share_modules(id, &lacks);
    }

    /// A worker that has done something: what waits for it comes before its next look.
    pub(super) fn go_on(&mut self, id: VmId) {
        let now = self.now();
        let timeout = self.config.workers.timeout;
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let next = match vm.wants_listing.pop_front() {
            Some(asked) => Some((Request::Processes, Busy::Listing(asked))),
            None => vm
                .wants_evidence
                .pop_front()
                .map(|(alert, finding)| (Request::Evidence(finding), Busy::Keeping(alert))),
        };
        match next {
            Some((request, busy)) => {
                vm.busy = Some((busy, now + timeout));
                self.ask(id, &request);
            }
            None => {
                let cost = vm.worker.as_mut().map(Worker::cost).unwrap_or_default();
                vm.counts.cost += cost;
                let chance = self.draw();
                self.scheduler.done(id, cost, chance, now);
            }
        }
    }

    /// Somebody wants to see a VM's processes.
    pub(super) fn list(&mut self, id: VmId, asked: Sender<Result<Vec<Process>, String>>) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        if vm.ready.is_none() {
            let _ = asked.send(Err("it is not attached yet".to_owned()));
            return;
        }
        vm.wants_listing.push_back(asked);
        if vm.busy.is_none() {
            self.scheduler.hold(id);
            self.go_on(id);
        }
    }

    fn ask(&mut self, id: VmId, request: &Request) {
        let worker = self.vms.get_mut(&id).and_then(|vm| vm.worker.as_mut());
        if let Some(Err(error)) = worker.map(|worker| worker.ask(request)) {
            self.fail(id, &format!("{error:#}"), true);
        }
    }

    /// Between 0 and 1, as nobody can foresee.
    fn draw(&mut self) -> f64 {
        self.draws += 1;
        self.chance.hash_one(self.draws) as f64 / u64::MAX as f64
    }

    /// Begins the looks that are due.
    pub(super) fn begin_looks(&mut self) {
        loop {
            let now = self.now();
            let Some(next) = self.scheduler.next(now) else { return };
            let Some(vm) = self.vms.get_mut(&next.vm) else { continue };
            let name = vm.seen.name.clone();
            vm.busy = Some((Busy::Looking(next.kind), now + self.config.workers.timeout));
            let (_, late) = self.scheduler.late(next.vm);
            match late {
                0 => self.vm_well(next.vm, "late"),
                PERSISTENT.. => {
                    let why = format!(
                        "looks come late: {late} in a row; the budget for looks is too small for this host"
                    );
                    self.vm_trouble(next.vm, "late", &why);
                }
                _ => {}
            }
            let look = self.look_of(&name);
            let request = match next.kind {
                Kind::Signatures if look.scopes.is_empty() => {
                    Request::Scan(self.config.looks.scopes.iter().copied().collect())
                }
                Kind::Signatures => Request::Scan(look.scopes.iter().copied().collect()),
                kind => Request::Look(detectors(kind, &look)),
            };
            self.ask(next.vm, &request);
        }
    }

    /// A worker wants its guest paused, or to go on. A thread does that: QEMU may take its time.
    fn pause(&mut self, id: WorkerId, is_pause: bool) {
        let Some(vm) = self.vms.get_mut(&id.vm) else { return };
        if !is_pause {
            // The thread that paused it lets it go on, and tells.
            vm.paused = None;
            return;
        }
        if vm.paused.is_some() {
            return self.fail(id.vm, "it wants a paused guest paused", false);
        }
        let (go_on, wait) = channel();
        vm.paused = Some(go_on);
        let (target, events) = (vm.seen.target.clone(), self.events.clone());
        let allow = self.config.vms.allow_unrestricted;
        std::thread::spawn(move || hold_paused(id, &target, allow, &wait, &events));
    }

    /// A worker wants to know what its guest's processors hold.
    fn tell_registers(&mut self, id: WorkerId) {
        let Some(vm) = self.vms.get_mut(&id.vm) else { return };
        if std::mem::replace(&mut vm.asks_registers, true) {
            return self.fail(id.vm, "it asks for registers twice at once", false);
        }
        let (target, events) = (vm.seen.target.clone(), self.events.clone());
        let allow = self.config.vms.allow_unrestricted;
        std::thread::spawn(move || {
            let told = attach::control(&target, allow).and_then(|control| control.processors());
            let _ = events.send(Event::Registers(id, told));
        });
    }

    pub(super) fn answer_registers(&mut self, id: WorkerId, told: Result<Vec<Processor>, ControlError>) {
        let Some(vm) = self.vms.get_mut(&id.vm).filter(|vm| vm.turn == id.turn) else { return };
        vm.asks_registers = false;
        self.ask(id.vm, &Request::Registers(told));
    }

    pub(super) fn answer_pause(&mut self, id: WorkerId, result: Result<(), String>) {
        let Some(vm) = self.vms.get_mut(&id.vm).filter(|vm| vm.turn == id.turn) else { return };
        if result.is_err() {
            vm.paused = None;
        }
        self.ask(id.vm, &Request::Paused(result.err()));
    }

    pub(super) fn replace_worker(&mut self, id: VmId) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        vm.end_worker();
        self.scheduler.remove(id);
    }
}

/// Pauses a guest until told otherwise, or for too long.
fn hold_paused(
    id: WorkerId,
    target: &str,
    allow_unrestricted: bool,
    wait: &Receiver<()>,
    events: &SyncSender<Event>,
) {
    let control = match attach::control(target, allow_unrestricted) {
        Ok(control) => control,
        Err(why) => return drop(events.send(Event::Paused(id, Err(why.to_string())))),
    };
    let paused = control.pause().map_err(|error| error.to_string());
    let (paused, answer) = match paused {
        Ok(paused) => (Some(paused), Ok(())),
        Err(why) => (None, Err(why)),
    };
    let _ = events.send(Event::Paused(id, answer));
    let Some(paused) = paused else { return };
    // Ends when the supervisor lets go of the other end.
    let _ = wait.recv_timeout(LONGEST_PAUSE);
    let resumed = paused.resume().map_err(|error| error.to_string());
    let _ = events.send(Event::Paused(id, resumed));
}

/// The detectors of a kind that the policy does not switch off.
fn detectors(kind: Kind, look: &Look) -> Vec<String> {
    let is_quick = |name: &str| QUICK.contains(&name);
    let wanted = DETECTORS
        .iter()
        .map(|detector| detector.name)
        .filter(|name| is_quick(name) == (kind == Kind::Processes));
    wanted.filter(|name| !tell::is_off(look, name)).map(str::to_owned).collect()
}

/// What a worker needs to know.
pub(super) fn begin(config: &Config, seen: &Seen) -> Begin {
    Begin {
        target: seen.target.clone(),
        vm: seen.name.clone(),
        profiles: config.looks.profiles.clone(),
        rules: config.looks.rules.clone(),
        hashes: config.looks.hashes.clone(),
        tries: config.looks.tries,
        pause_ms: config.looks.pause_ms,
        allow_unrestricted: config.vms.allow_unrestricted,
        memory_bytes: config.workers.memory_mib << 20,
        compares: true,
        ..Begin::default()
    }
}
