//! Page tables of every mode against a reference that follows the processor manual's tables line by line.
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use lynceus_introspect::backend::fake::{Fake, Fault};
use lynceus_introspect::paging::{Mode, Root, TranslateError, Translation, walk};
use lynceus_introspect::{AccessError, AddressSpace, Gfn, Gpa, Gva, ReadError};
use proptest::prelude::*;
use std::collections::BTreeMap;

const RAM_PAGES: u64 = 16;

/// A walk by the book: Intel SDM 3A, tables 4-5 and 4-6 (32-bit), 4-8 to 4-11 (PAE), 4-14 to 4-20 (64-bit).
mod reference {
    use super::*;

    #[derive(PartialEq, Eq, Debug)]
    pub(super) enum Bad {
        NonCanonical,
        NotPresent(u8, u64),
        Malformed(u8, u64),
        OutsideRam,
    }

    pub(super) fn walk(ram: &[u8], root: Root, va: u64) -> Result<Translation, Bad> {
        match root.mode {
            Mode::Legacy32 if va > 0xffff_ffff => Err(Bad::NonCanonical),
            Mode::Pae if va > 0xffff_ffff => Err(Bad::NonCanonical),
            Mode::FourLevel if !matches!(va >> 47, 0 | 0x1_ffff) => Err(Bad::NonCanonical),
            Mode::FiveLevel if !matches!(va >> 56, 0 | 0xff) => Err(Bad::NonCanonical),
            Mode::Legacy32 => legacy(ram, root.table.0 & 0xffff_f000, va),
            Mode::Pae => pae(ram, root.table.0 & 0xffff_ffe0, va),
            Mode::FourLevel => long(ram, root.table.0 & 0xf_ffff_ffff_f000, va, 4),
            Mode::FiveLevel => long(ram, root.table.0 & 0xf_ffff_ffff_f000, va, 5),
        }
    }

    fn number(ram: &[u8], at: u64, bytes: usize) -> Result<u64, Bad> {
        let at = usize::try_from(at).map_err(|_| Bad::OutsideRam)?;
        let bytes = ram.get(at..at + bytes).ok_or(Bad::OutsideRam)?;
        let mut all = [0; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(all))
    }

    fn bit(entry: u64, n: u32) -> bool {
        entry >> n & 1 == 1
    }

    fn any(entry: u64, low: u32, high: u32) -> bool {
        (low..=high).any(|n| bit(entry, n))
    }

    fn field(entry: u64, low: u32, high: u32) -> u64 {
        (low..=high).filter(|n| bit(entry, *n)).map(|n| 1u64 << n).sum()
    }

    fn result(base: u64, va: u64, page_bytes: u64, entries: &[u64]) -> Result<Translation, Bad> {
        Ok(Translation {
            gpa: Gpa(base + va % page_bytes),
            page_bytes,
            writable: entries.iter().all(|entry| bit(*entry, 1)),
            user: entries.iter().all(|entry| bit(*entry, 2)),
            executable: !entries.iter().any(|entry| bit(*entry, 63)),
        })
    }

    fn legacy(ram: &[u8], table: u64, va: u64) -> Result<Translation, Bad> {
        let pde = number(ram, table + (va >> 22) * 4, 4)?;
        if !bit(pde, 0) {
            return Err(Bad::NotPresent(2, pde));
        }
        if bit(pde, 7) {
            if bit(pde, 21) {
                return Err(Bad::Malformed(2, pde));
            }
            let high: u64 = (13..=20).filter(|n| bit(pde, *n)).map(|n| 1u64 << (n - 13 + 32)).sum();
            return result(field(pde, 22, 31) + high, va, 4 << 20, &[pde]);
        }
        let pte = number(ram, field(pde, 12, 31) + (va >> 12) % 1024 * 4, 4)?;
        if !bit(pte, 0) {
            return Err(Bad::NotPresent(1, pte));
        }
        result(field(pte, 12, 31), va, 4096, &[pde, pte])
    }

