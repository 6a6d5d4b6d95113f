//! What happens to domains while they are looked into: paused, ballooned, saved, restored, rebooted, destroyed.

use crate::checks::{attach, patient, state};
use crate::guest::Guest;
use crate::toolstack::{until, uptime, xl};
use anyhow::{Context, Result, ensure};
use lynceus_introspect::backend::xen::DomainState;
use lynceus_introspect::find::Attached;
use lynceus_introspect::linux::View;
use lynceus_introspect::observe::Options;
use lynceus_introspect::target::Target;
use lynceus_introspect::{Gap, Partial};
use lynceus_scanners::DETECTORS;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A kind of look, and how much it found.
type Look = (&'static str, fn(&View<'_>) -> Partial<()>);

const LOOKS: &[Look] = &[
    ("tasks", |view| counted(view.tasks())),
    ("processes", |view| counted(view.processes())),
    ("modules", |view| counted(view.modules())),
    ("maps", |view| {
        of_each(
            view,
            |task| task.mm.is_null(),
            |view, task| {
                let mut all = Partial::default();
                let mm = all.ok("mm", task.mm, view.mm(task.mm));
                mm.map_or(all, |mm| counted(view.maps(&mm)))
            },
        )
    }),
    ("files", |view| of_each(view, |_| false, |view, task| counted(view.files(task.files)))),
    ("mounts", |view| {
        of_each(
            view,
            |task| task.pid != 1,
            |view, task| {
                let mut all = Partial::default();
                let namespaces = all.ok("namespaces", task.at, view.namespaces(task));
                namespaces.map_or(all, |found| counted(view.mounts(found.mnt_at, None)))
            },
        )
    }),
    ("sockets", |view| counted(view.sockets_in_tables())),
    ("log", |view| counted(view.kernel_log())),
];

fn counted<T>(found: Partial<T>) -> Partial<()> {
    let mut all = Partial::default();
    all.items = all.absorb(found).into_iter().map(drop).collect();
    all
}

fn of_each(
    view: &View<'_>,
    left_out: impl Fn(&lynceus_introspect::linux::Task) -> bool,
    look: impl Fn(&View<'_>, &lynceus_introspect::linux::Task) -> Partial<()>,
) -> Partial<()> {
    let mut all = Partial::default();
    let tasks = view.tasks();
    for task in all.absorb(tasks).iter().filter(|task| !left_out(task)) {
        let found = look(view, task);
        let items = all.absorb(found);
        all.items.extend(items);
    }
    all
}

/// Foreign mappings that this process holds.
fn mappings() -> Result<usize> {
    Ok(fs::read_to_string("/proc/self/maps")?.matches("/dev/xen/privcmd").count())
}

/// Looks of every kind, one after the other, while `happens` does. How many there were, and how many had gaps.
fn meanwhile<T>(attached: &Attached, happens: impl FnOnce() -> Result<T>) -> Result<(T, usize, usize)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let (mut looks, mut with_gaps) = (0, 0);
            // At least once each after it happened.
            let mut after = 0;
            while after < 2 {
                after += usize::from(done.load(Ordering::Relaxed));
                for (_, look) in LOOKS {
                    let seen = attached.guest.observe(&Options::default(), look);
                    looks += 1;
                    with_gaps += usize::from(!seen.is_consistent() || !seen.result.is_complete());
                }
                for detector in DETECTORS.iter().take(2) {
                    let seen = (detector.run)(&attached.guest, &Options::default());
                    looks += 1;
                    with_gaps += usize::from(!seen.is_complete());
                }
            }
            (looks, with_gaps)
        });
        let happened = happens();
        done.store(true, Ordering::Relaxed);
        let (looks, with_gaps) = looking.join().map_err(|_| anyhow::anyhow!("a look panicked"))?;
        Ok((happened?, looks, with_gaps))
    })
}

fn told(guest: &Guest, what: &str, (looks, gaps): (usize, usize)) {
    println!("LAB {}: {what} during {looks} looks, {gaps} of them with gaps, at {} s", guest.name, uptime());
}

