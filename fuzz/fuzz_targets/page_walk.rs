//! Page tables of any bytes, in every mode: walks, reads and runs end, never panic, and agree with each other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_introspect::backend::fake::Fake;
use lynceus_introspect::paging::{Mode, Root, walk};
use lynceus_introspect::{AddressSpace, Gpa, Gva};

const MODES: [Mode; 4] = [Mode::Legacy32, Mode::Pae, Mode::FourLevel, Mode::FiveLevel];

fuzz_target!(|data: &[u8]| {
    let Some((header, tables)) = data.split_at_checked(18) else { return };
    let number = |from: usize| u64::from_le_bytes(std::array::from_fn(|n| header[from + n]));
    let mode = MODES[usize::from(header[0] % 4)];
    let root = Root { table: Gpa(u64::from(header[1]) << 12 & 0x3000), mode };
    let (first, second) = (Gva(number(2)), Gva(number(10)));

    // A small input is repeated over four pages, so that a few entries make deep tables.
    let ram: Vec<u8> =
        tables.iter().copied().cycle().take(if tables.is_empty() { 0 } else { 0x4000 }).collect();
    let fake = Fake::flat(ram);
    let space = AddressSpace::new(&fake, root);
    for at in [first, second, first] {
        let cached = space.translate(at).ok();
        assert_eq!(cached, walk(&fake, root, at).ok());
        let _ = space.read(at, &mut [0; 5000]);
    }
    let Ok(mut runs) = space.pages(first.min(second), first.max(second), 20_000) else { return };
    for run in runs.by_ref() {
        let found = walk(&fake, root, run.start).expect("a run is mapped");
        assert_eq!(found.gpa, run.gpa);
    }
    assert!(runs.visited().entries <= 20_000);
});
