//! Whose code it is that something leads to, and whether it may.
//!
//! *Trusts*: the kernel's symbols for where its text lies. *Never*: takes a module that is not on the module list for one that is.

use crate::{Detector, Finding, Severity, Subject};
use lynceus_introspect::linux::{Callback, Code, Module, Trampoline, View};
use lynceus_introspect::{Gva, Partial};

/// A pointer to code.
pub(super) struct Hook {
    /// What may be hooked, for people.
    pub(super) what: String,
    /// The symbol that stands for it, with an index or offset.
    pub(super) symbol: String,
    pub(super) at: Gva,
    pub(super) handler: Gva,
}

impl Hook {
    /// A callback, told by what it is called for.
    pub(super) fn of(callback: Callback) -> Hook {
        let Callback { on, at, handler } = callback;
        Hook { what: format!("what is called for {on}"), symbol: on, at, handler }
    }
}

/// Whose code is expected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Allow {
    /// The kernel's own.
    Kernel,
    /// The kernel's and that of modules that came with it; a foreign one's is worth a look.
    OwnModules,
    /// The kernel's and that of any module that does not hide.
    AnyModule,
}

/// Whose code it is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Whose {
    Kernel,
    Module { name: String, foreign: bool },
    Hidden(String),
    Nobody,
}

/// Where everybody's code lies.
pub(super) struct Owners {
    listed: Vec<Module>,
    hidden: Vec<Module>,
    trampolines: Vec<Trampoline>,
}

impl Owners {
    /// Looks at the modules and at the code that the kernel made; what cannot be read is a gap.
    pub(super) fn new<T>(view: &View<'_>, gaps: &mut Partial<T>) -> Owners {
        let listed = gaps.absorb(view.modules());
        let mut hidden = gaps.absorb(view.modules_in_tree());
        hidden.retain(|module| listed.iter().all(|known| known.at != module.at));
        let trampolines = gaps.absorb(view.trampolines());
        Owners { listed, hidden, trampolines }
    }

    fn whose(&self, view: &View<'_>, at: Gva) -> Whose {
        match view.code_at(at, &self.listed) {
            Code::Kernel => return Whose::Kernel,
            Code::Module(name) => {
                let is_it = |module: &&Module| module.name == name;
                let foreign = self.listed.iter().find(is_it).is_some_and(Module::is_foreign);
                return Whose::Module { name, foreign };
            }
            Code::Unknown => {}
        }
        if self.is_trampoline(at) {
            return Whose::Kernel;
        }
        match view.code_at(at, &self.hidden) {
            Code::Module(name) => Whose::Hidden(name),
            _ => Whose::Nobody,
        }
    }

    /// Whether the kernel made what is there: BPF programs, ways to who traces.
    pub(super) fn is_trampoline(&self, at: Gva) -> bool {
        self.trampolines.iter().any(|piece| at >= piece.start && at < piece.end)
    }

    /// Whether it is the code of a module that is listed.
    pub(super) fn is_listed(&self, view: &View<'_>, at: Gva) -> bool {
        matches!(view.code_at(at, &self.listed), Code::Module(_))
    }

    /// Whose code is there, in words.
    pub(super) fn describe(&self, view: &View<'_>, at: Gva) -> String {
        match self.whose(view, at) {
            Whose::Kernel => "the kernel's own code".to_owned(),
            Whose::Module { name, foreign: false } => format!("the code of module {name}"),
            Whose::Module { name, .. } => {
                format!("the code of module {name}, which did not come with the kernel")
            }
            Whose::Hidden(name) => format!("the code of module {name}, which hides from the module list"),
            Whose::Nobody => "the code of no known module".to_owned(),
        }
    }
}

/// A finding for each handler that is not among what is allowed.
pub(super) fn judged(
    view: &View<'_>,
    detector: &Detector,
    allow: Allow,
    hooks: Partial<Hook>,
) -> Partial<Finding> {
    let mut found = Partial::default();
    let owners = Owners::new(view, &mut found);
    for hook in found.absorb(hooks) {
        let severity = match (owners.whose(view, hook.handler), allow) {
            (Whose::Kernel, _)
            | (Whose::Module { .. }, Allow::AnyModule)
            | (Whose::Module { foreign: false, .. }, Allow::OwnModules) => continue,
            (Whose::Module { .. }, Allow::OwnModules) => Severity::Medium,
            _ => Severity::Critical,
        };
        let whose = owners.describe(view, hook.handler);
        let summary = format!("{} leads to {}, {whose}", hook.what, hook.handler);
        let value = format!("{:#x}", hook.handler.0);
        let subject = Subject::Kernel { symbol: hook.symbol, address: hook.at.0, value };
        found.items.push(detector.finding(severity, summary, subject));
    }
    found
}
