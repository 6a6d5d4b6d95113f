//! The text of modules, every byte of it, against the files that they were loaded from.
//!
//! What it sees, and what evades it: [`DETECTOR`].
//!
//! *Trusts*: the files; where a module and its sections lie is the guest's word, and a lie is a difference. *Never*: compares with
//! a file of another build.

use super::explain::Text;
use super::{Change, Owners, read, told, unexplained};
use crate::crossview::confirmed;
use crate::{Detector, Finding, Limits};
use lynceus_introspect::linux::{LinuxGuest, Module, ModuleState, Probe, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gva, Partial};
use lynceus_profiles::kernel_file::KernelImage;
use lynceus_profiles::module_file::{ModuleFile, ModuleFolder, Places};
use std::collections::HashMap;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "module_text",
    technique: "T1014",
    about: "code of kernel modules that was changed",
    limits: Limits {
        sees: "with the files of the kernel's modules (--modules): every byte of a loaded module's text that neither its file nor what the kernel rewrites by itself explains",
        evaded_by: "a module of which there is no file, such as the attacker's own; a change to one of the forms that a place of rewriting may have; a change to a module's data",
        false_positives: "live patches, which are told as traced functions; a debugger in the guest",
    },
    next: "lynceus modules; the function says what is hidden or watched; dump the guest before it is rebooted",
    run: module_text,
};

/// The section with a module's build id, and how long its head is.
const BUILD_ID: &str = ".note.gnu.build-id";
const NOTE_HEAD_BYTES: u32 = 16;

/// Code of modules that was changed. Nothing where no files are known to compare with.
pub fn module_text(guest: &LinuxGuest, _: &Options) -> Partial<Finding> {
    let view = guest.view();
    let Some(files) = guest.module_files() else { return Partial::default() };
    let changed = || changes(&view, files);
    let confirmed = confirmed(guest, changed, |before, now| before == now);
    let mut found = Partial::default();
    let changes = found.absorb(confirmed);
    if !changes.is_empty() {
        let owners = Owners::new(&view, &mut found);
        let tell = |(place, change): &(String, Change)| {
            told(&view, change, &owners, &DETECTOR, place.clone(), "the module's file")
        };
        found.items = changes.iter().map(tell).collect();
    }
    found
}

/// What changed, and where that is for people.
type Placed = (String, Change);

fn changes(view: &View<'_>, files: &ModuleFolder) -> Partial<Placed> {
    let mut all = Partial::default();
    let owners = Owners::new(view, &mut all);
    let listed = view.modules();
    let listed = all.absorb(listed);
    let probes = view.probes();
    let probes = all.absorb(probes);
    for module in listed.iter().filter(|module| module.state == ModuleState::Live) {
        let Some(file) = files.module(&module.name) else { continue };
        let Ok(file) = file else {
            all.gap("module text", module.at, GapReason::Inconsistent("the module's file cannot be used"));
            continue;
        };
        let look = Look { view, owners: &owners, listed: &listed, probes: &probes };
        let found = look.module(module, &file);
        let found = all.absorb(found);
        all.items.extend(found);
    }
    all
}

/// What a look at a module needs of the others.
struct Look<'a> {
    view: &'a View<'a>,
    owners: &'a Owners,
    listed: &'a [Module],
    probes: &'a [Probe],
}

