//! Ring buffers: wrapped, torn, and with lying positions.

use super::*;
use crate::linux::testing::{Bench, gva, number, pointer};

const DESCRIPTORS: u64 = 0x2000;
const INFOS: u64 = 0x3000;
const DATA: u64 = 0x4000;
const INFO_BYTES: u64 = 24;
const DESCRIPTOR_BYTES: u64 = 24;

/// A ring of 8 records and 256 bytes of text, with one pointer to it at 0x800.
fn bench(tail: u64, head: u64) -> Bench {
    let mut bench = Bench::new();
    let ring =
        [number(0, 4), pointer(8), pointer(16), number(24, 8), number(32, 8), number(40, 4), pointer(48)];
    let descriptor = [number(0, 8), number(8, 8), number(16, 8)];
    let info = [number(0, 8), number(8, 8), number(16, 2), number(18, 1)];
    let level = Field { bits: Some((5, 3)), ..number(19, 1) };
    bench.layouts().log = Ok(LogLayout {
        ring_pointer: gva(0x800).0,
        ring: Span::of(&ring),
        count_bits: ring[0],
        descriptors: ring[1],
        infos: ring[2],
        head: ring[3],
        tail: ring[4],
        size_bits: ring[5],
        data: ring[6],
        descriptor_bytes: DESCRIPTOR_BYTES as u32,
        descriptor: Span::of(&descriptor),
        state: descriptor[0],
        begin: descriptor[1],
        next: descriptor[2],
        info_bytes: INFO_BYTES as u32,
        info: Span::of(&[info[0], info[1], info[2], info[3], level]),
        sequence: info[0],
        time: info[1],
        text_len: info[2],
        facility: info[3],
        level,
    });
    bench.link(0x800, 0x1000).u32(0x1000, 3).link(0x1008, DESCRIPTORS).link(0x1010, INFOS);
    bench.u64(0x1018, head).u64(0x1020, tail).u32(0x1028, 8).link(0x1030, DATA);
    bench
}

fn record(bench: &mut Bench, id: u64, begin: u64, text: &str) {
    let next = begin + 8 + (text.len() as u64).next_multiple_of(8);
    // A block that would cross the ring's end goes to its start.
    let (place, next) = if begin / 256 == (next - 1) / 256 {
        (begin % 256, next)
    } else {
        (0, begin / 256 * 256 + 256 + next - begin)
    };
    let (slot, info) = (DESCRIPTORS + id % 8 * DESCRIPTOR_BYTES, INFOS + id % 8 * INFO_BYTES);
    bench.u64(slot, FINALIZED << STATE_SHIFT | id).u64(slot + 8, begin).u64(slot + 16, next);
    bench.u64(info, id + 100).u64(info + 8, id * 1000).bytes(info + 16, &(text.len() as u16).to_le_bytes());
    bench.bytes(info + 18, &[0, 6 << 5]);
    bench.u64(DATA + place, id).bytes(DATA + place + 8, text.as_bytes());
}

fn texts(bench: &Bench) -> Vec<String> {
    bench.look(|view| view.kernel_log().items.into_iter().map(|record| record.text).collect())
}

#[test]
fn records_come_in_order_with_their_fields() {
    let mut bench = bench(5, 7);
    record(&mut bench, 5, 0, "one");
    record(&mut bench, 6, 16, "two");
    record(&mut bench, 7, 32, "");
    bench.u64(DESCRIPTORS + 7 * DESCRIPTOR_BYTES + 8, 3).u64(DESCRIPTORS + 7 * DESCRIPTOR_BYTES + 16, 3);
    let log = bench.look(|view| view.kernel_log());
    assert!(log.is_complete());
    assert_eq!(texts(&bench), ["one", "two", ""]);
    let first = LogRecord { sequence: 105, time_ns: 5000, level: 6, facility: 0, text: "one".to_owned() };
    assert_eq!(log.items.first(), Some(&first));
}

#[test]
fn a_block_past_the_end_wraps_to_the_start() {
    let mut bench = bench(1, 1);
    record(&mut bench, 1, 512 - 16, "a text longer than what is left");
    assert_eq!(texts(&bench), ["a text longer than what is left"]);
}

#[test]
fn unfinished_and_overwritten_records_are_skipped() {
    let mut bench = bench(1, 3);
    record(&mut bench, 1, 0, "one");
    record(&mut bench, 2, 16, "two");
    record(&mut bench, 3, 32, "three");
    bench.u64(DESCRIPTORS + DESCRIPTOR_BYTES, 1).u64(DATA + 16, 99);
    assert_eq!(texts(&bench), ["three"]);
}

#[test]
fn lying_lengths_and_positions_stay_inside() {
    let mut bench = bench(1, 1);
    record(&mut bench, 1, 0, "short");
    bench.bytes(INFOS + INFO_BYTES + 16, &u16::MAX.to_le_bytes());
    assert_eq!(texts(&bench), ["short\0\0\0"]);
    for (begin, next) in [(0, u64::MAX), (u64::MAX - 7, 8), (8, 0), (4, 20), (0, 0), (0, 4096)] {
        bench.u64(DESCRIPTORS + DESCRIPTOR_BYTES + 8, begin);
        bench.u64(DESCRIPTORS + DESCRIPTOR_BYTES + 16, next);
        let log = bench.look(|view| view.kernel_log());
        assert!(log.items.is_empty() && !log.is_complete(), "{begin:#x}..{next:#x}");
    }
}

#[test]
fn absurd_rings_are_gaps() {
    let mut bench = bench(0, u64::MAX);
    assert!(!bench.look(|view| view.kernel_log()).is_complete());
    bench.u32(0x1000, 31);
    assert!(matches!(bench.look(|view| view.kernel_log()).gaps[0].reason, GapReason::Limit(_)));
    bench.u32(0x1000, 3).u32(0x1028, u32::MAX);
    assert!(matches!(bench.look(|view| view.kernel_log()).gaps[0].reason, GapReason::Limit(_)));
    bench.u64(0x800, 0);
    assert!(!bench.look(|view| view.kernel_log()).is_complete());
}

#[test]
fn a_ring_of_wild_pointers_is_given_up() {
    let mut bench = bench(0, 1 << 19);
    bench.u32(0x1000, 20).u64(0x1008, 0x41);
    let log = bench.look(|view| view.kernel_log());
    assert!(log.items.is_empty());
    assert!(log.gaps.len() as u64 + log.more_gaps <= u64::from(MAX_FAILURES) + 1);
}
