//! Makes tables as `scripts/kallsyms.c` lays them out, for tests and fuzzing: every token stands for itself.

#![allow(missing_docs, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{KERNEL_MAP, MARKER_STEP};

/// Which kernel's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// To 6.1.
    OffsetsFirst,
    /// 6.2 and 6.3.
    Sequences,
    /// 6.4 to 6.x.
    OffsetsLast,
    /// 7.x.
    Own,
}

impl Order {
    pub const ALL: [Order; 4] = [Order::OffsetsFirst, Order::Sequences, Order::OffsetsLast, Order::Own];
}

/// A region with the tables of these symbols, name and distance from the base (sorted), and where the signature is in it.
/// `before` bytes of zeros come first, a multiple of 8.
pub fn encode(order: Order, symbols: &[(String, u32)], before: usize) -> (Vec<u8>, usize) {
    let base = KERNEL_MAP + 0x100_0000;
    let mut out = vec![0u8; before];
    let align = |out: &mut Vec<u8>, to: usize| out.resize(out.len().next_multiple_of(to), 0);
    let relative = |out: &mut Vec<u8>| {
        for (_, offset) in symbols {
            out.extend((-1 - *offset as i32).to_le_bytes());
        }
        align(out, 8);
        out.extend(base.to_le_bytes());
    };
    if matches!(order, Order::OffsetsFirst | Order::Sequences) {
        relative(&mut out);
    }
    out.extend((symbols.len() as u64).to_le_bytes());
    let (start, mut markers) = (out.len(), Vec::new());
    for (index, (name, _)) in symbols.iter().enumerate() {
        if index % MARKER_STEP == 0 {
            markers.push((out.len() - start) as u32);
        }
        // The type's letter comes first.
        let len = name.len() + 1;
        if len > 127 {
            out.extend([len as u8 | 0x80, (len >> 7) as u8]);
        } else {
            out.push(len as u8);
        }
        out.push(b'T');
        out.extend(name.as_bytes());
    }
    align(&mut out, 4);
    markers.iter().for_each(|marker| out.extend(marker.to_le_bytes()));
    if order == Order::Sequences {
        (0..symbols.len() as u32).for_each(|index| out.extend(&index.to_be_bytes()[1..]));
    }
    align(&mut out, 8);
    let (tokens, mut index) = (out.len(), Vec::new());
    for token in 0..=255u8 {
        index.extend(((out.len() - tokens) as u16).to_le_bytes());
        // Codes that no name uses stand for something longer, as in a real table.
        match token {
            0x21..=0x7e => out.extend([token, 0]),
            _ => out.extend([b'q', 0]),
        }
    }
    align(&mut out, 8);
    out.extend(index);
    match order {
        Order::OffsetsLast => {
            align(&mut out, 8);
            relative(&mut out);
        }
        Order::Own => {
            // Each counts from its own place; the text lies before the table.
            for (number, (_, offset)) in symbols.iter().enumerate() {
                let from_place = *offset as i64 - 0x1000_0000 - 4 * number as i64;
                out.extend((from_place as i32).to_le_bytes());
            }
        }
        Order::OffsetsFirst | Order::Sequences => {}
    }
    align(&mut out, 8);
    out.resize(out.len() + 64, 0);
    let signature = out[tokens..].windows(20).position(|window| window == super::SIGNATURE);
    (out, tokens + signature.expect("the digits follow each other"))
}
