//! Stored profiles of any bytes: one that holds together or a typed error, and every lookup in it ends.
#![no_main]

mod types;

use libfuzzer_sys::fuzz_target;
use lynceus_profiles::store;

fuzz_target!(|data: &[u8]| {
    // Two bytes say where the header ends; checksums are off when fuzzing.
    let Some((cut, rest)) = data.split_first_chunk::<2>() else { return };
    let cut = usize::from(u16::from_le_bytes(*cut)).min(rest.len());
    let mut file = b"LYNCPROF".to_vec();
    for word in [1, cut as u32, (rest.len() - cut) as u32, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(rest);
    if let Ok((_, profile)) = store::decode(&file) {
        types::look_up(&profile.types);
        for symbol in profile.symbols.iter().take(1000) {
            let _ = profile.symbols.address(symbol.name);
            let _ = profile.symbols.nearest(symbol.address);
        }
    }
});
