//! What a rootkit hides from the guest's own `ps` and `lsmod` is found from outside, live and in a dump, by where it is
//! missing from and nothing else is reported.
//!
//! The lab's module (`lab/module/hide.c`) takes the process `intruder` and itself off the kernel's lists.

use anyhow::{Context, Result, ensure};
use lynceus_introspect::find;
use lynceus_introspect::target::Target;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use lynceus_lab_compare::detect;
use lynceus_scanners::{DETECTORS, Finding, Subject};

const MODULE: &str = "lynceus_lab_hide";

/// How the process is hidden.
#[derive(Clone, Copy, PartialEq)]
enum From {
    /// Only off the task list.
    List,
    /// Only out of the pid table.
    Table,
    /// Off both: no list of the kernel names it.
    Both,
}

fn findings(target: &str) -> Result<Vec<Finding>> {
    let attached = find::attach_target(&Target::open(target)?, None)?;
    detect::findings(&attached, DETECTORS, &Default::default())
}

fn check(found: &[Finding], pid: u32, how: From) -> Result<()> {
    let [first, second] = found else { anyhow::bail!("not two findings: {found:#?}") };
    let (task, module) =
        if matches!(first.subject, Subject::Task { .. }) { (first, second) } else { (second, first) };
    ensure!(
        matches!(&task.subject, Subject::Task { pid: seen, comm, .. } if *seen == pid && comm == "intruder"),
        "{task:?}"
    );
    let missing_from: &[&str] = match how {
        From::List => &["task list"],
        From::Table => &["pid table"],
        From::Both => &["task list", "pid table"],
    };
    ensure!(task.missing_from == missing_from, "{task:?}");
    ensure!(task.seen_in.iter().any(|view| view == "slab pages"), "{task:?}");
    ensure!(matches!(&module.subject, Subject::Module { name, .. } if name == MODULE), "{module:?}");
    ensure!(module.missing_from == ["module list"], "{module:?}");
    Ok(())
}

fn hide_and_find(kernel: KernelVersion, paging: Paging, how: From) -> Result<()> {
    let guest = Guest::boot(&Spec { vcpus: 2, ..Spec::everyday(kernel, paging) })?;
    let target = format!("pid:{}", guest.pid());
    ensure!(findings(&target)?.is_empty(), "found something before anything was hidden");

    let pid = guest.truth()?.task_named("intruder")?.pid;
    let number = pid.to_string();
    let list = if how == From::Table { "0" } else { "1" };
    let table = if how == From::List { "0" } else { "1" };
    guest.hide(&[("hide_self", "1"), ("hide_pid", &number), ("hide_list", list), ("hide_table", table)])?;
    let inside = guest.run("ps; cat /proc/modules")?;
    ensure!(inside.contains("lab-plain") && inside.contains("veth"), "the guest's own view: {inside}");
    ensure!(!inside.contains("intruder") && !inside.contains(MODULE), "nothing was hidden: {inside}");

    check(&findings(&target)?, pid, how).context("live")?;
    guest.stop()?;
    let file = guest.ram_file();
    check(&findings(&file.display().to_string())?, pid, how).context("dump")
}

#[test]
fn off_the_task_list_on_5_10() -> Result<()> {
    hide_and_find(KernelVersion::V5_10, Paging::Four, From::List)
}

#[test]
fn off_the_task_list_on_6_1() -> Result<()> {
    hide_and_find(KernelVersion::V6_1, Paging::Five, From::List)
}

#[test]
fn off_the_task_list_on_7_x() -> Result<()> {
    hide_and_find(KernelVersion::V7, Paging::Four, From::List)
}

#[test]
fn out_of_the_pid_table_on_6_12() -> Result<()> {
    hide_and_find(KernelVersion::V6_12, Paging::Five, From::Table)
}

#[test]
fn off_everything_on_5_10() -> Result<()> {
    hide_and_find(KernelVersion::V5_10, Paging::Five, From::Both)
}

#[test]
fn off_everything_on_6_1() -> Result<()> {
    hide_and_find(KernelVersion::V6_1, Paging::Four, From::Both)
}

#[test]
fn off_everything_on_6_12() -> Result<()> {
    hide_and_find(KernelVersion::V6_12, Paging::Four, From::Both)
}

#[test]
fn off_everything_on_7_x() -> Result<()> {
    hide_and_find(KernelVersion::V7, Paging::Five, From::Both)
}
