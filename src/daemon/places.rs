//! Which of QEMU's VMs have their guest: VMs migrate, and then two processes have one name and one memory.
//!
//! *Does*: has QEMU asked when there is a reason to: its process was started to take a guest that comes; it has spent no time for some lists, as those do whose guest has left; or it has the name of one
//! that a guest came to. *Trusts*: QEMU. *Never*: asks of more than some VMs in a list, or again and again one that does not answer: its control socket is somebody's.

use lynceus_introspect::backend::qemu::{Place, Vm};
use std::collections::{BTreeMap, BTreeSet};

/// Lists, of which there is one a second, in which a process spends next to no time before QEMU is asked.
const STILL: u32 = 2;
/// And again after so many: it may go on, or be idle.
const AGAIN: u32 = 15;
/// QEMU is not asked again for so many lists where it cannot be.
const SILENT: u32 = 300;
/// In clock ticks, of which there are a hundred a second: what a process spends in which no guest runs.
const NEXT_TO_NONE: u64 = 2;
/// So many VMs are asked for in one list: one that does not answer takes half a second.
const MAX_ASKED: usize = 4;

/// A VM's number and start time, which no other has.
type Key = (u32, u64);

/// What is known of one.
#[derive(Clone, Copy, Debug)]
struct Known {
    place: Place,
    spent_ticks: u64,
    /// Lists in a row in which it has spent next to nothing.
    still: u32,
    /// Lists until it may be asked again.
    silent: u32,
}

/// Where guests are, as far as their QEMU could be asked.
#[derive(Default)]
pub(super) struct Places {
    known: BTreeMap<Key, Known>,
}

impl Places {
    /// Takes a list of all VMs into account. `ask` has QEMU say where a guest is; none where it cannot be asked.
    pub(super) fn update(&mut self, vms: &[Vm], mut ask: impl FnMut(&Vm) -> Option<Place>) {
        let keys: BTreeSet<Key> = vms.iter().map(key).collect();
        self.known.retain(|key, _| keys.contains(key));
        for vm in vms {
            self.count(vm);
        }
        let comers: BTreeSet<&str> =
            vms.iter().filter(|vm| vm.is_incoming).map(|vm| vm.name.as_str()).collect();
        let due: Vec<&Vm> =
            vms.iter().filter(|vm| self.is_due(vm, comers.contains(vm.name.as_str()))).collect();
        for vm in due.into_iter().take(MAX_ASKED) {
            let Some(known) = self.known.get_mut(&key(vm)) else { continue };
            match ask(vm) {
                Some(place) => known.place = place,
                None => (known.place, known.silent) = (Place::Here, SILENT),
            }
        }
    }

    /// Where a VM's guest is.
    pub(super) fn of(&self, vm: &Vm) -> Place {
        self.known.get(&key(vm)).map_or(Place::Here, |known| known.place)
    }

    fn count(&mut self, vm: &Vm) {
        let first = Known {
            // Until QEMU says that it runs: half of a memory looks like one that somebody has tampered with.
            place: if vm.is_incoming { Place::Arriving } else { Place::Here },
            spent_ticks: vm.spent_ticks,
            still: 0,
            silent: 0,
        };
        let known = self.known.entry(key(vm)).or_insert(first);
        let spent = vm.spent_ticks.saturating_sub(known.spent_ticks);
        known.still = if spent <= NEXT_TO_NONE { known.still.saturating_add(1) } else { 0 };
        known.spent_ticks = vm.spent_ticks;
        known.silent = known.silent.saturating_sub(1);
    }

    fn is_due(&self, vm: &Vm, has_comer: bool) -> bool {
        let Some(known) = self.known.get(&key(vm)) else { return false };
        let is_still = known.still >= STILL && (known.still - STILL).is_multiple_of(AGAIN);
        let may_move = match known.place {
            Place::Arriving => true,
            Place::Left => is_still || known.still == 0,
            Place::Here => is_still || (has_comer && !vm.is_incoming),
        };
        // One that waits to arrive and cannot be asked is here.
        may_move && known.silent == 0 && (!vm.qmp_sockets.is_empty() || known.place == Place::Arriving)
    }
}

fn key(vm: &Vm) -> Key {
    (vm.pid, vm.started_ticks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lynceus_introspect::backend::qemu::VmState;

    fn vm(pid: u32, is_incoming: bool, spent_ticks: u64) -> Vm {
        Vm {
            pid,
            started_ticks: 1,
            uid: 0,
            name: "web".to_owned(),
            uuid: None,
            ram_bytes: 0,
            vcpus: 1,
            machine: None,
            accelerator: None,
            qmp_sockets: vec!["/run/qmp".into()],
            kernel: None,
            is_incoming,
            spent_ticks,
            state: VmState::Running,
        }
    }

    #[test]
    fn who_works_is_not_asked_and_who_stands_still_is_but_not_all_the_time() {
        let mut places = Places::default();
        let mut asked = 0;
        for second in 1..=20 {
            places.update(&[vm(1, false, second * 10)], |_| unreachable!());
        }
        for _ in 0..2 * AGAIN {
            places.update(&[vm(1, false, 200)], |_| {
                asked += 1;
                Some(Place::Here)
            });
        }
        assert_eq!(asked, 2);
        // It has left; and its migration is undone, and it works again.
        for _ in 0..AGAIN {
            places.update(&[vm(1, false, 200)], |_| Some(Place::Left));
        }
        assert_eq!(places.of(&vm(1, false, 200)), Place::Left);
        places.update(&[vm(1, false, 250)], |_| Some(Place::Here));
        assert_eq!(places.of(&vm(1, false, 250)), Place::Here);
    }

    #[test]
    fn a_guest_moves_from_one_process_to_another() {
        let mut places = Places::default();
        let both = |second: u64| [vm(1, false, second * 50), vm(2, true, second)];
        let place = |arrived: bool| {
            move |vm: &Vm| match (vm.pid, arrived) {
                (1, false) | (2, true) => Some(Place::Here),
                (1, true) => Some(Place::Left),
                _ => Some(Place::Arriving),
            }
        };
        places.update(&both(1), place(false));
        assert_eq!(both(1).map(|vm| places.of(&vm)), [Place::Here, Place::Arriving]);
        // The one that it came from is asked though it does not look as if it stood still.
        places.update(&both(2), place(true));
        assert_eq!(both(2).map(|vm| places.of(&vm)), [Place::Left, Place::Here]);
        // Its process ends, and is forgotten.
        places.update(&both(3)[1..], place(true));
        assert_eq!(places.known.len(), 1);
    }

    #[test]
    fn who_cannot_be_asked_is_here_and_left_alone() {
        let mut places = Places::default();
        let mut asked = 0;
        for _ in 0..SILENT {
            places.update(&[vm(1, true, 0)], |_| {
                asked += 1;
                None
            });
        }
        assert_eq!((asked, places.of(&vm(1, true, 0))), (1, Place::Here));
    }
}
