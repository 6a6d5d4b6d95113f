//! Dump files of any bytes: opening ends in a dump or a typed error, and reads of it end too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_introspect::backend::dump::{Dump, RawLayout};
use lynceus_introspect::{Gpa, GuestMemory};
use std::path::PathBuf;
use std::sync::OnceLock;

/// A file in memory where there is one; each process its own.
fn path() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let shm = PathBuf::from("/dev/shm");
        let folder = if shm.is_dir() { shm } else { std::env::temp_dir() };
        folder.join(format!("lynceus-fuzz-dump-{}", std::process::id()))
    })
}

fuzz_target!(|data: &[u8]| {
    // The first byte pads to a whole number of pages, so that small inputs reach raw images and kdump's blocks.
    let Some((pad, bytes)) = data.split_first() else { return };
    let mut file = bytes.to_vec();
    if pad & 1 != 0 {
        file.resize(file.len().next_multiple_of(4096).max(usize::from(pad >> 1) << 13), 0);
    }
    std::fs::write(path(), &file).expect("the fuzzer's own file");
    let dump = Dump::open(path());
    std::fs::remove_file(path()).expect("the fuzzer's own file");
    let Ok(dump) = dump else { return };
    let ranges = dump.ram().to_vec();
    assert!(!ranges.is_empty());
    assert!(ranges.windows(2).all(|two| two[0].end() < two[1].start), "{ranges:?}");
    for range in ranges.iter().take(20) {
        for at in [range.start.0, range.end().0.saturating_sub(1), range.end().0.saturating_sub(4097)] {
            for len in [1, 4096, 9000] {
                let mut buf = vec![0; len];
                let read = dump.read(Gpa(at), &mut buf);
                assert!(
                    read.is_err() || range.contains(Gpa(at), len as u64),
                    "{at:#x}: {len} bytes outside RAM"
                );
            }
        }
    }
    let _ =
        dump.with_raw_layout(RawLayout::HoleRemoved { below_bytes: 0x3000 }).map(|dump| dump.read(Gpa(1 << 32), &mut [0; 64]));
});
