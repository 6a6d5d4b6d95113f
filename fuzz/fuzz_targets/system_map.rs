//! System.map of any text: symbols or the line that is wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_profiles::system_map::{SystemMapError, is_like, parse};

fuzz_target!(|data: &[u8]| {
    is_like(data);
    match parse(data) {
        Ok(symbols) => assert!(symbols.address("_text").is_some()),
        Err(SystemMapError::Line { line, .. }) => {
            assert!(line <= 1 + data.iter().filter(|byte| **byte == b'\n').count());
        }
        Err(_) => {}
    }
});
