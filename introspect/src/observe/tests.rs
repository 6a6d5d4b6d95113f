#![allow(clippy::arithmetic_side_effects)]

use super::*;
use crate::backend::fake::{Fake, Fault};
use crate::{Gfn, Gpa, Paused, ReadError};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const QUICK: Options = Options { tries: 4, max_pause: Duration::from_millis(20), max_log_bytes: 1 << 20 };

fn u32_at(memory: &dyn GuestMemory, at: u64) -> Result<u32, ReadError> {
    let mut buf = [0; 4];
    memory.read(Gpa(at), &mut buf).map(|()| u32::from_le_bytes(buf))
}

/// Two numbers that the guest keeps equal, apart from the moment between writing one and the other.
fn pair(memory: &dyn GuestMemory) -> Partial<u32> {
    let mut partial = Partial::default();
    for at in [0x10, 0x2010] {
        match u32_at(memory, at) {
            Ok(value) => partial.items.push(value),
            Err(_) => partial.gap("number", None, GapReason::Inconsistent("unreadable")),
        }
    }
    partial
}

/// A fake guest that adds one to both numbers before every read; `Pause` stops it.
struct Restless {
    fake: Fake,
    still: Arc<AtomicBool>,
    resumed: Cell<u32>,
}

fn restless() -> Restless {
    let still = Arc::new(AtomicBool::new(false));
    let stopped = still.clone();
    let fake = Fake::flat(vec![0; 0x4000]).every_read(move |ram| {
        if !stopped.load(Ordering::SeqCst) {
            let next = ram.u64(Gpa(0x10)).wrapping_add(1).to_le_bytes();
            ram.write(Gpa(0x10), &next);
            ram.write(Gpa(0x2010), &next);
        }
    });
    Restless { fake, still, resumed: Cell::new(0) }
}

impl Pause for Restless {
    fn pause(&self) -> Result<Paused<'_>, ControlError> {
        self.still.store(true, Ordering::SeqCst);
        Ok(Paused::new(|| {
            self.still.store(false, Ordering::SeqCst);
            self.resumed.set(self.resumed.get() + 1);
            Ok(())
        }))
    }
}

#[test]
fn a_still_guest_needs_one_try() {
    let fake = Fake::flat(vec![7; 0x4000]);
    let seen = observe(&fake, None, &QUICK, pair);
    assert_eq!((seen.outcome, seen.tries), (Outcome::Consistent, 1));
    assert_eq!((seen.bytes_read, seen.ranges_read), (8, 2));
    assert_eq!(fake.reads(), 4, "each range once for the look and once for the check");
}

#[test]
fn frozen_memory_is_not_read_twice() {
    let fake = Fake::flat(vec![7; 0x4000]).frozen();
    let seen = observe(&fake, None, &QUICK, pair);
    assert_eq!((seen.outcome, seen.tries, fake.reads()), (Outcome::Frozen, 1, 2));
    assert!(seen.is_consistent() && seen.with_gap(&QUICK).result.is_complete());
}

#[test]
fn a_change_between_two_reads_is_noticed_and_the_look_made_again() {
    let fake = Fake::flat(vec![0; 0x4000]).on_read(1, 0, |ram| {
        ram.write(Gpa(0x10), &[1; 4]);
        ram.write(Gpa(0x2010), &[1; 4]);
    });
    let seen = observe(&fake, None, &QUICK, pair);
    assert_eq!((seen.outcome, seen.tries), (Outcome::Consistent, 2));
    assert_eq!(seen.result.items, [0x0101_0101; 2]);
}

#[test]
fn a_change_during_the_check_is_noticed_only_where_it_matters() {
    // Read 2 is the first re-read. What was compared already may change: the look held at the instant before.
    let after = Fake::flat(vec![0; 0x4000]).on_read(3, 0, |ram| ram.write(Gpa(0x10), &[1]));
    assert_eq!(observe(&after, None, &QUICK, pair).tries, 1);
    let before = Fake::flat(vec![0; 0x4000]).on_read(3, 0, |ram| ram.write(Gpa(0x2010), &[1]));
    assert_eq!(observe(&before, None, &QUICK, pair).tries, 2);
}

#[test]
fn a_neighbour_in_the_same_cache_line_does_not_matter() {
    let fake = Fake::flat(vec![0; 0x4000]).every_read(|ram| {
        let next = ram.u64(Gpa(0x18)).wrapping_add(1);
        ram.write(Gpa(0x18), &next.to_le_bytes());
    });
    let seen = observe(&fake, None, &QUICK, pair);
    assert_eq!((seen.outcome, seen.tries), (Outcome::Consistent, 1));
}

#[test]
fn a_torn_read_is_noticed() {
    let fake = Fake::flat(vec![0; 0x4000]).on_read(0, 2, |ram| ram.write(Gpa(0x10), &[9; 4]));
    let seen = observe(&fake, None, &QUICK, |memory| u32_at(memory, 0x10));
    assert_eq!((seen.tries, seen.result), (2, Ok(0x0909_0909)));
}

#[test]
fn an_absent_page_is_a_result_not_movement() {
    let fake = Fake::flat(vec![0; 0x4000]).fault(Gfn(2), Fault::Absent);
    let seen = observe(&fake, None, &QUICK, pair);
    assert_eq!((seen.outcome, seen.result.items.len(), seen.result.gaps.len()), (Outcome::Consistent, 1, 1));
}

