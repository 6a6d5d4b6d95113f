//! Who sees the packets of a network namespace.
//!
//! Layouts: `struct netns_nf` (`include/net/netns/netfilter.h`), `struct nf_hook_entries`, `struct nf_hook_entry`
//! (`include/linux/netfilter.h`), Linux 5.10 to 7.2.

use super::Callback;
use crate::linux::{Resolved, View};
use crate::{Gva, Partial};
use lynceus_profiles::{FieldKind, Profile};

/// Arrays of hooks of a namespace, and what they are for.
const FAMILIES: [(&str, &str); 4] = [
    ("nf.hooks_ipv4", "IPv4"),
    ("nf.hooks_ipv6", "IPv6"),
    ("nf.hooks_arp", "ARP"),
    ("nf.hooks_bridge", "bridged"),
];
/// `MAX_HOOK_COUNT`.
const MAX_HOOKS: u32 = 1024;

/// Members of namespaces and of lists of hooks.
#[derive(Clone, Debug)]
pub struct NetfilterLayout {
    /// Offset, number of entries, name.
    families: Vec<(u32, u32, &'static str)>,
    count: lynceus_profiles::Field,
    hooks: u32,
    hook_bytes: u32,
    function: u32,
}

impl NetfilterLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let mut families = Vec::new();
        for (path, name) in FAMILIES {
            // A kernel without bridges or ARP hooks lacks that array.
            let Ok(field) = profile.field("net", path) else { continue };
            let FieldKind::Array { count, .. } = field.kind else { continue };
            families.push((field.offset, count, name));
        }
        Ok(NetfilterLayout {
            families,
            count: profile.field("nf_hook_entries", "num_hook_entries")?,
            hooks: profile.field("nf_hook_entries", "hooks")?.offset,
            hook_bytes: profile.size_of("nf_hook_entry")?,
            function: profile.field("nf_hook_entry", "hook")?.offset,
        })
    }
}

impl View<'_> {
    /// Every function that sees packets, in every network namespace.
    pub fn packet_hooks(&self) -> Partial<Callback> {
        let what = "packet hooks";
        let layout = match &self.kernel().layouts.netfilter {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let mut found = Partial::default();
        let namespaces = self.net_namespaces();
        for namespace in found.absorb(namespaces) {
            for (offset, count, family) in &layout.families {
                for number in 0..*count {
                    let at = namespace.at.field(offset.saturating_add(number.saturating_mul(8)));
                    let Some(entries) = found.ok(what, at, self.pointer(at)) else { continue };
                    if !entries.is_null() {
                        let on = format!("{family} packets at hook {number} in net:[{}]", namespace.inode);
                        self.hook_entries(layout, entries, &on, &mut found);
                    }
                }
            }
        }
        found
    }

    fn hook_entries(&self, layout: &NetfilterLayout, entries: Gva, on: &str, found: &mut Partial<Callback>) {
        let what = "packet hooks";
        let count = self.integer(entries, layout.count);
        let Some(count) = found.ok(what, entries, count) else { return };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count > MAX_HOOKS {
            found.gap(what, entries, crate::GapReason::Limit(MAX_HOOKS.into()));
        }
        for index in 0..count.min(MAX_HOOKS) {
            let offset = layout.hooks.saturating_add(index.saturating_mul(layout.hook_bytes));
            let at = entries.field(offset.saturating_add(layout.function));
            let Some(handler) = found.ok(what, at, self.pointer(at)) else { continue };
            found.items.push(Callback { on: on.to_owned(), at, handler });
        }
    }
}
