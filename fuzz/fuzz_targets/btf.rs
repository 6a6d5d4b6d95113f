//! BTF blobs of any bytes: types or a typed error, and every lookup in the types ends.
#![no_main]

mod types;

use libfuzzer_sys::fuzz_target;
use lynceus_profiles::btf;

fuzz_target!(|data: &[u8]| {
    // Two bytes say how much of the rest are types: a header that fits, so that all inputs get past it.
    let Some((cut, rest)) = data.split_first_chunk::<2>() else { return };
    let cut = u32::from(u16::from_le_bytes(*cut)).min(rest.len() as u32);
    let mut blob = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, cut, cut, rest.len() as u32 - cut] {
        blob.extend(word.to_le_bytes());
    }
    blob.extend(rest);
    for blob in [&blob[..], data] {
        if let Ok(found) = btf::parse(blob) {
            types::look_up(&found);
        }
    }
});
