//! Which VM is looked at next, and how.
//!
//! *Does*: gives each VM its looks, at moments that chance chooses, earliest deadline first, within a budget of CPU time for the host and for each
//! VM. *Trusts*: the clock that it is given. *Never*: lets a VM that is expensive to look at delay the looks at others for long, or forgets a look
//! that came late: those are counted.
//!
//! It has no clock and no threads of its own: times are durations since some start.

use std::collections::BTreeMap;
use std::time::Duration;

/// A VM, by the number that the supervisor gave it.
pub(super) type VmId = u64;

/// Kinds of look, the most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Kind {
    /// Hidden tasks and modules.
    Processes,
    /// All other detectors.
    Integrity,
    /// Signatures.
    Signatures,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Kind; 3] = [Kind::Processes, Kind::Integrity, Kind::Signatures];

    /// Its name, for people and for metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Processes => "processes",
            Kind::Integrity => "integrity",
            Kind::Signatures => "signatures",
        }
    }
}

/// On average so much time between two looks of each kind; none for no such looks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Periods {
    /// [`Kind::Processes`]
    pub(super) processes: Option<Duration>,
    /// [`Kind::Integrity`]
    pub(super) integrity: Option<Duration>,
    /// [`Kind::Signatures`]
    pub(super) signatures: Option<Duration>,
}

impl Periods {
    fn of(&self, kind: Kind) -> Option<Duration> {
        match kind {
            Kind::Processes => self.processes,
            Kind::Integrity => self.integrity,
            Kind::Signatures => self.signatures,
        }
    }
}

/// What looks may cost.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Limits {
    /// CPU time for all looks, as a part of one core.
    pub(super) host: f64,
    /// CPU time for the looks at one VM, as a part of one core.
    pub(super) vm: f64,
    /// Looks at the same time.
    pub(super) parallel: usize,
}

/// Unused time is kept for so long.
const SAVED: Duration = Duration::from_secs(10);

/// CPU time that may be spent.
#[derive(Clone, Copy, Debug)]
struct Budget {
    rate: f64,
    left_s: f64,
    at: Duration,
}

impl Budget {
    fn new(rate: f64, at: Duration) -> Budget {
        Budget { rate, left_s: rate * SAVED.as_secs_f64(), at }
    }

    fn refill(&mut self, now: Duration) {
        let since = now.saturating_sub(self.at).as_secs_f64();
        self.left_s = (self.left_s + since * self.rate).min(self.rate * SAVED.as_secs_f64());
        self.at = now;
    }

    /// From when on something may be spent. What a look costs shows after it: it may overdraw, and the next one waits.
    fn ready_at(&self) -> Duration {
        let owed = (-self.left_s).max(0.0);
        self.at + Duration::try_from_secs_f64(owed / self.rate.max(1e-6)).unwrap_or(Duration::MAX / 4)
    }

    fn spend(&mut self, cost: Duration) {
        self.left_s -= cost.as_secs_f64();
    }
}

/// The next look of one kind at one VM.
#[derive(Clone, Copy, Debug)]
struct Job {
    due: Duration,
    /// The latest moment that is no delay.
    deadline: Duration,
}

#[derive(Debug)]
struct Vm {
    periods: Periods,
    jobs: BTreeMap<Kind, Job>,
    running: Option<Kind>,
    /// It does something else.
    held: bool,
    budget: Budget,
    late: u64,
    /// Looks in a row that came after their deadline.
    late_in_a_row: u32,
}

impl Vm {
    fn is_idle(&self) -> bool {
        self.running.is_none() && !self.held
    }
}

/// The looks of all VMs.
#[derive(Debug)]
pub(super) struct Scheduler {
    limits: Limits,
    budget: Budget,
    vms: BTreeMap<VmId, Vm>,
}

/// A look that should begin now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Next {
    /// At what.
    pub(super) vm: VmId,
    /// How.
    pub(super) kind: Kind,
    /// How long after its deadline.
    pub(super) late: Option<Duration>,
}

impl Scheduler {
    /// For no VM yet.
    pub(super) fn new(limits: Limits, now: Duration) -> Scheduler {
        Scheduler { limits, budget: Budget::new(limits.host, now), vms: BTreeMap::new() }
    }

