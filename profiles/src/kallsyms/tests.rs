//! Tables of every order decode to what they were made of, and what is broken ends.

#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::table::{Order, encode};
use super::*;
use std::time::Instant;

fn names(count: u32) -> Vec<(String, u32)> {
    let long = "long_name_".repeat(15);
    let name = |n: u32| match n {
        0 => "_text".to_owned(),
        n if n % 97 == 0 => format!("{long}{n}"),
        n => format!("symbol_{n}"),
    };
    (0..count).map(|n| (name(n), n * 48)).collect()
}

#[test]
fn every_order_decodes() {
    for order in Order::ALL {
        for count in [1000, 1023, 1024, 1025, 5000] {
            let made = names(count);
            let (region, at) = encode(order, &made, 4096);
            assert!(is_token_table(&region, at), "{order:?}");
            let tables = locate(&region, at).unwrap_or_else(|error| panic!("{order:?} {count}: {error}"));
            assert_eq!(tables.count, count as usize);
            let found = tables.decode(&region).unwrap_or_else(|error| panic!("{order:?}: {error}"));
            assert_eq!(found.symbols.len(), count as usize);
            assert_eq!(found.text_address.is_none(), order == Order::Own);
            for (name, offset) in &made {
                assert_eq!(
                    found.symbols.address(name),
                    Some(LINK_TEXT + u64::from(*offset)),
                    "{order:?} {name}"
                );
            }
        }
    }
}

#[test]
fn any_byte_may_be_wrong() {
    for order in Order::ALL {
        let (sound, at) = encode(order, &names(1000), 64);
        for place in (0..sound.len()).step_by(7) {
            let mut region = sound.clone();
            region[place] ^= 0xff;
            let _ = locate(&region, at).and_then(|tables| tables.decode(&region));
        }
        for end in (at..sound.len()).step_by(101) {
            let _ = locate(&sound[..end], at).and_then(|tables| tables.decode(&sound[..end]));
        }
    }
}

/// Names of two bytes each, so that a table seems to begin at every fourth byte, and a count that fits at each of them.
#[test]
fn a_table_that_could_begin_anywhere_is_given_up() {
    const COUNT: usize = 0x1_0001;
    let (sound, at) = encode(Order::OffsetsLast, &names(1000), 0);
    let tokens = locate(&sound, at).expect("a table").tokens;
    let blocks = COUNT.div_ceil(MARKER_STEP);
    let mut region: Vec<u8> = [1, 0].repeat(COUNT + MAX_LAST_BLOCK);
    region.resize(region.len().next_multiple_of(8), 0);
    // Where it would fit, the count does not.
    let fits = region.len() - 512 * (blocks - 1);
    region[fits - 32..fits].fill(1);
    (0..blocks).for_each(|block| region.extend((block as u32 * 512).to_le_bytes()));
    region.resize(region.len().next_multiple_of(8), 0);
    let start = region.len();
    region.extend(&sound[tokens.start..]);
    let started = Instant::now();
    let found = locate(&region, start + (at - tokens.start));
    assert!(matches!(found, Err(KallsymsError::Names { .. } | KallsymsError::Markers { .. })), "{found:?}");
    println!("given up after {:?}", started.elapsed());
}

#[test]
fn absurd_counts_are_refused() {
    for order in Order::ALL {
        let made = names(1000);
        let (sound, at) = encode(order, &made, 64);
        let tables = locate(&sound, at).expect("a table");
        for count in [0u64, 999, 1001, 1 << 20, 1 << 24, u64::from(u32::MAX)] {
            let mut region = sound.clone();
            region[tables.names.start - 8..tables.names.start].copy_from_slice(&count.to_le_bytes());
            assert!(locate(&region, at).is_err(), "{order:?} {count}");
        }
    }
}
