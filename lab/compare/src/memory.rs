//! Maps, and which frame each page of a process is in.
//!
//! Left out: PID 1, which takes the account and allocates for it.

use crate::report::Report;
use anyhow::{Context, Result};
use lynceus_introspect::Gva;
use lynceus_introspect::linux::View;
use lynceus_lab::truth::Truth;

pub(crate) fn compare(view: &View<'_>, truth: &Truth, report: &mut Report) -> Result<()> {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for pid in truth.pids().into_iter().filter(|pid| *pid != 1) {
        theirs.extend(truth.maps(pid)?.iter().map(|map| {
            let (start, end, dev) = (map.start, map.end, map.dev);
            format!(
                "{pid} {start:x}-{end:x} {} {:x} {dev:?} {} {:?}",
                map.perms, map.offset, map.inode, map.path
            )
        }));
    }
    for task in report.whole("tasks", view.tasks()) {
        if task.mm.is_null() || task.pid == 1 {
            continue;
        }
        let pid = task.pid;
        let Some(mm) = report.some("mm", view.mm(task.mm)) else { continue };
        ours.extend(report.whole("maps", view.maps(&mm)).iter().map(|map| {
            let dev = (map.device >> 20, map.device & 0xf_ffff);
            let (start, end) = (map.start.0, map.end.0);
            format!(
                "{pid} {start:x}-{end:x} {} {:x} {dev:?} {} {:?}",
                map.perms(),
                map.offset,
                map.inode,
                map.path
            )
        }));
    }
    report.compare("map", theirs, ours);
    frames(view, truth, report)
}

/// Where the guest's `pagemap` says each page of three processes is, against our walk of their page tables.
fn frames(view: &View<'_>, truth: &Truth, report: &mut Report) -> Result<()> {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    let tasks = report.whole("tasks", view.tasks());
    for name in ["lab-rwx", "lab-maps", "lab-inner"] {
        let pid = truth.task_named(name)?.pid;
        let task = tasks.iter().find(|task| task.pid == pid).with_context(|| format!("no {name}"))?;
        let Some(mm) = report.some("mm", view.mm(task.mm)) else { continue };
        let Some(space) = report.some("page tables", view.process_space(&mm)) else { continue };
        for (address, frame) in truth.pages(pid)? {
            theirs.push(format!("{name} {address:x} {frame:x}"));
            let Some(found) = report.some("page", space.translate(Gva(address))) else { continue };
            ours.push(format!("{name} {address:x} {:x}", found.gpa.0 >> 12));
        }
    }
    report.compare("page", theirs, ours);
    Ok(())
}