    /// Other limits from now on.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.budget.rate = limits.host;
        self.vms.values_mut().for_each(|vm| vm.budget.rate = limits.vm);
    }

    /// A VM to look at from now on, or other periods for one. The first look of each kind is due at once.
    pub(super) fn set(&mut self, id: VmId, periods: Periods, now: Duration) {
        let budget = Budget::new(self.limits.vm, now);
        let vm = self.vms.entry(id).or_insert_with(|| Vm {
            periods,
            jobs: BTreeMap::new(),
            running: None,
            held: false,
            budget,
            late: 0,
            late_in_a_row: 0,
        });
        vm.periods = periods;
        vm.jobs.retain(|kind, _| periods.of(*kind).is_some());
        for kind in Kind::ALL {
            if let Some(every) = periods.of(kind) {
                let job = vm.jobs.entry(kind).or_insert(Job { due: now, deadline: now + every });
                // A shorter period holds at once.
                job.due = job.due.min(now + 2 * every);
                job.deadline = job.deadline.min(job.due + every);
            }
        }
    }

    /// A VM is gone.
    pub(super) fn remove(&mut self, id: VmId) {
        self.vms.remove(&id);
    }

    /// The look that should begin now; it counts as running until [`Scheduler::done`].
    pub(super) fn next(&mut self, now: Duration) -> Option<Next> {
        self.budget.refill(now);
        self.vms.values_mut().for_each(|vm| vm.budget.refill(now));
        let running = self.vms.values().filter(|vm| vm.running.is_some()).count();
        if running >= self.limits.parallel || self.budget.ready_at() > now {
            return None;
        }
        let ready = self.vms.iter().filter(|(_, vm)| vm.is_idle() && vm.budget.ready_at() <= now);
        let jobs = ready.flat_map(|(id, vm)| vm.jobs.iter().map(move |(kind, job)| (job, *kind, *id)));
        let due = jobs.filter(|(job, ..)| job.due <= now);
        let (job, kind, id) = due.min_by_key(|(job, kind, id)| (job.deadline, *kind, *id))?;
        let late = now.checked_sub(job.deadline).filter(|late| !late.is_zero());
        let vm = self.vms.get_mut(&id)?;
        vm.running = Some(kind);
        vm.late += u64::from(late.is_some());
        vm.late_in_a_row = if late.is_some() { vm.late_in_a_row.saturating_add(1) } else { 0 };
        Some(Next { vm: id, kind, late })
    }

    /// A VM does something else for now, until [`Scheduler::done`].
    pub(super) fn hold(&mut self, id: VmId) {
        if let Some(vm) = self.vms.get_mut(&id) {
            vm.held = true;
        }
    }

    /// A look, or something else, has ended and cost so much CPU time. `chance` (0 to 1) says when the next one of its kind comes: between at once and after
    /// twice the period, so that a guest that knows when it was looked at does not know when it will be.
    pub(super) fn done(&mut self, id: VmId, cost: Duration, chance: f64, now: Duration) {
        self.budget.spend(cost);
        let Some(vm) = self.vms.get_mut(&id) else { return };
        vm.budget.spend(cost);
        vm.held = false;
        let Some(kind) = vm.running.take() else { return };
        if let Some(every) = vm.periods.of(kind) {
            let due = now + some_time(every, chance);
            vm.jobs.insert(kind, Job { due, deadline: due + every });
        }
    }

    /// When [`Scheduler::next`] should be asked again, if nothing else happens.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let idle = self.vms.values().filter(|vm| vm.is_idle());
        let due = idle.flat_map(|vm| vm.jobs.values().map(|job| job.due.max(vm.budget.ready_at())));
        due.min().map(|due| due.max(self.budget.ready_at()))
    }

    /// Looks at a VM that came after their deadline, and how many of the last ones in a row.
    pub(super) fn late(&self, id: VmId) -> (u64, u32) {
        self.vms.get(&id).map_or((0, 0), |vm| (vm.late, vm.late_in_a_row))
    }
}

