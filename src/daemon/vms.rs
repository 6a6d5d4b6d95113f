//! The VMs of this host, as they come and go.
//!
//! *Does*: lists QEMU's processes and Xen's domains once a second, or when Xen tells of a change, and passes on every list that differs from the
//! last. *Trusts*: the host's process table and the toolstack. *Never*: takes two VMs of one name for one, or a VM for another that had its number.

use super::Event;
use super::config::Vms;
use super::places::Places;
use crate::commands::vms::Changes;
use anyhow::{Context, Result};
use lynceus_introspect::backend::qemu::{self, Place};
use lynceus_introspect::backend::xen;
use std::collections::{BTreeMap, BTreeSet};
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

/// The VMs of a moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Listed {
    /// Those that have a guest, or had one.
    pub(super) seen: Vec<Seen>,
    /// Of these, by incarnation, those whose guest has migrated away.
    pub(super) left: BTreeSet<String>,
}

/// A thread that tells of the VMs.
pub(super) fn watch(vms: Vms, events: SyncSender<Event>) -> Result<()> {
    let changes = Changes::open()?;
    std::thread::spawn(move || {
        let (mut known, mut places) = (None, Places::default());
        loop {
            let now = list(&vms, &mut places).map_err(|error| format!("{error:#}"));
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

fn list(vms: &Vms, places: &mut Places) -> Result<Listed> {
    let qemus = qemu::list();
    places.update(&qemus, |vm| qemu::place(vm).ok());
    let mut listed = Listed::default();
    let mut all = Vec::new();
    for vm in &qemus {
        let incarnation = format!("{}-{}", vm.pid, vm.started_ticks);
        match places.of(vm) {
            // Nobody's memory yet.
            Place::Arriving => continue,
            Place::Left => drop(listed.left.insert(incarnation.clone())),
            Place::Here => {}
        }
        all.push(Seen { name: vm.name.clone(), target: format!("pid:{}", vm.pid), incarnation });
    }
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
    listed.seen = named_apart(all, vms, &listed.left);
    Ok(listed)
}

/// Names are anyone's to give: of several VMs of one name each is called by its number as well. A name stays with a guest that migrates.
fn named_apart(mut all: Vec<Seen>, vms: &Vms, left: &BTreeSet<String>) -> Vec<Seen> {
    let has_left = |vm: &Seen| left.contains(&vm.incarnation);
    let mut count = BTreeMap::<String, (u32, u32)>::new();
    for vm in &all {
        let (here, gone) = count.entry(vm.name.clone()).or_default();
        *if has_left(vm) { gone } else { here } += 1;
    }
    all.retain(|vm| vms.is_meant(&vm.name));
    for vm in &mut all {
        let (here, gone) = count.get(&vm.name).copied().unwrap_or_default();
        if here > 1 || (has_left(vm) && here + gone > 1) {
            vm.name = format!("{} ({})", vm.name, vm.target);
        }
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
        let all = named_apart(
            vec![seen("web", 2), seen("web", 1), seen("db", 3), seen("test", 4)],
            &vms,
            &BTreeSet::new(),
        );
        let names = |all: &[Seen]| all.iter().map(|vm| vm.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&all), ["db", "web (pid:1)", "web (pid:2)"]);
        let left = BTreeSet::from(["1".to_owned()]);
        let all = named_apart(vec![seen("web", 2), seen("web", 1)], &vms, &left);
        assert_eq!(names(&all), ["web", "web (pid:1)"], "the one that has the guest has the name");
        assert_eq!(names(&named_apart(vec![seen("web", 1)], &vms, &left)), ["web"]);
    }
}
