//! One record in a segment: mark, length, checksum, sequence, payload.
//!
//! *Does*: writes records, and finds them again in bytes that may be damaged.
//! *Trusts*: nothing in the bytes but what its checksum covers.
//! *Never*: takes a guest's bytes for a record: the mark is not UTF-8, and payloads are.
//!
//! Layout, little-endian: mark (4 bytes), payload's length (4), CRC-32 of what follows it and of the length (4), sequence (8), payload.

/// `F5` and `FF` are in no UTF-8 text.
const MARK: [u8; 4] = [0xf5, b'L', b'y', 0xff];
/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 20;
/// The longest payload that is written or believed.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// A whole record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) sequence: u64,
    pub(crate) payload: &'a [u8],
}

/// What was found from a place on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found<'a> {
    /// A record, and its length with its header.
    Record(Record<'a>, usize),
    /// The beginning of what may be one.
    Short,
    /// Something else.
    Damaged,
}

/// What a stretch of a segment holds.
#[derive(Default, Debug)]
pub(crate) struct Stretch<'a> {
    /// Whole records, with where each ends.
    pub(crate) records: Vec<(Record<'a>, usize)>,
    /// Bytes that were looked at: records, and damage up to the next mark.
    pub(crate) consumed: usize,
    /// Damaged places: from, to.
    pub(crate) damage: Vec<(usize, usize)>,
}

/// Appends a record to `out`.
pub(crate) fn write(sequence: u64, payload: &[u8], out: &mut Vec<u8>) {
    let len = (payload.len() as u32).to_le_bytes();
    let sequence = sequence.to_le_bytes();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&len);
    out.extend_from_slice(&checksum(&len, &sequence, payload).to_le_bytes());
    out.extend_from_slice(&sequence);
    out.extend_from_slice(payload);
}

/// The record at the beginning of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Found<'_> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        let known = bytes.len().min(MARK.len());
        return if bytes.get(..known) == MARK.get(..known) { Found::Short } else { Found::Damaged };
    };
    let word = |at: usize| header.get(at..at + 4).and_then(|word| word.try_into().ok()).unwrap_or_default();
    let (mark, len, sum): ([u8; 4], [u8; 4], [u8; 4]) = (word(0), word(4), word(8));
    let sequence: [u8; 8] = header.get(12..).and_then(|word| word.try_into().ok()).unwrap_or_default();
    let len_bytes = u32::from_le_bytes(len) as usize;
    if mark != MARK || len_bytes > MAX_PAYLOAD_BYTES {
        return Found::Damaged;
    }
    let Some(payload) = rest.get(..len_bytes) else { return Found::Short };
    if checksum(&len, &sequence, payload) != u32::from_le_bytes(sum) {
        return Found::Damaged;
    }
    Found::Record(Record { sequence: u64::from_le_bytes(sequence), payload }, HEADER_BYTES + len_bytes)
}

/// All records in `bytes`. `whole` says that nothing comes behind them: what is cut off there is damage, not the beginning of more.
pub(crate) fn scan(bytes: &[u8], whole: bool) -> Stretch<'_> {
    let mut stretch = Stretch::default();
    let (mut at, mut bad_from) = (0, None);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match read(rest) {
            Found::Record(record, len) => {
                stretch.damage.extend(bad_from.take().map(|from| (from, at)));
                at += len;
                stretch.records.push((record, at));
            }
            Found::Short if !whole => break,
            Found::Short | Found::Damaged => {
                bad_from.get_or_insert(at);
                at += 1 + next_mark(rest.get(1..).unwrap_or_default());
            }
        }
    }
    stretch.consumed = at;
    stretch.damage.extend(bad_from.map(|from| (from, at)));
    stretch
}

/// How far it is to the next byte that a mark begins with.
fn next_mark(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == MARK[0]).unwrap_or(bytes.len())
}

fn checksum(len: &[u8; 4], sequence: &[u8; 8], payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(len);
    sum.update(sequence);
    sum.update(payload);
    sum.finalize()
}

/// For the fuzzer: every record that is found lies in the bytes and is one, whole and damage cover everything.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    for whole in [false, true] {
        let stretch = scan(bytes, whole);
        assert!(stretch.consumed <= bytes.len() && (!whole || stretch.consumed == bytes.len()));
        let mut copy = Vec::new();
        let damaged: usize = stretch.damage.iter().map(|(from, to)| to - from).sum();
        stretch.records.iter().for_each(|(record, _)| write(record.sequence, record.payload, &mut copy));
        assert_eq!(copy.len() + damaged, stretch.consumed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn three() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (sequence, payload) in [(7, "first"), (8, ""), (9, "third")] {
            write(sequence, payload.as_bytes(), &mut bytes);
        }
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = three();
        let stretch = scan(&bytes, true);
        let found: Vec<_> = stretch.records.iter().map(|(r, _)| (r.sequence, r.payload)).collect();
        assert_eq!(found, [(7, &b"first"[..]), (8, b""), (9, b"third")]);
        assert_eq!((stretch.consumed, stretch.damage), (bytes.len(), Vec::new()));
    }

    #[test]
    fn a_damaged_record_costs_only_itself() {
        for at in 0..HEADER_BYTES + 5 {
            let mut bytes = three();
            bytes[at] ^= 0x40;
            let stretch = scan(&bytes, true);
            assert_eq!(stretch.records.iter().map(|(r, _)| r.sequence).collect::<Vec<_>>(), [8, 9], "{at}");
            assert_eq!(stretch.damage, [(0, HEADER_BYTES + 5)], "{at}");
        }
    }

    #[test]
    fn what_is_cut_off_is_waited_for_or_is_damage() {
        let bytes = three();
        for len in 0..bytes.len() {
            let waiting = scan(&bytes[..len], false);
            assert!(waiting.damage.is_empty());
            assert_eq!(scan(&bytes[..len], true).records.len(), waiting.records.len());
        }
    }

    proptest! {
        #[test]
        fn bytes_between_records_cost_no_record(junk in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = three();
            let at = bytes.len();
            bytes.extend(&junk);
            bytes.extend(three());
            let stretch = scan(&bytes, true);
            prop_assert_eq!(stretch.records.len(), 6);
            prop_assert_eq!(stretch.damage, if junk.is_empty() { vec![] } else { vec![(at, at + junk.len())] });
        }
    }
}
