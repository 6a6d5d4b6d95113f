//! Code that the kernel made while it ran: BPF programs and what leads to them, and to those who trace functions.
//!
//! Layouts: `struct bpf_ksym` (`include/linux/bpf.h`), `bpf_kallsyms` (`kernel/bpf/core.c`), `struct ftrace_ops`
//! (`include/linux/ftrace.h`), Linux 5.10 to 7.2.

use crate::linux::{Resolved, View};
use crate::{Gva, Partial};
use lynceus_profiles::Profile;

const MAX_NAME_BYTES: usize = 128;

/// Members of what describes such code.
#[derive(Clone, Debug)]
pub struct TrampolinesLayout {
    /// Start, end, name and list node of a piece of BPF.
    bpf: Option<[u32; 4]>,
    /// Next, place and size of a trampoline to who traces.
    traces: Option<[u32; 3]>,
}

/// A piece of such code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trampoline {
    /// First address.
    pub start: Gva,
    /// The address after the last.
    pub end: Gva,
    /// What the kernel calls it.
    pub name: String,
}

impl TrampolinesLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let offsets = |name: &str, members: &[&str]| -> Option<Vec<u32>> {
            members.iter().map(|member| Some(profile.field(name, member).ok()?.offset)).collect()
        };
        let bpf = offsets("bpf_ksym", &["start", "end", "name", "lnode"]);
        let traces = offsets("ftrace_ops", &["next", "trampoline", "trampoline_size"]);
        Ok(TrampolinesLayout {
            bpf: bpf.and_then(|offsets| offsets.try_into().ok()),
            traces: traces.and_then(|offsets| offsets.try_into().ok()),
        })
    }
}

impl View<'_> {
    /// All code that the kernel says it made.
    pub fn trampolines(&self) -> Partial<Trampoline> {
        let what = "code made at run time";
        let layout = match &self.kernel().layouts.trampolines {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let mut found = Partial::default();
        if let (Some([start, end, name, node]), Ok(head)) = (layout.bpf, self.kernel().symbol("bpf_kallsyms"))
        {
            let nodes = self.list(what, head);
            for at in found.absorb(nodes) {
                let at = Gva(at.0.wrapping_sub(node.into()));
                let piece = (|| {
                    let (start, end) = (self.pointer(at.field(start))?, self.pointer(at.field(end))?);
                    let name = self.string(at.field(name), MAX_NAME_BYTES)?;
                    Ok::<_, crate::AccessError>(Trampoline { start, end, name })
                })();
                found.keep(what, at, piece);
            }
        }
        if let (Some([next, start, len]), Ok(list)) = (layout.traces, self.kernel().symbol("ftrace_ops_list"))
            && let Some(first) = found.ok(what, list, self.pointer(list))
        {
            let operations = self.chain(what, first, next);
            for at in found.absorb(operations) {
                let piece = (self.pointer(at.field(start)), self.u64(at.field(len)));
                let (Some(start), Some(len)) = (found.ok(what, at, piece.0), found.ok(what, at, piece.1))
                else {
                    continue;
                };
                if !start.is_null() {
                    let end = Gva(start.0.saturating_add(len));
                    found.items.push(Trampoline { start, end, name: "ftrace_trampoline".to_owned() });
                }
            }
        }
        found
    }
}
