//! Looks at a guest that does not stand still, and the walk of its page tables held against QEMU's own.

use anyhow::{Context, Result, ensure};
use lynceus_introspect::Gva;
use lynceus_introspect::find::{self, AttachError, Attached};
use lynceus_introspect::linux::Task;
use lynceus_introspect::observe::Options;
use lynceus_introspect::target::Target;
use lynceus_lab::truth;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// Process lists in a row, at least.
const LOOKS: usize = 1000;
/// So many processes of a storm are seen in them, at least.
const BORN: usize = 20;
/// A guest that hardly gets a processor beside the looks gets this long for that.
const PATIENCE: Duration = Duration::from_secs(120);

fn attach(guest: &Guest) -> Result<Attached> {
    Ok(find::attach_target(&Target::open(&format!("pid:{}", guest.pid()))?, None)?)
}

/// A thousand process lists of a guest that forks and exits as fast as it can: never one that lacks a process that lived
/// throughout, never one with a process that never was.
fn storm(kernel: KernelVersion, vcpus: u32) -> Result<()> {
    let guest = Guest::boot(&Spec { vcpus, ..Spec::new(kernel, Paging::Four) })?;
    guest.storm(3600)?;
    // Workers of the kernel come and go as it likes.
    let lives = |task: &truth::Task| !task.comm.starts_with("kworker/") && task.comm != "lab-storm";
    let before: BTreeMap<u32, truth::Task> =
        guest.truth()?.tasks()?.into_iter().map(|t| (t.pid, t)).collect();
    let storm = before.values().find(|task| task.comm == "lab-storm").context("no storm")?.pid;
    let attached = attach(&guest)?;
    let (mut looks, mut moved, mut paused, mut born) = (0, 0, 0, HashSet::new());
    let mut seen: Vec<HashSet<u32>> = Vec::new();
    let started = Instant::now();
    while looks < LOOKS || (born.len() <= BORN && started.elapsed() < PATIENCE) {
        looks += 1;
        let look = attached.guest.observe(&Options::default(), |view| view.tasks());
        if !look.is_consistent() {
            // Said, not hidden: such a list counts as incomplete.
            moved += 1;
            continue;
        }
        paused += usize::from(look.pause.is_some());
        let tasks = look.result;
        ensure!(tasks.is_complete(), "{:?}", tasks.gaps);
        tasks.items.iter().try_for_each(|task| existed(task, &before, storm))?;
        born.extend(tasks.items.iter().filter(|task| task.ppid == storm).map(|task| task.pid));
        let pids: HashSet<u32> = tasks.items.iter().map(|task| task.pid).collect();
        ensure!(pids.len() == tasks.items.len(), "a process is listed twice");
        seen.push(pids);
    }
    let after: HashSet<u32> =
        guest.truth()?.tasks()?.into_iter().filter(lives).map(|task| task.pid).collect();
    let throughout: HashSet<u32> = before
        .values()
        .filter(|task| lives(task) && after.contains(&task.pid))
        .map(|task| task.pid)
        .collect();
    ensure!(throughout.len() > 40, "only {} processes lived throughout", throughout.len());
    for pids in &seen {
        let lost: Vec<_> = throughout.difference(pids).collect();
        ensure!(lost.is_empty(), "lost {lost:?}");
    }
    println!(
        "{kernel}, {vcpus} vCPUs: {looks} lists, {moved} inconsistent, {paused} paused, {} of the storm seen",
        born.len()
    );
    ensure!(moved * 10 < looks, "{moved} of {looks} looks were not consistent");
    ensure!(born.len() > BORN, "the storm was not seen: {} processes", born.len());
    let status = guest.qmp("query-status", json!({}))?;
    ensure!(status["status"] == "running", "left in state {status}");
    Ok(())
}

