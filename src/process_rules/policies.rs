//! What is enforced now, read again when its file is another.

use lynceus_firewall::state::{self, State};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The state that a folder holds.
pub(super) struct Policies {
    folder: PathBuf,
    known: Mutex<Option<(state::Stamp, Arc<State>)>>,
}

impl Policies {
    pub(super) fn new(folder: PathBuf) -> Policies {
        Policies { folder, known: Mutex::new(None) }
    }

    /// What is enforced; none where nothing is, or it cannot be read, and then nobody is answered.
    pub(super) fn now(&self) -> Option<Arc<State>> {
        let stamp = state::stamp(&self.folder)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, state)) = known.as_ref().filter(|(old, _)| *old == stamp) {
            return Some(state.clone());
        }
        let state = Arc::new(state::peek(&self.folder).ok()??);
        *known = Some((stamp, state.clone()));
        Some(state)
    }

    /// Whether the kernel's rules hold packets, and do not drop and tell of them.
    pub(super) fn holds(&self) -> bool {
        self.now().is_some_and(|state| state.holds)
    }

    /// The VM behind the interface of this number.
    pub(super) fn vm_behind(&self, index: Option<u32>) -> Option<String> {
        let state = self.now()?;
        state.ports.values().find(|port| Some(port.index) == index).map(|port| port.vm.clone())
    }

    /// The VMs with rules about processes.
    pub(super) fn with_processes(&self) -> BTreeSet<String> {
        let Some(state) = self.now() else { return BTreeSet::new() };
        let vms = state.vms.keys().filter(|name| state.policy(name).is_some_and(|policy| policy.asks()));
        vms.cloned().collect()
    }
}