/// Whatever happens to the domain, looks end, gaps say what was missed, no domain stays paused, no mapping is left.
pub(crate) fn survives_whatever_happens(guest: Guest) -> Result<Guest> {
    let attached = attach(&guest)?;
    let (_, looks, gaps) = meanwhile(&attached, || {
        for _ in 0..5 {
            xl(&["pause", &guest.name])?;
            xl(&["unpause", &guest.name])?;
        }
        Ok(())
    })?;
    told(&guest, "paused and resumed five times", (looks, gaps));
    ensure!(state(&guest)? == DomainState::Running, "left paused");
    let (_, looks, gaps) = meanwhile(&attached, || {
        ballooned(&guest, 200)?;
        ballooned(&guest, 256)
    })?;
    told(&guest, "ballooned to 200 MiB and back", (looks, gaps));
    // Attached before it all, and everything is still read.
    let tasks = attached.guest.observe(&patient(), |view| view.tasks());
    ensure!(tasks.is_consistent() && tasks.result.is_complete(), "{:?}", tasks.result.gaps);
    let path = format!("/tmp/{}.saved", guest.name);
    let (_, looks, gaps) = meanwhile(&attached, || xl(&["save", &guest.name, &path]))?;
    told(&guest, "saved", (looks, gaps));
    lost(&attached)?;
    drop(attached);
    ensure!(mappings()? == 0, "{} mappings left", mappings()?);
    xl(&["restore", &path])?;
    fs::remove_file(path)?;
    let guest = guest.again()?;
    let attached = attach(&guest)?;
    let (_, looks, gaps) = meanwhile(&attached, || {
        let before = guest.id.to_string();
        xl(&["reboot", "-F", &guest.name])?;
        until("another domain", || xl(&["domid", &guest.name]).ok().filter(|id| id.trim() != before))
    })?;
    told(&guest, "rebooted", (looks, gaps));
    lost(&attached)?;
    drop(attached);
    ensure!(mappings()? == 0, "{} mappings left", mappings()?);
    let guest = guest.again()?;
    guest.wait_ready()?;
    let tasks = attach(&guest)?.guest.observe(&patient(), |view| view.tasks()).result;
    ensure!(
        tasks.is_complete() && tasks.items.iter().any(|task| task.comm == "lab-plain"),
        "{:?}",
        tasks.gaps
    );
    Ok(guest)
}

fn ballooned(guest: &Guest, mib: u32) -> Result<()> {
    xl(&["mem-set", &guest.name, &format!("{mib}m")])?;
    until("the balloon", || {
        let memory =
            lynceus_introspect::backend::xen::list().ok()?.into_iter().find(|it| it.id == guest.id)?;
        let now = memory.memory_bytes >> 20;
        now.abs_diff(mib.into()).le(&6).then_some(())
    })
}

/// What was attached to a domain that is gone says so.
fn lost(attached: &Attached) -> Result<()> {
    // Mapped parts are believed for a second.
    std::thread::sleep(Duration::from_millis(1100));
    let gaps: Vec<Gap> = attached.guest.view().tasks().gaps;
    ensure!(!gaps.is_empty(), "a domain that is gone gave a whole list");
    Ok(())
}

/// A look at a domain that is destroyed meanwhile is incomplete, and keeps nothing of it.
pub(crate) fn a_destroyed_domain_is_gone(guest: Guest) -> Result<()> {
    let attached = attach(&guest)?;
    let (_, looks, gaps) = meanwhile(&attached, || xl(&["destroy", &guest.name]))?;
    told(&guest, "destroyed", (looks, gaps));
    lost(&attached)?;
    ensure!(mappings()? == 0, "{} mappings of a domain that is gone", mappings()?);
    drop(attached);
    let started = Instant::now();
    until("the domain's end", || xl(&["domname", &guest.id.to_string()]).is_err().then_some(()))?;
    ensure!(Target::open(&guest.target()).is_err(), "opened a destroyed domain");
    println!("LAB {}: gone after {:.1?}", guest.name, started.elapsed());
    Ok(())
}

impl Guest {
    /// The domain of that name that there is now.
    pub(crate) fn again(self) -> Result<Guest> {
        let id = xl(&["domid", &self.name])?.trim().parse().context("domid")?;
        Guest::connect(self.name, self.kind, self.kernel, id)
    }
}
