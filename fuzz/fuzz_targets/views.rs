//! Every view of a kernel whose memory is any bytes: all end, none panics, and what is listed is bounded.
#![no_main]

mod toy;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((start, writes)) = input.split_first_chunk::<2>() else { return };
    let guest = toy::guest(writes);
    drop(toy::looks::everything(&guest.view(), toy::object(u16::from_le_bytes(*start))));
});
