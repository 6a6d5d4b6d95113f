//! Cross-views: two independent listings of the same thing, compared.

pub(crate) mod modules;
pub(crate) mod tasks;

pub use modules::hidden_modules;
pub use tasks::hidden_tasks;

use lynceus_introspect::Partial;
use lynceus_introspect::linux::{LinuxGuest, Pulse};
use std::time::{Duration, Instant};

/// Looks that must agree before a running guest is accused: an object that is just being made or torn down is on one list and
/// not yet on the other, for as long as the kernel holds a lock.
pub(crate) const CONFIRMATIONS: u32 = 3;
/// Between two of these looks, by the guest's own clocks.
const BETWEEN: Duration = Duration::from_millis(15);
/// Longest wait for a processor of the guest that does not get on: it may be stopped.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits until every processor of a running guest has got on, or has nothing to do. On a host that has too much to do one may stand
/// still in the middle of a fork or of the end of a process for far longer than the others take to be looked at twice.
pub(crate) fn let_it_run(guest: &LinuxGuest) {
    let (before, started) = (guest.view().pulses().items, Instant::now());
    loop {
        std::thread::sleep(BETWEEN);
        if started.elapsed() >= PATIENCE || has_got_on(&before, &guest.view().pulses().items) {
            return;
        }
    }
}

fn has_got_on(before: &[Pulse], now: &[Pulse]) -> bool {
    let enough = u64::try_from(BETWEEN.as_nanos() / 2).unwrap_or(u64::MAX);
    let each = before.iter().zip(now);
    each.into_iter()
        .all(|(before, now)| now.is_idle || now.clock_ns.saturating_sub(before.clock_ns) >= enough)
}

/// What `look` finds each time it is called; once where memory stands still.
/// `same` tells whether two looks' items are about the same thing.
pub(crate) fn confirmed<T>(
    guest: &LinuxGuest,
    mut look: impl FnMut() -> Partial<T>,
    same: impl Fn(&T, &T) -> bool,
) -> Partial<T> {
    let mut suspects = look();
    if guest.memory().stability() == lynceus_introspect::Stability::Frozen {
        return suspects;
    }
    for _ in 1..CONFIRMATIONS {
        if suspects.items.is_empty() && suspects.is_complete() {
            break;
        }
        let_it_run(guest);
        let again = look();
        // A look that read everything outweighs one that did not; a suspect must be in both.
        let (gaps, more_gaps) = (again.gaps, again.more_gaps);
        suspects.items.retain(|old| again.items.iter().any(|new| same(old, new)));
        (suspects.gaps, suspects.more_gaps) = (gaps, more_gaps);
    }
    suspects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_gets_on_when_each_of_its_processors_does() {
        let pulse = |clock_ms: u64, is_idle| Pulse { clock_ns: clock_ms * 1_000_000, is_idle };
        let before = [pulse(100, false), pulse(100, false)];
        for (one, other, wanted) in [
            (pulse(115, false), pulse(112, false), true),
            (pulse(115, false), pulse(100, false), false),
            (pulse(115, false), pulse(100, true), true),
            (pulse(104, false), pulse(140, false), false),
            (pulse(3, false), pulse(140, false), false),
        ] {
            assert_eq!(has_got_on(&before, &[one, other]), wanted, "{one:?} {other:?}");
        }
        assert!(has_got_on(&[], &[]), "a kernel of which it is not known");
    }
}
