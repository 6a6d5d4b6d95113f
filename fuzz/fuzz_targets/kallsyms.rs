//! kallsyms tables of every order, damaged: found and decoded, or a typed error, in bounded time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_profiles::kallsyms::table::{Order, encode};
use lynceus_profiles::kallsyms::{locate, signatures};

fuzz_target!(|data: &[u8]| {
    let Some(([order, more, before], changes)) = data.split_first_chunk::<3>() else { return };
    let count = 1000 + u32::from(*more);
    let name = |n: u32| if n == 0 { "_text".to_owned() } else { format!("s{n}") };
    let symbols: Vec<_> = (0..count).map(|n| (name(n), n * 16)).collect();
    let order = Order::ALL[usize::from(order % 4)];
    let (mut region, _) = encode(order, &symbols, usize::from(*before) * 8);
    // Four bytes a change: where, and what is there instead.
    for change in changes.chunks_exact(4) {
        let at = (usize::from(change[0]) << 8 | usize::from(change[1])) % (region.len() - 1);
        region[at..at + 2].copy_from_slice(&change[2..]);
    }
    for region in [&region[..], data] {
        let found: Vec<usize> = signatures(region).take(4).collect();
        for at in found {
            if let Ok(decoded) = locate(region, at).and_then(|tables| tables.decode(region)) {
                assert!(decoded.symbols.address("_text").is_some());
                decoded.symbols.iter().for_each(|symbol| assert!(symbol.name.len() < 2000));
            }
        }
    }
});
