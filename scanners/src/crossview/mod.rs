//! Cross-views: two independent listings of the same thing, compared.

pub(crate) mod modules;
pub(crate) mod tasks;

pub use modules::hidden_modules;
pub use tasks::hidden_tasks;

use lynceus_introspect::Partial;
use lynceus_introspect::linux::LinuxGuest;
use std::time::Duration;

/// Looks that must agree before a running guest is accused: an object that is just being made or torn down is on one list and
/// not yet on the other, for as long as the kernel holds a lock.
pub(crate) const CONFIRMATIONS: u32 = 3;
/// Between two of these looks.
pub(crate) const BETWEEN: Duration = Duration::from_millis(15);

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
        std::thread::sleep(BETWEEN);
        let again = look();
        // A look that read everything outweighs one that did not; a suspect must be in both.
        let (gaps, more_gaps) = (again.gaps, again.more_gaps);
        suspects.items.retain(|old| again.items.iter().any(|new| same(old, new)));
        (suspects.gaps, suspects.more_gaps) = (gaps, more_gaps);
    }
    suspects
}