impl Look<'_> {
    fn module(&self, module: &Module, file: &ModuleFile) -> Partial<Placed> {
        let what = "module text";
        let mut found = Partial::default();
        let sections = self.view.module_sections(module);
        let mut places: HashMap<String, Vec<Gva>> = HashMap::new();
        for section in found.absorb(sections) {
            places.entry(section.name).or_default().push(section.at);
        }
        let own = self.is_of_this_build(&places, file);
        if !found.ok(what, module.at, own).unwrap_or(false) {
            found.gap(what, module.at, GapReason::Inconsistent("the module's file is of another build"));
            return found;
        }
        let used = self.symbols_of(file, &mut found);
        let per_cpu = self.view.module_per_cpu(module);
        let per_cpu = found.ok(what, module.at, per_cpu).flatten();
        let linked = file.link(&Places {
            section: &|name, number| Some(places.get(name)?.get(number)?.0),
            per_cpu: per_cpu.map(|at| at.0),
            symbol: &|name| self.kernel_symbol(name).or_else(|| used.get(name).copied()),
        });
        let Ok(image) = linked else {
            found.gap(
                what,
                module.at,
                GapReason::Inconsistent("the module's file does not fit what is loaded"),
            );
            return found;
        };
        let texts: Vec<(u64, u64)> = file
            .code_sections()
            .filter_map(|(name, number)| {
                let start = places.get(name)?.get(number)?.0;
                let section = image.sections().iter().find(|section| section.start == start)?;
                Some((section.start, section.end))
            })
            .collect();
        let mut changes = Partial::default();
        for (start, end) in &texts {
            self.compare(&image, &texts, *start, *end, &mut changes);
        }
        let changes = found.absorb(changes);
        found.items.extend(changes.into_iter().map(|change| (place(&image, module, change.at), change)));
        found
    }

    /// Whether the guest loaded this very file, as far as it carries a build id.
    fn is_of_this_build(
        &self,
        places: &HashMap<String, Vec<Gva>>,
        file: &ModuleFile,
    ) -> Result<bool, GapReason> {
        let Some(note) = places.get(BUILD_ID).and_then(|all| all.first()) else { return Ok(true) };
        let Some(ours) = file.build_id else { return Ok(true) };
        Ok(self.view.bytes::<20>(note.field(NOTE_HEAD_BYTES))? == ours.0)
    }

    /// The symbols of the modules that this one uses.
    fn symbols_of(&self, file: &ModuleFile, gaps: &mut Partial<Placed>) -> HashMap<String, u64> {
        let mut all = HashMap::new();
        for module in self.listed.iter().filter(|module| file.depends.contains(&module.name)) {
            let symbols = self.view.module_symbols(module);
            all.extend(gaps.absorb(symbols).into_iter().map(|symbol| (symbol.name, symbol.at.0)));
        }
        all
    }

    /// Where the kernel has a symbol for modules: of several of that name the one that is not its file's own.
    fn kernel_symbol(&self, name: &str) -> Option<u64> {
        let kernel = self.view.kernel();
        let all = || kernel.profile.symbols.all(name);
        let symbol = all().find(|symbol| symbol.kind.is_ascii_uppercase()).or_else(|| all().next())?;
        Some(kernel.slid(symbol.address).0)
    }

    fn compare(
        &self,
        image: &KernelImage,
        texts: &[(u64, u64)],
        start: u64,
        end: u64,
        changes: &mut Partial<Change>,
    ) {
        let (view, owners) = (self.view, self.owners);
        let Some(expected) = image.bytes(start, end) else { return };
        let found = read(view, Gva(start), expected, changes);
        let kernel = view.kernel_text().ok();
        let code = |at: u64| {
            let own = texts.iter().any(|(start, end)| at >= *start && at < *end);
            own || kernel.is_some_and(|(start, end)| at >= start.0 && at < end.0)
        };
        let text = Text {
            image,
            start,
            expected,
            found: &found,
            slide: 0,
            code: &code,
            variable: &|at| view.u64(Gva(at)).ok(),
            made: &|at| owners.is_trampoline(Gva(at)),
            module: &|at| owners.is_listed(view, Gva(at)),
        };
        unexplained(&text, self.probes, start..end, changes);
    }
}

/// What people call a place in a module.
fn place(image: &KernelImage, module: &Module, at: Gva) -> String {
    let name = match image.symbols.nearest(at.0) {
        Some((symbol, 0)) => symbol.name.to_owned(),
        Some((symbol, distance)) => format!("{}+{distance:#x}", symbol.name),
        None => at.to_string(),
    };
    format!("{name} [{}]", module.name)
}
