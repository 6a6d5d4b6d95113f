//! Hash lists of any text: hashes, or the line that is wrong. Whatever is understood is found again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_scanners::signatures::HashList;

fuzz_target!(|data: &[u8]| {
    match HashList::parse(data) {
        Ok(list) => assert!(list.len() <= data.len() / 64),
        Err((line, _)) => assert!(line <= 1 + data.iter().filter(|byte| **byte == b'\n').count()),
    }
});
