//! Where a guest is while VMs migrate: two QEMU processes have its memory, and in one of them, if any, it runs.
//!
//! *Does*: asks QEMU over a free control socket. There is no other way to know: the process of a guest that has left stays until somebody ends it, keeps its memory as it was when the
//! last page was sent (or, with the capability `release-ram`, drops pages as they are sent), and looks like that of a paused one.
//! *Trusts*: QEMU. *Never*: guesses: whoever cannot be asked is not known to have moved.

use super::Qemu;
use super::discover::{self, Vm};
use super::process::Process;
use super::qmp::{Qmp, QmpError};

/// Where a guest is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In this process, whether it runs or is paused.
    Here,
    /// On its way to this process: what there is of its memory are pages of different moments.
    Arriving,
    /// Another process has it by now, or is about to: what is left here is of the past, or half of it.
    Left,
}

impl Place {
    /// What QEMU's run state says (`qapi/run-state.json`).
    fn of(run_state: &str) -> Place {
        match run_state {
            "inmigrate" => Place::Arriving,
            "finish-migrate" | "postmigrate" | "colo" => Place::Left,
            _ => Place::Here,
        }
    }
}

impl Qemu {
    /// Where its guest is. Takes a free control socket.
    pub fn place(&self) -> Result<Place, QmpError> {
        self.run_state().map(|state| Place::of(&state))
    }
}

/// Where the guest of a VM is that was listed. Takes a free control socket for some milliseconds, or half a second where it is not.
pub fn place(vm: &Vm) -> Result<Place, QmpError> {
    let gone = |why: String| QmpError::Broken(why);
    let process = Process::open(vm.pid).map_err(|why| gone(why.to_string()))?;
    let now = discover::describe(&process).map_err(|why| gone(why.to_string()))?.0;
    if now.started_ticks != vm.started_ticks {
        return Err(gone("the VM has ended".to_owned()));
    }
    let (mut qmp, _) = Qmp::connect_any(&process, &vm.qmp_sockets, vm.uuid.as_deref())?;
    qmp.run_state().map(|state| Place::of(&state))
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn a_paused_guest_is_here() {
        for state in ["running", "paused", "prelaunch", "suspended", "internal-error", "unknown"] {
            assert_eq!(Place::of(state), Place::Here, "{state}");
        }
        assert_eq!([Place::of("inmigrate"), Place::of("postmigrate")], [Place::Arriving, Place::Left]);
    }
}
