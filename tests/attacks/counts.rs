//! Attack 5: counts and lengths that are huge, negative, or overflow when they are added up.

use crate::hostile::{Hostile, has, inconsistent, look_everywhere};
use lynceus_introspect::{Gap, GapReason, Gva};

fn limit(gaps: &[Gap]) -> bool {
    gaps.iter().any(|gap| matches!(gap.reason, GapReason::Limit(_)))
}

/// Whether all processes but at most one are still listed, and what else could not be read.
fn survives(guest: &Hostile) -> Vec<Gap> {
    let sound = Hostile::new().look(|view| view.tasks()).items.len();
    assert!(guest.look(|view| view.tasks()).items.len() + 1 >= sound);
    guest.look(look_everywhere)
}

/// Where the descriptor table of a process that has files lies.
fn table(guest: &Hostile) -> Gva {
    let files = guest.task("lab-files").files;
    Gva(guest.read_u64(guest.member(files, "files_struct", "fdt")))
}

#[test]
fn a_descriptor_table_of_two_thousand_million() {
    for count in [1u32 << 31, u32::MAX, (1 << 20) + 1] {
        let mut guest = Hostile::new();
        let before = guest.look(|view| view.files(guest.task("lab-files").files)).items;
        let place = guest.member(table(&guest), "fdtable", "max_fds");
        guest.u32(place, count);
        let files = guest.look(|view| view.files(guest.task("lab-files").files));
        assert!(limit(&files.gaps), "{:?}", files.gaps);
        // What is there is read before the walk runs off the end of the true table.
        assert!(before.iter().all(|file| files.items.contains(file)));
        assert!(limit(&survives(&guest)));
    }
}

#[test]
fn more_processors_than_any_machine_has() {
    for count in [8193u32, 1 << 31, u32::MAX] {
        let mut guest = Hostile::new();
        let place = guest.symbol("nr_cpu_ids");
        guest.u32(place, count);
        assert!(limit(&guest.look(|view| view.tasks_in_queues()).gaps));
        assert!(limit(&survives(&guest)));
    }
}

#[test]
fn arguments_that_end_before_they_begin() {
    let mut guest = Hostile::new();
    let mm = guest.mm("lab-plain");
    let place = guest.member(mm.at, "mm_struct", "arg_end");
    guest.u64(place, mm.args.0.0 - 1);
    let mm = guest.mm("lab-plain");
    // As the kernel's own /proc shows it: nothing.
    assert_eq!(guest.look(|view| view.cmdline(&mm)), Ok(Vec::new()));
    survives(&guest);
}

#[test]
fn arguments_of_half_the_address_space() {
    for (member, value) in [("arg_start", 0), ("arg_end", 0x7fff_ffff_f000), ("env_end", 0x7fff_ffff_f000)] {
        let mut guest = Hostile::new();
        let mm = guest.mm("lab-plain");
        let place = guest.member(mm.at, "mm_struct", member);
        guest.u64(place, value);
        assert!(limit(&survives(&guest)), "{member}");
    }
}

#[test]
fn arguments_in_kernel_memory() {
    let mut guest = Hostile::new();
    let (mm, secret) = (guest.mm("lab-plain"), guest.symbol("linux_banner"));
    let places = ["arg_start", "arg_end"].map(|member| guest.member(mm.at, "mm_struct", member));
    guest.u64(places[0], secret.0).u64(places[1], secret.0 + 64);
    let mm = guest.mm("lab-plain");
    assert!(matches!(guest.look(|view| view.cmdline(&mm)), Err(GapReason::Inconsistent(_))));
}

#[test]
fn a_map_of_the_whole_address_space() {
    for (start, end) in [(0, 1 << 47), (0, u64::MAX), (0x40_0000, 0x3f_ffff), (u64::MAX - 4095, 4096)] {
        let mut guest = Hostile::new();
        let mm = guest.mm("lab-plain");
        let maps = guest.look(|view| view.maps(&mm)).items;
        let at = maps.first().expect("a map").at;
        let places = ["vm_start", "vm_end"].map(|member| guest.member(at, "vm_area_struct", member));
        guest.u64(places[0], start).u64(places[1], end);
        let found = guest.look(|view| view.maps(&mm));
        assert!(inconsistent(&found.gaps), "{start:#x}–{end:#x}: {:?}", found.gaps);
        assert!(found.items.len() + 1 >= maps.len());
        assert!(inconsistent(&survives(&guest)));
    }
}

#[test]
fn a_name_of_four_gigabytes() {
    let mut guest = Hostile::new();
    let dentry = guest.dentry();
    let place = guest.member(dentry, "dentry", "d_name.len");
    guest.u32(place, u32::MAX);
    let files = guest.look(|view| view.files(guest.task("lab-files").files));
    assert!(limit(&files.gaps) || inconsistent(&files.gaps), "{:?}", files.gaps);
    survives(&guest);
}

#[test]
fn a_pid_namespace_deeper_than_there_are() {
    let mut guest = Hostile::new();
    let pid = Gva(guest.read_u64(guest.member(guest.task("lab-plain").at, "task_struct", "thread_pid")));
    let place = guest.member(pid, "pid", "level");
    guest.u32(place, u32::MAX);
    let gaps = survives(&guest);
    assert!(limit(&gaps) || inconsistent(&gaps), "{gaps:?}");
}

#[test]
fn a_kernel_log_of_absurd_size() {
    let ring = |guest: &Hostile| Gva(guest.read_u64(guest.symbol("prb")));
    for (member, value) in
        [("desc_ring.count_bits", u32::MAX), ("desc_ring.count_bits", 63), ("text_data_ring.size_bits", 63)]
    {
        let mut guest = Hostile::new();
        let place = guest.member(ring(&guest), "printk_ringbuffer", member);
        guest.u32(place, value);
        let log = guest.look(|view| view.kernel_log());
        assert!(!log.is_complete(), "{member}");
        survives(&guest);
    }
}

#[test]
fn a_module_with_more_symbols_than_memory() {
    for count in [u32::MAX, 1 << 31, (1 << 18) + 1] {
        let mut guest = Hostile::new();
        let module = guest.look(|view| view.modules()).items.into_iter().next().expect("a module");
        let table = Gva(guest.read_u64(guest.member(module.at, "module", "kallsyms")));
        let place = guest.member(table, "mod_kallsyms", "num_symtab");
        guest.u32(place, count);
        let symbols = guest.look(|view| view.module_symbols(&module));
        assert!(limit(&symbols.gaps), "{:?}", symbols.gaps);
        assert!(limit(&survives(&guest)));
    }
}

/// The same image is intact before each of these: what is counted above is counted because of the attack.
#[test]
fn none_of_this_is_seen_in_a_sound_guest() {
    let gaps = Hostile::new().look(look_everywhere);
    assert!(!limit(&gaps) && !inconsistent(&gaps) && !has(&gaps, &GapReason::Cycle));
}
