//! Attack 3: page tables that no kernel would write.

use crate::hostile::{Hostile, look_everywhere, unreadable};
use lynceus_introspect::find::AttachError;
use lynceus_introspect::paging::{MAX_ENTRIES, TranslateError};
use lynceus_introspect::{AccessError, Gap, GapReason, Gpa, GuestMemory, Gva, ReadError};

const PRESENT: u64 = 0x67;
const LARGE: u64 = 1 << 7;
/// Kernel addresses of a guest with four levels.
const KERNEL: (Gva, Gva) = (Gva(0xffff_8000_0000_0000), Gva(u64::MAX));

/// Every entry of the kernel's half of the root names `table`.
fn aim_root_at(guest: &mut Hostile, table: Gpa) {
    let root = guest.kernel.root.table;
    for index in 256..512 {
        guest.memory.write(Gpa(root.0 + index * 8), &(table.0 | PRESENT).to_le_bytes());
    }
}

fn malformed(gaps: &[Gap]) -> bool {
    gaps.iter().any(|gap| {
        matches!(
            &gap.reason,
            GapReason::Access(AccessError::Translate { why: TranslateError::Malformed { .. }, .. })
        )
    })
}

/// Nothing of the kernel can be read any more, and a new attach finds a reason not to.
fn kernel_is_lost(guest: &Hostile) {
    assert!(!guest.look(|view| view.tasks()).is_complete());
    assert!(unreadable(&guest.look(look_everywhere)));
    match guest.attach().map(|attached| attached.evidence) {
        Err(AttachError::NoneSuffices(candidates)) => assert!(!candidates.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_root_whose_entries_name_itself() {
    let mut guest = Hostile::new();
    let root = guest.kernel.root.table;
    aim_root_at(&mut guest, root);
    kernel_is_lost(&guest);
    guest.look(|view| {
        let mut pages = view.space().pages(KERNEL.0, KERNEL.1, MAX_ENTRIES).expect("canonical");
        assert!(pages.by_ref().count() <= MAX_ENTRIES as usize);
        assert!(pages.visited().cut);
    });
}

/// Four tables that map all the kernel's half, 128 TiB, to one page.
#[test]
fn tables_in_which_every_entry_is_the_same_page() {
    let mut guest = Hostile::new();
    let at = guest.scratch(1 << 20);
    let tables = guest.gpa(at);
    for level in 0..3 {
        let below = Gpa(tables.0 + (level + 1) * 4096);
        for index in 0..512 {
            let entry = Gpa(tables.0 + level * 4096 + index * 8);
            guest.memory.write(entry, &(below.0 | PRESENT).to_le_bytes());
        }
    }
    aim_root_at(&mut guest, tables);
    kernel_is_lost(&guest);
    guest.look(|view| {
        let mut pages = view.space().pages(KERNEL.0, KERNEL.1, 1 << 20).expect("canonical");
        assert!(pages.by_ref().count() <= 1 << 20);
        assert!(pages.visited().cut && pages.visited().entries <= 1 << 20);
    });
}

/// The kernel's page table is one large table of large pages of one page: it reads the same wherever it looks, as does a list
/// that leads on and on.
#[test]
fn a_direct_map_that_is_one_page_over_and_over() {
    let mut guest = Hostile::new();
    let task = guest.task("lab-plain");
    let (place, entry) = guest.entry(task.at, 3);
    let table = entry & 0x000f_ffff_ffff_f000;
    let page = guest.gpa(task.at).0 & !0x1f_ffff;
    for index in 0..512 {
        guest.memory.write(Gpa(table + index * 8), &(page | PRESENT | LARGE).to_le_bytes());
    }
    assert_ne!(place.0, table);
    assert!(!guest.look(|view| view.tasks()).is_complete());
    assert!(!guest.look(look_everywhere).is_empty());
}

#[test]
fn large_page_bits_at_the_top_level() {
    let mut guest = Hostile::new();
    let (place, entry) = guest.entry(guest.task("lab-plain").at, 4);
    guest.memory.write(place, &(entry | LARGE).to_le_bytes());
    assert!(malformed(&guest.look(|view| view.tasks()).gaps));
    assert!(malformed(&guest.look(look_everywhere)));
}

#[test]
fn reserved_bits_below_the_address_of_a_large_page() {
    let mut guest = Hostile::new();
    let task = guest.task("lab-plain");
    for level in [3, 2] {
        let (place, entry) = guest.entry(task.at, level);
        let mut now = guest.clone();
        now.memory.write(place, &(entry & !0x1000 | LARGE | 1 << 13).to_le_bytes());
        assert!(malformed(&now.look(|view| view.tasks()).gaps), "level {level}");
    }
    // The frame is left out of nothing else: the guest as it was is whole.
    assert!(guest.look(|view| view.tasks()).is_complete());
    guest.memory.take_away(Gpa(0));
}

#[test]
fn tables_and_pages_past_the_end_of_memory() {
    let guest = Hostile::new();
    let task = guest.task("lab-plain");
    for far in [1 << 30, 0xfee0_0000, 0xfd00_0000_0000, 0x000f_ffff_ffff_f000] {
        for level in [4, 3, 2] {
            let (place, entry) = guest.entry(task.at, level);
            let leaf = entry & LARGE;
            let mut now = guest.clone();
            // Aligned as the level asks for: the only fault is that nothing is there.
            let far = if leaf != 0 { far & !0x1f_ffff } else { far };
            now.memory.write(place, &(far | leaf | PRESENT).to_le_bytes());
            let tasks = now.look(|view| view.tasks());
            assert!(unreadable(&tasks.gaps), "{far:#x} at level {level}: {:?}", tasks.gaps);
            assert!(!now.look(look_everywhere).is_empty());
        }
    }
}

/// A processor with its root in a device's registers reads what the device likes; we read RAM or nothing.
#[test]
fn a_root_in_a_device() {
    let mut guest = Hostile::new();
    guest.kernel.root.table = Gpa(0xfee0_0000);
    let tasks = guest.look(|view| view.tasks());
    let not_ram = |gap: &Gap| {
        matches!(
            &gap.reason,
            GapReason::Access(AccessError::Translate {
                why: TranslateError::Table(ReadError::NotRam { .. }),
                ..
            })
        )
    };
    assert!(tasks.gaps.iter().any(not_ram) && tasks.items.is_empty(), "{tasks:?}");
}

/// A process is hidden from its own page tables on, the rest of the guest is read.
#[test]
fn a_process_whose_root_is_not_memory() {
    for pgd in [0, 0x40_0000, 0x8000_0000_0000_0000, u64::MAX - 7] {
        let mut guest = Hostile::new();
        let mm = guest.mm("lab-plain");
        let place = guest.member(mm.at, "mm_struct", "pgd");
        guest.u64(place, pgd);
        let mm = guest.look(|view| view.mm(mm.at)).expect("the rest is there");
        assert!(guest.look(|view| view.cmdline(&mm)).is_err(), "{pgd:#x}");
        assert!(guest.look(|view| view.tasks()).is_complete());
    }
}

/// Arguments in a process whose tables map every address to one page: as long as they may be, and no longer.
#[test]
fn a_process_that_maps_one_page_to_all_its_addresses() {
    let mut guest = Hostile::new();
    let scratch = guest.scratch(1 << 20);
    let mm = guest.mm("lab-plain");
    let tables = guest.gpa(scratch);
    for level in 0..4 {
        for index in 0..512 {
            let entry = Gpa(tables.0 + level * 4096 + index * 8);
            guest.memory.write(entry, &((tables.0 + (level + 1) * 4096) | PRESENT).to_le_bytes());
        }
    }
    let place = guest.member(mm.at, "mm_struct", "pgd");
    guest.u64(place, scratch.0);
    let mm = guest.look(|view| view.mm(mm.at)).expect("it is there");
    guest.look(|view| {
        let space = view.process_space(&mm).expect("tables");
        let mut pages = space.pages(Gva(0), Gva(0x7fff_ffff_ffff), 1 << 20).expect("canonical");
        assert!(pages.by_ref().count() <= 1 << 20 && pages.visited().cut);
        let words = view.cmdline(&mm).expect("zeros, but readable");
        assert!(words.iter().all(String::is_empty) && words.len() < 1 << 20, "{} words", words.len());
    });
}

#[test]
fn a_table_that_was_taken_away() {
    let mut guest = Hostile::new();
    let (place, _) = guest.entry(guest.task("lab-plain").at, 2);
    guest.memory.take_away(place);
    assert!(guest.memory.read(place, &mut [0]).is_err());
    assert!(unreadable(&guest.look(|view| view.tasks()).gaps));
    assert!(unreadable(&guest.look(look_everywhere)));
}
