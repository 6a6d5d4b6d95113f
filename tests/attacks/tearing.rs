//! Attack 12: memory that changes in the middle of a look.

use crate::hostile::{Hostile, Overlay, look_everywhere};
use lynceus_introspect::linux::{Kernel, View};
use lynceus_introspect::observe::{self, Observed, Options, Outcome};
use lynceus_introspect::{Gap, GapReason, Gpa, GpaRange, GuestMemory, ReadError, Stability};
use std::sync::atomic::{AtomicU64, Ordering};

/// How often a look is made, with the change at another read each time.
const MOMENTS: u64 = 60;

/// Memory that is one thing up to a certain read, and another from then on.
struct Changing<'a> {
    before: &'a Overlay,
    after: &'a Overlay,
    change_at: u64,
    /// A byte that is another one at every read.
    restless: Option<Gpa>,
    visits: AtomicU64,
    reads: AtomicU64,
}

impl<'a> Changing<'a> {
    fn new(before: &'a Overlay, after: &'a Overlay, change_at: u64) -> Self {
        Changing {
            before,
            after,
            change_at,
            restless: None,
            visits: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        }
    }
}

impl GuestMemory for Changing<'_> {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let reads = self.reads.fetch_add(1, Ordering::Relaxed);
        let memory = if reads >= self.change_at { self.after } else { self.before };
        memory.read(at, buf)?;
        let place = self.restless.and_then(|restless| restless.0.checked_sub(at.0));
        if let Some(byte) = place.and_then(|place| buf.get_mut(place as usize)) {
            *byte = b'a' + (self.visits.fetch_add(1, Ordering::Relaxed) % 25) as u8;
        }
        Ok(())
    }

    fn ram(&self) -> &[GpaRange] {
        self.before.ram()
    }

    fn stability(&self) -> Stability {
        Stability::Moving
    }
}

fn look<T>(memory: &Changing<'_>, kernel: &Kernel, what: impl Fn(&View<'_>) -> T) -> Observed<T> {
    observe::observe(memory, None, &Options::default(), |memory| what(&View::new(memory, kernel)))
}

/// A look at every moment of the change gives what was there before or what is there after: nothing that was never there.
fn never_torn<T: PartialEq + std::fmt::Debug>(
    before: &Hostile,
    after: &Hostile,
    what: impl Fn(&View<'_>) -> T,
) {
    let (old, new) = (before.look(&what), after.look(&what));
    assert_ne!(old, new, "a change that nobody sees");
    let counting = Changing::new(&before.memory, &after.memory, u64::MAX);
    assert_eq!(look(&counting, &before.kernel, &what).result, old);
    let whole = counting.reads.load(Ordering::Relaxed);
    let (mut olds, mut news) = (0, 0);
    for moment in 0..=MOMENTS {
        let memory = Changing::new(&before.memory, &after.memory, whole * moment / MOMENTS);
        let found = look(&memory, &before.kernel, &what);
        assert_eq!(found.outcome, Outcome::Consistent, "{moment}");
        olds += u32::from(found.result == old);
        news += u32::from(found.result == new);
        assert!(found.result == old || found.result == new, "torn at {moment}: {:?}", found.result);
    }
    assert!(news > 0, "{olds} {news}");
}

/// `exec`: name, arguments and executable of a process change together.
#[test]
fn a_process_that_becomes_another() {
    let (before, mut after) = (Hostile::new(), Hostile::new());
    let (task, other) = (after.task("lab-plain"), after.task("lab-user"));
    for (member, from) in [("comm", other.at), ("mm", other.at), ("cred", other.at), ("real_cred", other.at)]
    {
        let field = after.field("task_struct", member);
        after.copy(from.field(field.offset), task.at.field(field.offset), field.size as usize);
    }
    never_torn(&before, &after, |view| {
        let tasks = view.tasks().items;
        let task = tasks.into_iter().find(|found| found.at == task.at)?;
        let mm = view.mm(task.mm).ok()?;
        Some((task.comm, view.cmdline(&mm).ok()?, view.exe(&mm).ok()?))
    });
}

/// The number belongs to another process from one moment to the next.
#[test]
fn a_pid_that_is_used_again() {
    let (before, mut after) = (Hostile::new(), Hostile::new());
    let task = after.task("lab-plain");
    let place = |member| after.member(task.at, "task_struct", member);
    let (comm, born) = (place("comm"), place("start_boottime"));
    after.write(comm, b"newcomer\0").u64(born, u64::MAX / 4);
    never_torn(&before, &after, |view| {
        let tasks = view.tasks().items;
        tasks
            .into_iter()
            .find(|found| found.pid == task.pid)
            .map(|found| (found.comm, found.start_boottime_ns))
    });
}

#[test]
fn a_name_whose_length_changes_before_its_bytes() {
    let (before, mut after) = (Hostile::new(), Hostile::new());
    let dentry = after.dentry();
    let places = ["d_name.len", "d_name.name"].map(|member| after.member(dentry, "dentry", member));
    let name = after.scratch(1 << 20);
    after.write(name, &[b'n'; 200]).u32(places[0], 200).u64(places[1], name.0);
    let table = after.task("lab-files").files;
    never_torn(&before, &after, |view| {
        view.files(table).items.into_iter().map(|f| f.path).collect::<Vec<_>>()
    });
}

/// The guest gives pages back in the middle of a look: a gap from then on, and the rest is read.
#[test]
fn a_balloon_that_takes_pages() {
    let (before, mut after) = (Hostile::new(), Hostile::new());
    let page = after.gpa(after.task("lab-plain").at);
    after.memory.take_away(page);
    never_torn(&before, &after, |view| {
        let tasks = view.tasks();
        (tasks.items.len(), tasks.is_complete())
    });
}

/// All of memory becomes something else: zeros as after a reset, or another kernel.
#[test]
fn a_reboot_in_the_middle_of_a_look() {
    let before = Hostile::new();
    let mut zeros = Hostile::new();
    zeros.memory.wipe();
    for after in [zeros, Hostile::old()] {
        let whole = {
            let counting = Changing::new(&before.memory, &after.memory, u64::MAX);
            look(&counting, &before.kernel, look_everywhere);
            counting.reads.load(Ordering::Relaxed)
        };
        for moment in 0..20 {
            let memory = Changing::new(&before.memory, &after.memory, whole * moment / 20);
            let found =
                look(&memory, &before.kernel, |view| (view.tasks().items.len(), look_everywhere(view)));
            // Its verdict is about what is there at the end, and that is not this kernel any more.
            assert_eq!(found.outcome, Outcome::Consistent);
            let (tasks, gaps) = found.result;
            assert!(tasks == 0 && !gaps.is_empty(), "{moment}: {tasks} tasks");
        }
    }
}

/// Memory that changes faster than it can be read: said, not hidden.
#[test]
fn a_guest_that_never_stands_still() {
    let guest = Hostile::new();
    let comm = guest.gpa(guest.member(guest.task("lab-plain").at, "task_struct", "comm"));
    let still = Changing::new(&guest.memory, &guest.memory, 0);
    let memory = Changing { restless: Some(comm), ..still };
    let found = look(&memory, &guest.kernel, |view| view.tasks());
    assert_eq!(found.outcome, Outcome::Moving);
    let found = found.with_gap(&Options::default());
    let moving = |gap: &Gap| matches!(gap.reason, GapReason::Moving(_));
    assert!(found.result.gaps.iter().any(moving));
}