/// Whether a listed process is one of those that were there, a child of the storm, or a new worker of the kernel.
fn existed(task: &Task, before: &BTreeMap<u32, truth::Task>, storm: u32) -> Result<()> {
    let known = before.get(&task.pid).is_some_and(|known| {
        known.ppid == task.ppid && (known.comm == task.comm || known.is_kernel_thread())
    });
    let child = task.ppid == storm && task.comm == "lab-storm" && task.pid > storm;
    // A child that is just being made has its parent's name already; one that is an orphan belongs to PID 1.
    let worker = task.kthread && task.ppid == 2;
    ensure!(known || child || worker, "never existed: {task:?}");
    Ok(())
}

#[test]
fn a_thousand_lists_in_a_storm_on_5_10() -> Result<()> {
    storm(KernelVersion::V5_10, 1)
}

#[test]
fn a_thousand_lists_in_a_storm_on_6_1() -> Result<()> {
    storm(KernelVersion::V6_1, 2)
}

#[test]
fn a_thousand_lists_in_a_storm_on_6_12() -> Result<()> {
    storm(KernelVersion::V6_12, 2)
}

#[test]
fn a_thousand_lists_in_a_storm_on_7_x() -> Result<()> {
    storm(KernelVersion::V7, 1)
}

/// Our walk of the kernel's page tables against QEMU's (`gva2gpa`): what is mapped and what is not.
fn walk(paging: Paging) -> Result<()> {
    let guest = Guest::boot(&Spec::new(KernelVersion::V6_1, paging))?;
    guest.stop()?;
    let attached = attach(&guest)?;
    let view = attached.guest.view();
    // The kernel's half of the address space.
    let start = if paging == Paging::Four { 0xffff_8000_0000_0000 } else { 0xff00_0000_0000_0000 };
    let runs: Vec<_> = view.space().pages(Gva(start), Gva(u64::MAX), 1 << 22)?.collect();
    ensure!(runs.len() > 100, "{} runs of pages", runs.len());
    let (mut state, mut mapped, mut unmapped) = (0x9e37_79b9_7f4a_7c15_u64, 0, 0);
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for run in &runs {
        let inside = (0..8).map(|_| run.start.0 + random() % run.len_bytes).collect::<Vec<_>>();
        // The address after a run's end, which often is none.
        for at in inside.into_iter().chain([run.start.0.saturating_add(run.len_bytes)]).map(Gva) {
            let theirs = guest.gva2gpa(at.0)?;
            let ours = view.space().translate(at).ok().map(|found| found.gpa.0);
            ensure!(ours == theirs, "{at}: {ours:x?}, QEMU says {theirs:x?}");
            if ours.is_some() { mapped += 1 } else { unmapped += 1 }
        }
    }
    println!("{paging} levels: {mapped} mapped and {unmapped} unmapped addresses agree");
    ensure!(mapped > 1000 && unmapped > 10, "{mapped} mapped, {unmapped} not");
    Ok(())
}

#[test]
fn our_walk_is_qemus_with_4_levels() -> Result<()> {
    walk(Paging::Four)
}

#[test]
fn our_walk_is_qemus_with_5_levels() -> Result<()> {
    walk(Paging::Five)
}

#[test]
fn a_vm_that_exits_in_the_middle_is_incomplete() -> Result<()> {
    let guest = Guest::boot(&Spec::new(KernelVersion::V6_1, Paging::Four))?;
    let attached = attach(&guest)?;
    let whole = attached.guest.observe(&Options::default(), |view| view.tasks());
    ensure!(whole.result.is_complete(), "{:?}", whole.result.gaps);
    drop(guest);
    let look = attached.guest.observe(&Options::default(), |view| view.tasks());
    ensure!(!look.result.is_complete(), "a VM that is gone gave a whole list");
    Ok(())
}

#[test]
fn a_guest_in_its_firmware_is_no_kernel() -> Result<()> {
    let mut qemu = std::process::Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-machine", "q35", "-m", "64", "-display", "none", "-nodefaults"])
        .spawn()?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    let attached =
        Target::open(&format!("pid:{}", qemu.id())).map(|target| find::attach_target(&target, None));
    qemu.kill()?;
    qemu.wait()?;
    ensure!(matches!(&attached?, Err(AttachError::NoKernel { .. })), "attached to a guest without a kernel");
    Ok(())
}
