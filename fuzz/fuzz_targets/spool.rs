//! Segments of a spool of any bytes: records that are there, and damage that covers the rest.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| lynceus_alerts::spool::fuzz(data));
