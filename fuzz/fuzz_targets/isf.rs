//! Volatility 3's symbol files, of any text: a profile or a typed error, and what is written reads back.
#![no_main]

mod types;

use libfuzzer_sys::fuzz_target;
use lynceus_profiles::isf;

fuzz_target!(|data: &[u8]| {
    let Ok(profile) = isf::read(data) else { return };
    types::look_up(&profile.types);
    let mut text = Vec::new();
    isf::write(&profile, &mut text).expect("a vector takes it");
    let again = isf::read(&text).expect("what is written reads back");
    assert_eq!(again.identity, profile.identity);
    for symbol in profile.symbols.iter() {
        assert!(again.symbols.address(symbol.name).is_some());
    }
});
