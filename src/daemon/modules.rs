//! Files of the modules that guests have loaded, unpacked for their workers.
//!
//! A worker that has listed its guest's modules names those of which it has no file. A process that reads no guest reads the files
//! of these from the host's folder, locks itself down, unpacks them, and what it says is kept in a sealed file in memory
//! ([`super::kernels`]), which the VM's next worker maps. VMs with the same modules of the same kernel share one; no other worker gets it, so
//! that none learns from it what another VM has loaded.
//!
//! *Trusts*: the folder. Not the names: whoever owns a guest may make some up, and there is a limit to them and to how often their worker
//! is replaced for it. *Never*: looks into a file.

use super::protocol::{MAX_MODULES, ModulesOf, Unpacks};
use super::schedule::VmId;
use super::supervisor::Supervisor;
use crate::attach::modules_of;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest name of a module: `MODULE_NAME_LEN` (`include/linux/moduleparam.h`).
const MAX_NAME_BYTES: usize = 64 - 8;
/// A VM's worker is replaced for modules after so long at first, and then ever later.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The modules that a VM's workers compare with their files.
#[derive(Clone, Default, Debug)]
pub(super) struct Modules {
    /// What the block of their files is called.
    pub(super) key: Option<String>,
    /// Those that its workers named.
    names: BTreeSet<String>,
    /// Not replaced for them again before.
    not_before: Duration,
    wait: Duration,
}

impl Modules {
    /// With these as well; none if that changes nothing.
    fn with(&self, named: &[String]) -> Option<BTreeSet<String>> {
        let is_name = |name: &&String| {
            (1..=MAX_NAME_BYTES).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        let room = MAX_MODULES.saturating_sub(self.names.len());
        let new = named.iter().filter(is_name).filter(|name| !self.names.contains(*name)).take(room);
        let all: BTreeSet<String> = self.names.iter().chain(new).cloned().collect();
        (all.len() > self.names.len()).then_some(all)
    }

    /// What workers named before may be asked for at once.
    pub(super) fn again(&mut self) {
        (self.not_before, self.wait) = (Duration::ZERO, Duration::ZERO);
    }

    /// A worker is replaced for these.
    fn take(&mut self, names: BTreeSet<String>, key: String, now: Duration) {
        self.wait = self.wait.saturating_mul(2).clamp(FIRST_WAIT, LONGEST_WAIT);
        (self.names, self.key, self.not_before) = (names, Some(key), now.saturating_add(self.wait));
    }
}

impl Supervisor {
    /// A worker has no files of these modules: the VM's next one has, when they are unpacked.
    pub(super) fn share_modules(&mut self, id: VmId, lacks: &[String]) {
        let now = self.now();
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let Some(ready) = &vm.ready else { return };
        // Evidence comes first, or what else somebody waits for: the next look names them again.
        if lacks.is_empty() || vm.busy.is_some() || now < vm.modules.not_before {
            return;
        }
        // A block that had to make room is asked for once more.
        let is_gone = vm.modules.key.as_ref().is_some_and(|key| !self.modules.has(key));
        let names = match vm.modules.with(lacks) {
            None if is_gone => vm.modules.names.clone(),
            None => return,
            Some(names) => names,
        };
        let Some(folder) = modules_of(&self.config.looks.modules, &ready.release) else { return };
        let modules =
            ModulesOf { key: key(&ready.release, &names), folder, release: ready.release.clone(), names };
        if self.modules.has_refused(&modules.key) {
            return;
        }
        vm.modules.take(modules.names.clone(), modules.key.clone(), now);
        if !self.modules.has(&modules.key) {
            vm.unpacks = Some(Unpacks::Modules(modules));
        }
        self.replace_worker(id);
    }
}

/// The same for the same modules, and for no others.
fn key(release: &str, names: &BTreeSet<String>) -> String {
    let mut digest = Sha256::new();
    for name in std::iter::once(release).chain(names.iter().map(String::as_str)) {
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name);
    }
    format!("{:x}", digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_names_of_modules_are_taken_and_only_so_many() {
        let mut modules = Modules::default();
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        assert_eq!(modules.with(&names(&["../etc", "", "a b", "\0", &long])), None);
        let all = modules.with(&names(&["ext4", "nf_tables", "../x"])).unwrap();
        assert_eq!(all.len(), 2);
        modules.take(all, "key".to_owned(), Duration::ZERO);
        assert_eq!(modules.with(&names(&["ext4"])), None, "known already");
        let many: Vec<String> = (0..2 * MAX_MODULES).map(|number| format!("m{number}")).collect();
        assert_eq!(modules.with(&many).unwrap().len(), MAX_MODULES);
    }

    #[test]
    fn a_guest_that_makes_up_names_is_replaced_for_them_ever_later() {
        let mut modules = Modules::default();
        let mut waits = (0..12).map(|_| {
            modules.take(BTreeSet::new(), String::new(), Duration::ZERO);
            modules.not_before.as_secs()
        });
        assert_eq!((waits.next(), waits.next(), waits.last()), (Some(10), Some(20), Some(3600)));
    }

    #[test]
    fn a_key_is_of_one_set() {
        let of = |release: &str, all: &[&str]| key(release, &names(all).into_iter().collect());
        assert_eq!(of("6.1", &["a", "b"]), of("6.1", &["b", "a"]));
        assert_ne!(of("6.1", &["a", "b"]), of("6.1", &["ab"]));
        assert_ne!(of("6.1", &["a", "b"]), of("6.1a", &["b"]));
    }
}
