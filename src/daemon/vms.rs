//! The VMs of this host, as they come and go.
//!
//! *Does*: lists QEMU's processes and Xen's domains once a second, or when Xen tells of a change, and passes on every list that differs from the
//! last. *Trusts*: the host's process table and the toolstack. *Never*: takes two VMs of one name for one, or a VM for another that had its number.

use super::Event;
use super::config::Vms;
use crate::commands::vms::Changes;
use anyhow::{Context, Result};
use lynceus_introspect::backend::{qemu, xen};
use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;

/// A VM, while it runs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Seen {
    /// What people call it; where two have one name, with what tells them apart.
    pub(super) name: String,
    /// What a worker opens.
    pub(super) target: String,
    /// What no other VM has, before or after: start time or number.
    pub(super) incarnation: String,
}

/// A thread that tells of the VMs.
pub(super) fn watch(vms: Vms, events: SyncSender<Event>) -> Result<()> {
    let changes = Changes::open()?;
    std::thread::spawn(move || {
        let mut known = None;
        loop {
            let now = list(&vms).map_err(|error| format!("{error:#}"));
            if known.as_ref() != Some(&now) {
                if events.send(Event::Vms(now.clone())).is_err() {
                    return;
                }
                known = Some(now);
            }
            changes.wait();
        }
    });
    Ok(())
}

fn list(vms: &Vms) -> Result<Vec<Seen>> {
    let mut all: Vec<Seen> = qemu::list()
        .into_iter()
        .map(|vm| Seen {
            name: vm.name,
            target: format!("pid:{}", vm.pid),
            incarnation: format!("{}-{}", vm.pid, vm.started_ticks),
        })
        .collect();
    if xen::is_here() {
        let domains = xen::list().context("the domains of Xen cannot be listed")?;
        all.extend(domains.into_iter().map(|domain| Seen {
            name: domain.name,
            target: format!("xen:{}", domain.id),
            incarnation: format!("{}-{}", domain.id, domain.uuid),
        }));
    }
    all.extend(vms.dumps.iter().map(|path| {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let target = path.display().to_string();
        Seen { name, incarnation: target.clone(), target }
    }));
    Ok(named_apart(all, vms))
}

/// Names are anyone's to give: of several VMs of one name each is called by its number as well.
fn named_apart(mut all: Vec<Seen>, vms: &Vms) -> Vec<Seen> {
    let mut count = BTreeMap::<String, u32>::new();
    all.iter().for_each(|vm| *count.entry(vm.name.clone()).or_default() += 1);
    all.retain(|vm| vms.is_meant(&vm.name));
    for vm in all.iter_mut().filter(|vm| count.get(&vm.name).is_some_and(|count| *count > 1)) {
        vm.name = format!("{} ({})", vm.name, vm.target);
    }
    all.sort();
    all
}

impl Vms {
    fn is_meant(&self, name: &str) -> bool {
        !self.exclude.contains(name) && self.only.as_ref().is_none_or(|only| only.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_a_name_are_two_and_excluded_ones_are_none() {
        let seen = |name: &str, pid: u32| Seen {
            name: name.to_owned(),
            target: format!("pid:{pid}"),
            incarnation: pid.to_string(),
        };
        let vms = Vms { exclude: ["test".to_owned()].into(), ..Vms::default() };
        let all = named_apart(vec![seen("web", 2), seen("web", 1), seen("db", 3), seen("test", 4)], &vms);
        let names: Vec<&str> = all.iter().map(|vm| vm.name.as_str()).collect();
        assert_eq!(names, ["db", "web (pid:1)", "web (pid:2)"]);
    }
}