    fn pae(ram: &[u8], table: u64, va: u64) -> Result<Translation, Bad> {
        let pdpte = number(ram, table + (va >> 30) * 8, 8)?;
        if !bit(pdpte, 0) {
            return Err(Bad::NotPresent(3, pdpte));
        }
        if any(pdpte, 1, 2) || any(pdpte, 5, 8) || any(pdpte, 52, 63) {
            return Err(Bad::Malformed(3, pdpte));
        }
        let pde = number(ram, field(pdpte, 12, 51) + (va >> 21) % 512 * 8, 8)?;
        if !bit(pde, 0) {
            return Err(Bad::NotPresent(2, pde));
        }
        if any(pde, 52, 62) || bit(pde, 7) && any(pde, 13, 20) {
            return Err(Bad::Malformed(2, pde));
        }
        if bit(pde, 7) {
            return result(field(pde, 21, 51), va, 2 << 20, &[pde]);
        }
        let pte = number(ram, field(pde, 12, 51) + (va >> 12) % 512 * 8, 8)?;
        if !bit(pte, 0) {
            return Err(Bad::NotPresent(1, pte));
        }
        if any(pte, 52, 62) {
            return Err(Bad::Malformed(1, pte));
        }
        result(field(pte, 12, 51), va, 4096, &[pde, pte])
    }

    fn long(ram: &[u8], mut table: u64, va: u64, levels: u8) -> Result<Translation, Bad> {
        let mut entries = Vec::new();
        for level in (1..=levels).rev() {
            let index = va >> (3 + 9 * u32::from(level)) & 511;
            let entry = number(ram, table + index * 8, 8)?;
            entries.push(entry);
            if !bit(entry, 0) {
                return Err(Bad::NotPresent(level, entry));
            }
            match (level, bit(entry, 7)) {
                (1, _) => return result(field(entry, 12, 51), va, 4096, &entries),
                (2, true) if !any(entry, 13, 20) => {
                    return result(field(entry, 21, 51), va, 2 << 20, &entries);
                }
                (3, true) if !any(entry, 13, 29) => {
                    return result(field(entry, 30, 51), va, 1 << 30, &entries);
                }
                (_, true) => return Err(Bad::Malformed(level, entry)),
                (_, false) => table = field(entry, 12, 51),
            }
        }
        unreachable!("level 1 returns")
    }
}

use reference::Bad;

fn bad(error: &TranslateError) -> Bad {
    match *error {
        TranslateError::NonCanonical => Bad::NonCanonical,
        TranslateError::NotPresent { level, entry } => Bad::NotPresent(level, entry),
        TranslateError::Malformed { level, entry } => Bad::Malformed(level, entry),
        TranslateError::Foreign { .. } => unreachable!("no machine frames here"),
        TranslateError::Table(_) => Bad::OutsideRam,
    }
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Legacy32), Just(Mode::Pae), Just(Mode::FourLevel), Just(Mode::FiveLevel)]
}

/// Entries that lead on more often than not: frames inside RAM, few stray bits.
fn entry() -> impl Strategy<Value = u64> {
    let flags = prop_oneof![
        4 => Just(0x067u64),
        2 => Just(0x0e7),
        2 => (0u64..0x1000).prop_map(|low| low | 1),
        1 => Just(0),
        1 => any::<u64>(),
    ];
    let high = prop_oneof![6 => Just(0u64), 1 => Just(1 << 63), 1 => any::<u64>().prop_map(|bits| bits & 0xfff << 52)];
    let base = prop_oneof![
        12 => 0..RAM_PAGES,
        2 => (0..RAM_PAGES).prop_map(|n| n << 9),
        2 => (0..RAM_PAGES).prop_map(|n| n << 18),
        1 => any::<u64>().prop_map(|n| n & 0xff_ffff_ffff),
    ];
    (flags, high, base).prop_map(|(flags, high, base)| flags | high | base << 12)
}

/// Entries that a kernel would write.
fn tame_entry() -> impl Strategy<Value = u64> {
    let flags =
        prop_oneof![8 => Just(0x067u64), 1 => Just(0x065), 1 => Just(0x063), 1 => Just(0x0e7), 1 => Just(0)];
    let base = prop_oneof![8 => 0..RAM_PAGES, 1 => (0..4u64).prop_map(|n| n << 9), 1 => (0..4u64).prop_map(|n| n << 18)];
    (flags, 0u64..2, base).prop_map(|(flags, nx, base)| flags | nx << 63 | base << 12)
}

