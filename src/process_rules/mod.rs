//! Rules about processes: which process of a VM opens a connection is read out of the VM's memory, and that decides.
//!
//! *Does*: hears from the kernel of each connection that a rule about a process is to decide, asks the VM's memory who holds the socket,
//! has the policy judge, and gives the kernel the verdict. *Trusts*: the kernel of this host; of the guest no more than that its own
//! kernel finds its sockets in its tables. *Never*: lets a connection pass because it could not find out: without an answer the
//! kernel drops it, and "not known" and "not in time" are answers of their own, which deny unless the rule says otherwise.
//!
//! [`start`] is all there is to call. Each VM has a thread of its own ([`vm`]), one whose memory takes long to search holds no other up; and a locked-down
//! process that reads it ([`Looker`](crate::daemon::Looker)): nothing here reads a guest.

mod policies;
mod question;
mod vm;
mod who;

pub(crate) use who::who;

use crate::nflog::{Listener, Queues};
use lynceus_firewall::flows::FlowEvent;
use lynceus_firewall::nft::ask::ASK_GROUP;
use lynceus_policy::Direction;
use policies::Policies;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use vm::{Ask, Held, Vm};

/// How often it is looked whether other VMs have rules about processes now.
const TICK: Duration = Duration::from_secs(1);

/// What there is to tell.
pub(crate) enum News {
    /// A connection was judged.
    Flow(Box<FlowEvent>),
    /// A VM's memory is looked into from now on, or why it is not.
    Guest { vm: String, text: String },
}

/// Who is told.
pub(crate) type Tell = Arc<dyn Fn(News) + Send + Sync>;

/// The VMs that are looked into.
type Vms = Arc<Mutex<BTreeMap<String, Vm>>>;

/// Answers for the VMs of the state in `folder` from now on, whenever they have rules about processes.
pub(crate) fn start(folder: PathBuf, tell: Tell) {
    let policies = Arc::new(Policies::new(folder));
    let vms = Vms::default();
    std::thread::spawn(move || {
        let (mut is_heard, mut is_held) = (false, false);
        loop {
            let wanted = policies.with_processes();
            attend(&vms, &wanted, &policies, &tell);
            if !wanted.is_empty() {
                is_heard = is_heard || hear(&vms, &tell);
                is_held = is_held || policies.holds() && hold(&vms, &policies, &tell);
            }
            std::thread::sleep(TICK);
        }
    });
}

/// Looks into the VMs that are wanted, and into no others.
fn attend(vms: &Vms, wanted: &BTreeSet<String>, policies: &Arc<Policies>, tell: &Tell) {
    let mut vms = vms.lock().unwrap_or_else(PoisonError::into_inner);
    vms.retain(|name, _| wanted.contains(name));
    for name in wanted {
        vms.entry(name.clone()).or_insert_with(|| Vm::start(name.clone(), policies.clone(), tell.clone()));
    }
}

/// Hears of connections; whether that could be begun.
fn hear(vms: &Vms, tell: &Tell) -> bool {
    let listener = match Listener::of(ASK_GROUP, true) {
        Ok(listener) => listener,
        Err(error) => {
            tell(News::Guest {
                vm: String::new(),
                text: format!("no connection can be asked about: {error:#}"),
            });
            return false;
        }
    };
    let vms = vms.clone();
    std::thread::spawn(move || {
        loop {
            // What was lost is sent again by its sender.
            match listener.next() {
                Ok(flows) => flows.into_iter().flatten().for_each(|flow| hand_over(&vms, flow, None)),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
    true
}

/// Reads the queues of packets that wait; whether that could be begun.
fn hold(vms: &Vms, policies: &Arc<Policies>, tell: &Tell) -> bool {
    let queues = match Queues::open() {
        Ok(queues) => Arc::new(queues),
        Err(error) => {
            let text = format!("packets that wait cannot be answered: {error:#}");
            tell(News::Guest { vm: String::new(), text });
            return false;
        }
    };
    let (vms, policies) = (vms.clone(), policies.clone());
    std::thread::spawn(move || {
        loop {
            let Ok(packets) = queues.next() else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            for (waiting, flow) in packets {
                let held = Held { queues: queues.clone(), waiting, is_answered: false };
                let Some((direction, is_reply)) = waiting.way() else { continue };
                let (came, goes) = flow.interfaces;
                let own = if (direction == Direction::In) == is_reply { came } else { goes };
                let vm = policies.vm_behind(own).unwrap_or_default();
                let direction = direction.name().to_owned();
                hand_over(&vms, FlowEvent { vm, direction, time_ms: now_ms(), ..flow }, Some(held));
            }
        }
    });
    true
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A VM that asks faster than its memory can be searched waits for its own answers.
fn hand_over(vms: &Vms, flow: FlowEvent, held: Option<Held>) {
    if let Some(vm) = vms.lock().unwrap_or_else(PoisonError::into_inner).get(&flow.vm) {
        vm.ask(Ask { flow, held });
    }
}
