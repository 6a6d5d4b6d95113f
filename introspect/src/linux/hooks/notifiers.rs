//! Who is told of events: keys, the end of the system, modules, faults, network devices.
//!
//! Layouts: `struct notifier_block`, `struct atomic_notifier_head`, `struct blocking_notifier_head`, `struct raw_notifier_head`
//! (`include/linux/notifier.h`), Linux 5.10 to 7.2.

use super::Callback;
use crate::Partial;
use crate::linux::{Resolved, View};
use lynceus_profiles::Profile;

/// Chains and the type of their heads.
const CHAINS: [(&str, &str); 11] = [
    ("keyboard_notifier_list", "atomic_notifier_head"),
    ("vt_notifier_list", "atomic_notifier_head"),
    ("die_chain", "atomic_notifier_head"),
    ("panic_notifier_list", "atomic_notifier_head"),
    ("reboot_notifier_list", "blocking_notifier_head"),
    ("module_notify_list", "blocking_notifier_head"),
    ("inetaddr_chain", "blocking_notifier_head"),
    ("netlink_chain", "blocking_notifier_head"),
    ("usb_notifier_list", "blocking_notifier_head"),
    ("netdev_chain", "raw_notifier_head"),
    ("cpu_pm_notifier_chain", "raw_notifier_head"),
];

/// Members of chains and of their entries.
#[derive(Clone, Debug)]
pub struct NotifiersLayout {
    function: u32,
    next: u32,
    /// Link-time address of the first pointer, and the chain's name.
    chains: Vec<(u64, &'static str)>,
}

impl NotifiersLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let mut chains = Vec::new();
        for (symbol, head) in CHAINS {
            // A kernel may be built without keyboards, or without USB.
            let (Ok(at), Ok(first)) = (profile.symbol(symbol), profile.field(head, "head")) else { continue };
            chains.push((at.wrapping_add(first.offset.into()), symbol));
        }
        Ok(NotifiersLayout {
            function: profile.field("notifier_block", "notifier_call")?.offset,
            next: profile.field("notifier_block", "next")?.offset,
            chains,
        })
    }
}

impl View<'_> {
    /// Every function on the chains that are known, with the chain's name.
    pub fn notifiers(&self) -> Partial<(&'static str, Callback)> {
        let what = "notifiers";
        let layout = match &self.kernel().layouts.notifiers {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let mut found = Partial::default();
        for (head, name) in &layout.chains {
            let head = self.kernel().slid(*head);
            let Some(first) = found.ok(what, head, self.pointer(head)) else { continue };
            let blocks = self.chain(what, first, layout.next);
            for block in found.absorb(blocks) {
                let at = block.field(layout.function);
                if let Some(handler) = found.ok(what, at, self.pointer(at)) {
                    found.items.push((*name, Callback { on: format!("events of {name}"), at, handler }));
                }
            }
        }
        found
    }
}