/// RAM full of tables: a few distinct entries, scattered over every word by `salt`. Where the entries are tame, the upper
/// half of RAM names neighbouring frames in neighbouring entries, whose rights change from time to time.
fn ram() -> impl Strategy<Value = Vec<u8>> {
    let wild = (proptest::collection::vec(entry(), 1..40), any::<u64>(), Just(false));
    let tame = (proptest::collection::vec(tame_entry(), 1..40), any::<u64>(), Just(true));
    prop_oneof![wild, tame].prop_map(|(entries, salt, rows)| {
        let words = RAM_PAGES * 512;
        let pick = |word: u64| {
            let mixed = (word ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
            let entry = entries[mixed as usize % entries.len()];
            let row = ((word + (salt & 0xff)) % 24) << 12 | [0x067, 0x065, 0x061][(word / 20 % 3) as usize];
            if rows && word >= words / 2 && !mixed.is_multiple_of(8) { row } else { entry }
        };
        (0..words).flat_map(|word| pick(word).to_le_bytes()).collect()
    })
}

/// Addresses of this mode, and now and then one that is not.
fn address(mode: Mode, raw: u64) -> u64 {
    match (raw % 16, mode) {
        (0, _) => raw,
        (_, Mode::Legacy32 | Mode::Pae) => raw & 0xffff_ffff,
        (_, Mode::FourLevel) => ((raw as i64) << 16 >> 16) as u64,
        (_, Mode::FiveLevel) => ((raw as i64) << 7 >> 7) as u64,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn walks_agree_with_the_reference(
        ram in ram(), mode in modes(), cr3 in 0..RAM_PAGES * 4096,
        addresses in proptest::collection::vec(any::<u64>(), 1..200),
    ) {
        let root = Root { table: Gpa(cr3), mode };
        let fake = Fake::flat(ram.clone());
        let space = AddressSpace::new(&fake, root);
        // Twice in one space: the second round finds most of them in the cache.
        for raw in addresses.iter().chain(&addresses) {
            let va = Gva(address(mode, *raw));
            let expected = reference::walk(&ram, root, va.0);
            prop_assert_eq!(walk(&fake, root, va).map_err(|error| bad(&error)), expected, "{:?} {}", mode, va);
            let cached = match space.translate(va) {
                Ok(found) => Ok(found),
                Err(AccessError::Translate { why, .. }) => Err(bad(&why)),
                Err(other) => panic!("{other}"),
            };
            prop_assert_eq!(cached, reference::walk(&ram, root, va.0), "cached, {:?} {}", mode, va);
        }
    }

    #[test]
    fn reads_agree_with_the_reference_byte_by_byte(
        ram in ram(), mode in modes(), cr3 in 0..RAM_PAGES * 4096,
        raw in any::<u64>(), len in 0usize..9000,
    ) {
        let root = Root { table: Gpa(cr3), mode };
        let fake = Fake::flat(ram.clone());
        let space = AddressSpace::new(&fake, root);
        let at = address(mode, raw);
        let byte = |n: usize| {
            let found = reference::walk(&ram, root, at.checked_add(n as u64)?).ok()?;
            ram.get(usize::try_from(found.gpa.0).ok()?).copied()
        };
        let expected: Option<Vec<u8>> = (0..len).map(byte).collect();
        let mut buf = vec![0; len];
        let read = space.read(Gva(at), &mut buf).ok().map(|()| buf);
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn runs_agree_with_the_reference_page_by_page(
        ram in ram(), mode in modes(), cr3 in 0..RAM_PAGES * 4096,
        raw in any::<u64>(), pages in 1u64..3000, cut in 0u64..4096, start_at_all in 0u64..4096,
    ) {
        let root = Root { table: Gpa(cr3), mode };
        let fake = Fake::flat(ram.clone());
        let first = address(mode, raw) & !0xfff | start_at_all;
        let last = first.saturating_add(pages * 4096 - cut);
        let space = AddressSpace::new(&fake, root);
        // The second time last-level tables are known.
        for first in [first, first.midpoint(last)] {
            let Ok(mut runs) = space.pages(Gva(first), Gva(last), u64::MAX) else {
                let bad = |va| reference::walk(&ram, root, va) == Err(Bad::NonCanonical);
                prop_assert!(bad(first) || bad(last));
                return Ok(());
            };
            let mut seen = BTreeMap::new();
            let mut before = None;
            for run in runs.by_ref() {
                prop_assert!(before.is_none_or(|end| end <= run.start.0), "in order");
                prop_assert!(run.start.0 >= first && run.start.0 + (run.len_bytes - 1) <= last, "inside");
                before = Some(run.start.0.wrapping_add(run.len_bytes));
                let end = run.start.0 + (run.len_bytes - 1);
                let mut at = run.start.0;
                loop {
                    seen.insert(at, (run.gpa.0 + (at - run.start.0), run.access));
                    match (at | 0xfff).checked_add(1) { Some(next) if next <= end => at = next, _ => break }
                }
            }
            prop_assert!(!runs.visited().cut);
            let mut at = first;
            loop {
                let found = seen.get(&at).map(|(gpa, access)| (*gpa, access.writable, access.user, access.executable));
                let expected = reference::walk(&ram, root, at).ok();
                prop_assert_eq!(found, expected.map(|to| (to.gpa.0, to.writable, to.user, to.executable)), "{:#x}", at);
                match (at | 0xfff).checked_add(1) { Some(next) if next <= last => at = next, _ => break }
            }
        }
    }
}

/// A table whose every entry is `entry`.
fn uniform(entry: u64) -> Fake {
    Fake::flat((0..512).flat_map(|_| entry.to_le_bytes()).collect())
}

const RECURSIVE: Root = Root { table: Gpa(0), mode: Mode::FiveLevel };

#[test]
fn a_table_that_names_itself_is_a_page_in_the_end() {
    let found = walk(&uniform(0x63), RECURSIVE, Gva(0x1234_5678_9abc));
    assert_eq!(found.map(|to| (to.gpa, to.page_bytes)), Ok((Gpa(0xabc), 4096)));
}

#[test]
fn a_table_that_names_itself_maps_everything_and_is_cut() {
    let fake = uniform(0x63);
    let space = AddressSpace::new(&fake, RECURSIVE);
    let mut runs = space.pages(Gva(0), Gva(u64::MAX), 10_000).expect("canonical");
    assert!(runs.by_ref().count() <= 10_000);
    let visited = runs.visited();
    assert!(visited.cut && visited.entries == 10_000, "{visited:?}");
}

#[test]
fn nothing_mapped_costs_one_table() {
    let fake = uniform(0);
    let space = AddressSpace::new(&fake, RECURSIVE);
    let mut runs = space.pages(Gva(0), Gva(u64::MAX), 10_000).expect("canonical");
    assert_eq!(runs.next(), None);
    assert_eq!((runs.visited().entries, runs.visited().cut), (512, false));
}

#[test]
fn a_table_outside_ram_or_lost_is_a_typed_error() {
    let outside = walk(&uniform(0xffff_f063), RECURSIVE, Gva(0));
    assert!(matches!(outside, Err(TranslateError::Table(ReadError::NotRam { .. }))), "{outside:?}");
    let absent = walk(&uniform(0x63).fault(Gfn(0), Fault::Absent), RECURSIVE, Gva(0));
    assert_eq!(absent, Err(TranslateError::Table(ReadError::Absent { at: Gpa(0) })));
}

#[test]
fn a_huge_page_where_no_level_has_one_is_malformed() {
    for (mode, level) in [(Mode::FourLevel, 4), (Mode::FiveLevel, 5), (Mode::Pae, 3)] {
        let found = walk(&uniform(0xe7), Root { table: Gpa(0), mode }, Gva(0));
        assert_eq!(found, Err(TranslateError::Malformed { level, entry: 0xe7 }), "{mode:?}");
    }
}

#[test]
fn entries_of_a_pv_guest_name_machine_frames() {
    // Machine frame 0x777 is the guest's frame 0, and 0x778 is somebody else's.
    let mut table = uniform(0x77_7063);
    let frames = BTreeMap::from([(0x777, Gfn(0))]);
    table = table.machine_frames(frames.clone());
    assert_eq!(walk(&table, RECURSIVE, Gva(0x5008)).map(|to| to.gpa), Ok(Gpa(8)));
    let foreign = uniform(0x77_8063).machine_frames(frames);
    let refused = walk(&foreign, RECURSIVE, Gva(0));
    assert_eq!(refused, Err(TranslateError::Foreign { level: 5, entry: 0x77_8063 }));
}

#[test]
fn a_read_past_the_last_address_fails() {
    let fake = uniform(0x63);
    let space = AddressSpace::new(&fake, RECURSIVE);
    let mut buf = [0; 8];
    assert!(space.read(Gva(u64::MAX - 7), &mut buf).is_ok());
    assert!(space.read(Gva(u64::MAX - 6), &mut buf).is_err());
}

#[test]
fn the_cache_counts() {
    let fake = uniform(0x63);
    let space = AddressSpace::new(&fake, RECURSIVE);
    for at in [0x1000, 0x1008, 0x2000, 0x1010] {
        space.translate(Gva(at)).expect("mapped");
    }
    let stats = space.cache_stats();
    assert_eq!((stats.hits, stats.table_hits, stats.misses), (2, 1, 1));
    assert_eq!(fake.reads(), 5 + 1);
}
