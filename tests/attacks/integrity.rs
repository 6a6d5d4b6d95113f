//! Attack 9 and 13: the kernel's own tables changed as rootkits change them, and clean kernels, which give no finding.

use crate::hostile::Hostile;
use lynceus_introspect::backend::dump::Dump;
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, find};
use lynceus_lab::{KernelVersion, Paging, Spec, images};
use lynceus_lab_compare::without_oddities;
use lynceus_scanners::{DETECTORS, Finding, Subject};
use std::sync::Arc;

/// What all detectors find, after the attack.
pub(crate) fn findings(guest: &Hostile) -> Vec<Finding> {
    let attached = guest.attach().expect("its kernel");
    let mut all = Vec::new();
    for detector in DETECTORS {
        let found = (detector.run)(&attached.guest, &Options::default());
        assert!(found.is_complete(), "{}: {:?}", detector.name, found.gaps);
        assert!(found.items.iter().all(|finding| finding.detector == detector.name));
        all.extend(found.items);
    }
    without_oddities(all).expect("what is planted")
}

/// One finding, by this detector, about this place.
fn only(guest: &Hostile, detector: &str, place: &str) -> Finding {
    let mut all = findings(guest);
    assert_eq!(all.len(), 1, "{all:#?}");
    let found = all.remove(0);
    assert_eq!(found.detector, detector);
    if let Subject::Kernel { symbol, .. } = &found.subject {
        assert_eq!(symbol, place);
    }
    found
}

/// Both layouts of kernels that the attacks are tried on.
fn guests() -> [Hostile; 2] {
    [Hostile::new(), Hostile::old()]
}

/// Somewhere in a module's code.
fn module_code(guest: &Hostile) -> (String, Gva) {
    let module = guest.look(|view| view.modules()).items.swap_remove(0);
    (module.name, Gva(module.base.0 + 0x40))
}

/// Bytes that are nobody's: where a rootkit may copy its code to.
fn stray_code(guest: &mut Hostile) -> Gva {
    Gva(guest.scratch(1 << 20).0 + 0x100)
}

#[test]
fn clean_kernels_give_no_finding() {
    for kernel in KernelVersion::ALL {
        for paging in [Paging::Four, Paging::Five] {
            let frozen = images::frozen(&Spec::new(kernel, paging)).expect("a frozen guest");
            let memory = Arc::new(Dump::open(&frozen.ram).expect("an image"));
            let mut guest = find::attach(memory).expect("a kernel").guest;
            guest.set_image(crate::text::image(kernel)).expect("its own image");
            let mut all = Vec::new();
            for detector in DETECTORS {
                let found = (detector.run)(&guest, &Options::default());
                assert!(found.is_complete(), "{kernel} {paging} {}: {:?}", detector.name, found.gaps);
                all.extend(found.items);
            }
            let surprises = without_oddities(all).expect("what is planted");
            assert!(surprises.is_empty(), "{kernel} {paging}: {surprises:#?}");
            // What was judged is there: an empty table is no clean one.
            let view = guest.view();
            assert!(
                view.syscalls().items.len() > 400 && view.interrupt_gates().items.len() > 20,
                "{kernel} {paging}"
            );
        }
    }
}

#[test]
fn a_system_call_that_leads_into_a_module() {
    for mut guest in guests() {
        let (name, code) = module_code(&guest);
        let entry = Gva(guest.symbol("sys_call_table").0 + 8 * 217);
        guest.u64(entry, code.0);
        let found = only(&guest, "syscall_handler", "sys_call_table[217]");
        assert!(found.summary.contains(&format!("module {name}")), "{}", found.summary);
    }
}

#[test]
fn a_system_call_that_leads_to_nobodys_code() {
    for mut guest in guests() {
        let code = stray_code(&mut guest);
        let entry = Gva(guest.symbol("sys_call_table").0 + 8 * 59);
        guest.u64(entry, code.0);
        assert!(only(&guest, "syscall_handler", "sys_call_table[59]").summary.contains("no known module"));
    }
}

#[test]
fn a_page_fault_handler_of_the_attackers_own() {
    for mut guest in guests() {
        let (_, code) = module_code(&guest);
        let gate = Gva(guest.symbol("idt_table").0 + 16 * 14);
        let bytes = code.0.to_le_bytes();
        guest.write(gate, &bytes[..2]).write(Gva(gate.0 + 6), &bytes[2..]);
        only(&guest, "interrupt_handler", "idt_table[0xe]");
    }
}

#[test]
fn a_listing_of_proc_that_leaves_things_out() {
    for mut guest in guests() {
        let (_, code) = module_code(&guest);
        let offset = guest.field("file_operations", "iterate_shared").offset;
        let table = guest.symbol("proc_root_operations");
        guest.u64(table.field(offset), code.0);
        only(&guest, "operation_table", &format!("proc_root_operations+{offset:#x}"));
    }
}

#[test]
fn a_list_of_sockets_that_leaves_things_out() {
    for mut guest in guests() {
        let code = stray_code(&mut guest);
        let offset = guest.field("seq_operations", "show").offset;
        let table = guest.symbol("tcp4_seq_ops");
        guest.u64(table.field(offset), code.0);
        only(&guest, "operation_table", &format!("tcp4_seq_ops+{offset:#x}"));
    }
}

#[test]
fn a_helper_program_in_tmp() {
    for (symbol, text) in [
        ("modprobe_path", &b"/tmp/x\0"[..]),
        ("core_pattern", b"|/dev/shm/x %P\0"),
        ("poweroff_cmd", b"/bin/sh\0"),
    ] {
        for mut guest in guests() {
            let place = guest.symbol(symbol);
            guest.write(place, text);
            only(&guest, "helper_program", symbol);
        }
    }
}

#[test]
fn a_process_with_inits_credentials() {
    for mut guest in guests() {
        let (task, init) = (guest.task("lab-user"), guest.task("init"));
        for member in ["cred", "real_cred"] {
            let value = guest.read_u64(guest.member(init.at, "task_struct", member));
            let place = guest.member(task.at, "task_struct", member);
            guest.u64(place, value);
        }
        let found = only(&guest, "shared_credentials", "");
        assert!(
            found.summary.starts_with(&format!("task {} (lab-user) has the credentials of task 1", task.pid)),
            "{}",
            found.summary
        );
    }
}

#[test]
fn a_process_with_the_kernels_own_credentials() {
    for mut guest in guests() {
        let (task, own) = (guest.task("lab-user"), guest.symbol("init_cred"));
        for member in ["cred", "real_cred"] {
            let place = guest.member(task.at, "task_struct", member);
            guest.u64(place, own.0);
        }
        assert!(only(&guest, "shared_credentials", "").summary.ends_with("the credentials of the kernel"));
    }
}
