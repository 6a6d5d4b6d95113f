//! Probes at instructions, and functions that are traced.
//!
//! Layouts: `struct kprobe`, `struct kretprobe` (`include/linux/kprobes.h`), `kprobe_table` (`kernel/kprobes.c`, 64 chains),
//! `struct ftrace_ops` (`include/linux/ftrace.h`), `ftrace_ops_list`, `ftrace_list_end` (`kernel/trace/ftrace.c`), Linux 5.10 to 7.2.

use super::Callback;
use crate::linux::{Resolved, View};
use crate::{Gva, Partial};
use lynceus_profiles::{Profile, ProfileError};

/// `KPROBE_TABLE_SIZE`.
const CHAINS: u32 = 64;
/// Most probes at one place.
const MAX_TOGETHER: usize = 256;

/// Members of probes and of what traces functions.
#[derive(Clone, Debug)]
pub struct ProbesLayout {
    hash_node: u32,
    together: u32,
    address: u32,
    handlers: [u32; 2],
    return_handlers: [u32; 2],
    operations: Result<OperationsLayout, ProfileError>,
}

#[derive(Clone, Debug)]
struct OperationsLayout {
    function: u32,
    next: u32,
    saved: u32,
}

impl ProbesLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let probe = |member| profile.field("kprobe", member).map(|field| field.offset);
        let returning = |member| profile.field("kretprobe", member).map(|field| field.offset);
        Ok(ProbesLayout {
            hash_node: probe("hlist")?,
            together: probe("list")?,
            address: probe("addr")?,
            handlers: [probe("pre_handler")?, probe("post_handler")?],
            return_handlers: [returning("handler")?, returning("entry_handler")?],
            operations: OperationsLayout::resolve(profile),
        })
    }
}

impl OperationsLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        let member = |name| profile.field("ftrace_ops", name).map(|field| field.offset);
        Ok(OperationsLayout {
            function: member("func")?,
            next: member("next")?,
            saved: member("saved_func")?,
        })
    }
}

/// A probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Address of its `struct kprobe`.
    pub at: Gva,
    /// The instruction.
    pub address: Gva,
    /// What is called there, and where the function it stands in returns to.
    pub handlers: Vec<Callback>,
}

impl View<'_> {
    /// All probes (`kprobe_table`).
    pub fn probes(&self) -> Partial<Probe> {
        let what = "probes";
        let layout = match &self.kernel().layouts.probes {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let table = match self.kernel().symbol("kprobe_table") {
            Ok(table) => table,
            Err(missing) => return Partial::unavailable(what, missing),
        };
        let mut nodes = Partial::default();
        for chain in 0..CHAINS {
            let head = table.field(chain.saturating_mul(8));
            let Some(first) = nodes.ok(what, head, self.pointer(head)) else { continue };
            let chain = self.chain(what, first, 0);
            let chain = nodes.absorb(chain);
            nodes.items.extend(chain);
        }
        let mut found = Partial::default();
        for node in found.absorb(nodes) {
            let at = Gva(node.0.wrapping_sub(layout.hash_node.into()));
            self.probe(layout, at, &mut found);
        }
        found
    }

    /// The probe at `at`, or those that it stands for.
    fn probe(&self, layout: &ProbesLayout, at: Gva, found: &mut Partial<Probe>) {
        let what = "probe";
        let is = |handler: Gva, name| self.kernel().symbol(name).is_ok_and(|symbol| symbol == handler);
        let Some(address) = found.ok(what, at, self.pointer(at.field(layout.address))) else { return };
        let [before, _] = layout.handlers;
        let Some(first) = found.ok(what, at, self.pointer(at.field(before))) else { return };
        if is(first, "aggr_pre_handler") {
            let members = self.list(what, at.field(layout.together));
            for node in found.absorb(members).into_iter().take(MAX_TOGETHER) {
                let at = Gva(node.0.wrapping_sub(layout.together.into()));
                self.callbacks(at, address, &layout.handlers, found);
            }
            return;
        }
        let mut places = layout.handlers.to_vec();
        if is(first, "pre_handler_kretprobe") {
            places.extend(layout.return_handlers);
        }
        self.callbacks(at, address, &places, found);
    }

    fn callbacks(&self, at: Gva, address: Gva, places: &[u32], found: &mut Partial<Probe>) {
        let mut handlers = Vec::new();
        for place in places {
            let place = at.field(*place);
            let Some(handler) = found.ok("probe", place, self.pointer(place)) else { continue };
            if !handler.is_null() {
                let on = format!("a probe at {}", self.kernel().place(address));
                handlers.push(Callback { on, at: place, handler });
            }
        }
        found.items.push(Probe { at, address, handlers });
    }

    /// What is called for functions that are traced (`ftrace_ops_list`).
    pub fn traces(&self) -> Partial<Callback> {
        let what = "traced functions";
        let layout = match self.kernel().layouts.probes.as_ref().map(|layout| &layout.operations) {
            Ok(Ok(layout)) => layout,
            Ok(Err(missing)) | Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let (list, end) =
            match (self.kernel().symbol("ftrace_ops_list"), self.kernel().symbol("ftrace_list_end")) {
                (Ok(list), Ok(end)) => (list, end),
                (Err(missing), _) | (_, Err(missing)) => return Partial::unavailable(what, missing),
            };
        let mut found = Partial::default();
        let Some(first) = found.ok(what, list, self.pointer(list)) else { return found };
        if first == end {
            return found;
        }
        let operations = self.chain(what, first, layout.next);
        for at in found.absorb(operations) {
            if at == end {
                continue;
            }
            // With some options the kernel puts a helper of its own first and keeps the function beside it.
            for place in [layout.function, layout.saved].map(|offset| at.field(offset)) {
                let Some(handler) = found.ok(what, place, self.pointer(place)) else { continue };
                if !handler.is_null() {
                    let on = format!("functions traced by {}", self.kernel().place(at));
                    found.items.push(Callback { on, at: place, handler });
                }
            }
        }
        found
    }
}