#[test]
fn a_guest_that_never_rests_leaves_a_gap() {
    let guest = restless();
    let seen = observe(&guest.fake, None, &QUICK, pair).with_gap(&QUICK);
    assert_eq!((seen.outcome, seen.tries, seen.pause), (Outcome::Moving, 4, None));
    assert_eq!(seen.result.gaps.last().map(|gap| gap.reason.clone()), Some(GapReason::Moving(4)));
    assert_eq!(seen.result.items.len(), 2);
}

#[test]
fn the_pause_ends_it() {
    let guest = restless();
    let seen = observe(&guest.fake, Some(&guest), &QUICK, pair);
    assert_eq!((seen.outcome, seen.tries), (Outcome::Consistent, 4));
    assert_eq!(seen.result.items.first(), seen.result.items.last());
    assert_eq!(seen.pause.map(|pause| (pause.error, pause.cut_short)), Some((None, false)));
    assert_eq!((guest.resumed.get(), guest.still.load(Ordering::SeqCst)), (1, false));
}

#[test]
fn zero_never_pauses() {
    let guest = restless();
    let options = Options { max_pause: Duration::ZERO, ..QUICK };
    let seen = observe(&guest.fake, Some(&guest), &options, pair);
    assert_eq!((seen.outcome, seen.pause, guest.resumed.get()), (Outcome::Moving, None, 0));
}

#[test]
fn a_look_that_overstays_its_pause_is_cut_short_and_the_guest_resumed() {
    let guest = restless();
    let options = Options { max_pause: Duration::from_nanos(1), ..QUICK };
    let seen = observe(&guest.fake, Some(&guest), &options, pair);
    assert_eq!(seen.outcome, Outcome::Moving);
    assert_eq!(seen.result.items.len(), 2, "the whole look before the pause, not the one cut short");
    let seen = seen.with_gap(&options);
    let hurried = GapReason::Hurried { tries: QUICK.tries, pause: options.max_pause };
    assert_eq!(seen.result.gaps.last().map(|gap| gap.reason.clone()), Some(hurried));
    assert_eq!(seen.pause.map(|pause| pause.cut_short), Some(true));
    assert_eq!((guest.resumed.get(), guest.still.load(Ordering::SeqCst)), (1, false));
}

#[test]
fn a_look_that_panics_resumes_the_guest() {
    let guest = restless();
    let look = |memory: &dyn GuestMemory| {
        assert!(!guest.still.load(Ordering::SeqCst), "the look's own fault");
        pair(memory)
    };
    let run = || observe(&guest.fake, Some(&guest), &QUICK, look).tries;
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    assert_eq!((guest.resumed.get(), guest.still.load(Ordering::SeqCst)), (1, false));
}

#[test]
fn a_pause_that_fails_is_reported() {
    struct Busy;
    impl Pause for Busy {
        fn pause(&self) -> Result<Paused<'_>, ControlError> {
            Err(ControlError::Timeout)
        }
    }
    let seen = observe(&restless().fake, Some(&Busy), &QUICK, pair);
    assert_eq!(seen.outcome, Outcome::Moving);
    assert_eq!(seen.pause.and_then(|pause| pause.error), Some(ControlError::Timeout));
}

#[test]
fn the_log_is_bounded() {
    let fake = Fake::flat(vec![0; 0x4000]);
    let options = Options { max_log_bytes: 0x1000, ..QUICK };
    let greedy =
        |memory: &dyn GuestMemory| (0..100_000u64).filter(|n| u32_at(memory, n % 0xff0 * 4).is_ok()).count();
    let seen = observe(&fake, None, &options, greedy);
    assert_eq!((seen.outcome, seen.tries), (Outcome::TooLarge, 1));
    assert!(seen.bytes_read <= 0x1000 && seen.result <= 0x400, "{seen:?}");
}

#[test]
fn a_look_within_a_look_and_the_next_one_have_logs_of_their_own() {
    let (guest, other) = (Fake::flat(vec![1; 0x4000]), Fake::flat(vec![2; 0x4000]));
    for _ in 0..2 {
        let seen = observe(&guest, None, &QUICK, |memory| {
            let first = u32_at(memory, 0x10);
            let inner = observe(&other, None, &QUICK, |memory| u32_at(memory, 0x10));
            assert_eq!((inner.outcome, inner.bytes_read, inner.ranges_read), (Outcome::Consistent, 4, 1));
            (first, inner.result, u32_at(memory, 0x20))
        });
        let number = |byte: u8| Ok(u32::from_le_bytes([byte; 4]));
        assert_eq!(seen.result, (number(1), number(2), number(1)));
        assert_eq!((seen.outcome, seen.bytes_read, seen.ranges_read), (Outcome::Consistent, 8, 2));
    }
}

#[test]
fn a_range_read_again_comes_from_the_log() {
    let guest = Fake::flat(vec![0; 0x4000]);
    let seen = observe(&guest, None, &QUICK, |memory| {
        (0..50).map(|_| u32_at(memory, 0x10)).all(|read| read == Ok(0))
    });
    assert_eq!((seen.result, seen.bytes_read, guest.reads()), (true, 4, 2));
}
