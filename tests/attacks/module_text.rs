//! The code of modules against their files: as it is, changed, and where the guest lies about where it is.

use crate::hostile::Hostile;
use lynceus_introspect::linux::Module;
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};
use lynceus_lab::KernelVersion;
use lynceus_profiles::module_file::ModuleFolder;
use lynceus_scanners::{Finding, Severity, Subject};
use std::sync::Arc;

/// The files of a kernel's modules.
fn files(kernel: KernelVersion) -> Arc<ModuleFolder> {
    let kernel = lynceus_lab::kernels::fetch(kernel).expect("a kernel");
    let files = ModuleFolder::open(&kernel.modules, &kernel.release).expect("a folder of modules");
    assert!(files.len() > 500, "{}", files.len());
    Arc::new(files)
}

fn look(guest: &Hostile) -> Partial<Finding> {
    let mut attached = guest.attach().expect("its kernel");
    attached.guest.set_module_files(files(guest.version()));
    lynceus_scanners::module_text(&attached.guest, &Options::default())
}

fn module_findings(guest: &Hostile) -> Vec<Finding> {
    let found = look(guest);
    assert!(found.is_complete(), "{:?}", found.gaps);
    found.items
}

#[test]
fn modules_are_as_in_their_files() {
    for guest in KernelVersion::ALL.map(Hostile::of) {
        let found = module_findings(&guest);
        assert!(found.is_empty(), "{}: {} {found:#?}", guest.version(), found.len());
    }
}

/// The only finding, and the name of its place.
fn only(guest: &Hostile) -> (Finding, String) {
    let mut found = module_findings(guest);
    assert_eq!(found.len(), 1, "{}: {found:#?}", guest.version());
    let found = found.remove(0);
    let Subject::Kernel { symbol, .. } = &found.subject else { panic!("{found:#?}") };
    let symbol = symbol.clone();
    (found, symbol)
}

fn module(guest: &Hostile, name: &str) -> Module {
    let listed = guest.look(|view| view.modules()).items;
    listed.into_iter().find(|module| module.name == name).expect("a module of the lab")
}

fn function(guest: &Hostile, name: &str) -> Gva {
    let bridge = module(guest, "bridge");
    let symbols = guest.look(|view| view.module_symbols(&bridge)).items;
    symbols.into_iter().find(|symbol| symbol.name == name).expect("a function of the module").at
}

#[test]
fn a_byte_of_a_module_that_was_changed() {
    for mut guest in KernelVersion::ALL.map(Hostile::of) {
        let at = Gva(function(&guest, "br_add_if").0 + 40);
        let word = guest.read_u64(at);
        guest.u64(at, word ^ 1);
        let (found, place) = only(&guest);
        assert_eq!(place, "br_add_if+0x28 [bridge]");
        assert_eq!((found.detector.as_ref(), found.severity), ("module_text", Severity::Critical));
    }
}

/// The place of a call by which functions are traced, which a call to nobody's code does not explain.
#[test]
fn a_jump_at_the_start_of_a_module_s_function() {
    for mut guest in KernelVersion::ALL.map(Hostile::of) {
        let at = function(&guest, "br_add_if");
        // Some begin with the mark of a place that indirect branches may lead to.
        let at = if guest.read_u64(at) as u32 == 0xfa1e_0ff3 { Gva(at.0 + 4) } else { at };
        guest.write(at, &[0xe9, 0, 0, 0x10, 0]);
        let (found, _) = only(&guest);
        assert!(found.summary.contains("the code of no known module"), "{}", found.summary);
    }
}

/// The guest says that a section lies elsewhere: what is there is not what the file has.
#[test]
fn a_section_that_is_said_to_lie_elsewhere() {
    for mut guest in KernelVersion::ALL.map(Hostile::of) {
        let text = module(&guest, "bridge").base;
        let attributes =
            Gva(guest.read_u64(guest.member(module(&guest, "bridge").at, "module", "sect_attrs")));
        let word = (0..400).map(|word| Gva(attributes.0 + 8 * word)).find(|at| guest.read_u64(*at) == text.0);
        guest.u64(word.expect("the address of .text"), text.0 + 4096);
        let found = look(&guest);
        assert!(!found.items.is_empty() && found.items.len() + found.gaps.len() > 10, "{found:#?}");
    }
}

/// Neither a list of sections without end nor a build id of another file passes for a module that was compared.
#[test]
fn what_cannot_be_compared_is_a_gap() {
    for mut guest in KernelVersion::ALL.map(Hostile::of) {
        let bridge = module(&guest, "bridge");
        let sections = guest.look(|view| view.module_sections(&bridge)).items;
        let note =
            sections.into_iter().find(|section| section.name == ".note.gnu.build-id").expect("it has one");
        let id = Gva(note.at.0 + 16);
        let word = guest.read_u64(id);
        let gaps = |guest: &Hostile| look(guest).gaps;
        assert_eq!(gaps(&guest), []);
        guest.u64(id, !word);
        assert!(gaps(&guest).iter().any(|gap| gap.at == Some(bridge.at)), "{:?}", gaps(&guest));
        guest.u64(id, word);
        let attributes = Gva(guest.read_u64(guest.member(bridge.at, "module", "sect_attrs")));
        let list = guest.member(attributes, "module_sect_attrs", "grp.bin_attrs");
        guest.u64(list, 0x41);
        assert!(!gaps(&guest).is_empty());
    }
}