/// Between nothing and twice `mean`, as chance (0 to 1) has it.
pub(crate) fn some_time(mean: Duration, chance: f64) -> Duration {
    mean.mul_f64(2.0 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits { host: 1.0, vm: 1.0, parallel: 1 }
    }

    fn every(seconds: u64) -> Periods {
        Periods { processes: Some(SECOND * u32::try_from(seconds).unwrap()), ..Periods::default() }
    }

    /// Runs for a while with looks that cost `cost(vm)` each and take as long; how many looks each VM got.
    fn run(
        scheduler: &mut Scheduler,
        time: Duration,
        cost: impl Fn(VmId) -> Duration,
    ) -> BTreeMap<VmId, u32> {
        let (mut now, mut looks, mut step) = (Duration::ZERO, BTreeMap::new(), 0u32);
        while now < time {
            match scheduler.next(now) {
                Some(next) => {
                    now += cost(next.vm);
                    step = step.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                    scheduler.done(
                        next.vm,
                        cost(next.vm),
                        f64::from(step >> 8) / f64::from(u32::MAX >> 8),
                        now,
                    );
                    *looks.entry(next.vm).or_default() += 1;
                }
                None => now = scheduler.wake_at().unwrap_or(time).max(now + Duration::from_micros(1)),
            }
        }
        looks
    }

    #[test]
    fn a_vm_is_looked_at_at_once_and_then_once_a_period_on_average() {
        let mut scheduler = Scheduler::new(limits(), Duration::ZERO);
        scheduler.set(1, every(10), Duration::ZERO);
        assert_eq!(scheduler.next(Duration::ZERO), Some(Next { vm: 1, kind: Kind::Processes, late: None }));
        assert_eq!(scheduler.next(Duration::ZERO), None, "it runs");
        scheduler.done(1, Duration::ZERO, 0.5, SECOND);
        assert_eq!(scheduler.wake_at(), Some(SECOND * 11));
        let looks = run(&mut scheduler, SECOND * 10_000, |_| Duration::from_millis(1));
        assert!((900..1100).contains(&looks[&1]), "{looks:?}");
    }

    #[test]
    fn a_hundred_vms_get_their_looks_and_an_expensive_one_takes_them_from_nobody() {
        let mut scheduler = Scheduler::new(Limits { host: 0.5, vm: 0.05, parallel: 1 }, Duration::ZERO);
        (0..100).for_each(|id| scheduler.set(id, every(10), Duration::ZERO));
        let cost = |id| if id == 7 { SECOND * 2 } else { Duration::from_millis(10) };
        let looks = run(&mut scheduler, SECOND * 1000, cost);
        let others: Vec<u32> = looks.iter().filter(|(id, _)| **id != 7).map(|(_, looks)| *looks).collect();
        assert_eq!(others.len(), 99);
        assert!(others.iter().all(|looks| (70..130).contains(looks)), "{others:?}");
        // 5 % of 1,000 s, at 2 s each, and what was saved at first.
        assert!((20..30).contains(&looks[&7]), "{}", looks[&7]);
    }

    #[test]
    fn the_host_gives_no_more_than_its_budget_and_delays_are_counted() {
        let mut scheduler = Scheduler::new(Limits { host: 0.1, vm: 0.1, parallel: 4 }, Duration::ZERO);
        (0..10).for_each(|id| scheduler.set(id, every(1), Duration::ZERO));
        let looks = run(&mut scheduler, SECOND * 1000, |_| Duration::from_millis(100));
        let all: u32 = looks.values().sum();
        assert!((950..1030).contains(&all), "{all}");
        assert!(looks.values().all(|looks| (90..115).contains(looks)), "fair: {looks:?}");
        assert!((0..10).all(|id| scheduler.late(id).0 > 50 && scheduler.late(id).1 > 0));
    }

    #[test]
    fn cheap_and_urgent_looks_go_before_a_scan_and_periods_can_change() {
        let mut scheduler = Scheduler::new(limits(), Duration::ZERO);
        let all =
            Periods { processes: Some(SECOND), integrity: Some(SECOND * 60), signatures: Some(SECOND * 900) };
        scheduler.set(1, all, Duration::ZERO);
        let order: Vec<Kind> = (0..3)
            .map(|_| {
                let next = scheduler.next(Duration::ZERO).unwrap();
                scheduler.done(1, Duration::ZERO, 1.0, Duration::ZERO);
                next.kind
            })
            .collect();
        assert_eq!(order, Kind::ALL);
        scheduler.set(1, Periods { signatures: Some(SECOND * 5), ..Periods::default() }, Duration::ZERO);
        assert_eq!(scheduler.wake_at(), Some(SECOND * 10));
        scheduler.hold(1);
        assert_eq!((scheduler.wake_at(), scheduler.next(SECOND * 99)), (None, None));
        scheduler.done(1, Duration::ZERO, 0.0, SECOND * 99);
        assert!(scheduler.next(SECOND * 99).is_some());
        scheduler.remove(1);
        assert_eq!((scheduler.wake_at(), scheduler.next(SECOND * 99)), (None, None));
    }
}
