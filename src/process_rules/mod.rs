//! Rules about processes: which process of a VM opens a connection is read out of the VM's memory, and that decides.
//!
//! *Does*: hears from the kernel of each connection that a rule about a process is to decide, asks the VM's memory who holds the socket,
//! has the policy judge, and gives the kernel the verdict. *Trusts*: the kernel of this host; of the guest no more than that its own
//! kernel finds its sockets in its tables. *Never*: lets a connection pass because it could not find out: without an answer the
//! kernel drops it, and "not known" and "not in time" are answers of their own, which deny unless the rule says otherwise.
//!
//! [`start`] is all there is to call. Each VM has a thread of its own ([`vm`]): one whose memory takes long to search holds no other up.

mod policies;
mod question;
mod vm;
mod who;

use crate::nflog::Listener;
use lynceus_firewall::flows::FlowEvent;
use lynceus_firewall::nft::ask::ASK_GROUP;
use policies::Policies;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vm::Vm;

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
        let mut is_heard = false;
        loop {
            let wanted = policies.with_processes();
            attend(&vms, &wanted, &policies, &tell);
            if !is_heard && !wanted.is_empty() {
                is_heard = hear(&vms, &tell);
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
                Ok(flows) => flows.into_iter().flatten().for_each(|flow| hand_over(&vms, flow)),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
    true
}

/// A VM that asks faster than its memory can be searched waits for its own answers.
fn hand_over(vms: &Vms, flow: FlowEvent) {
    if let Some(vm) = vms.lock().unwrap_or_else(PoisonError::into_inner).get(&flow.vm) {
        vm.ask(flow);
    }
}
