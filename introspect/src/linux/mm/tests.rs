//! Arguments that lie.

use super::*;
use crate::linux::testing::Bench;
use crate::paging::{Mode, Root};
use crate::{Gpa, backend::fake::Fake};

#[test]
fn arguments_may_be_empty_strings() {
    assert_eq!(strings(b"ls\0\0-l\0"), ["ls", "", "-l"]);
    assert_eq!(strings(b"ls"), ["ls"]);
    assert!(strings(b"").is_empty());
    assert!(strings(b"\0").is_empty());
}

/// A user address space of one page at 0x1000 that holds `text`.
fn with_space<T>(text: &[u8], look: impl FnOnce(&AddressSpace<'_>) -> T) -> T {
    let mut ram = vec![0; 0x6000];
    for (at, to) in [(0x1000u64, 0x2000u64), (0x2000, 0x3000), (0x3000, 0x4000), (0x4008, 0x5000)] {
        ram[at as usize..at as usize + 8].copy_from_slice(&(to | 7).to_le_bytes());
    }
    ram[0x5000..0x5000 + text.len()].copy_from_slice(text);
    let memory = Fake::flat(ram);
    look(&AddressSpace::new(&memory, Root { table: Gpa(0x1000), mode: Mode::FourLevel }))
}

fn mm(args: (u64, u64), env: (u64, u64)) -> Mm {
    let none = Gva(0);
    let pair = |(start, end)| (Gva(start), Gva(end));
    Mm {
        at: none,
        pgd: none,
        exe_file: none,
        args: pair(args),
        env: pair(env),
        heap: (none, none),
        start_stack: none,
    }
}

#[test]
fn a_title_may_run_into_the_environment_and_no_further() {
    let text = b"server: waiting for work\0HOME=/\0";
    let title = |mm: Mm| with_space(text, |space| super::title(space, &mm));
    assert_eq!(title(mm((0x1000, 0x1006), (0x1006, 0x1020))).unwrap(), "server: waiting for work");
    assert_eq!(title(mm((0x1000, 0x1006), (0x1400, 0x1420))).unwrap(), "server");
    assert_eq!(title(mm((0x1000, 0x1006), (0x1006, 0x100a))).unwrap(), "server: wa");
}

#[test]
fn absurd_ranges_are_refused_before_anything_is_read() {
    with_space(b"", |space| {
        let read = |start, end| user_bytes(space, Gva(start), Gva(end));
        assert_eq!(read(0x1000, 0x1000 + (1 << 40)), Err(GapReason::Limit(MAX_TEXT_BYTES)));
        assert!(matches!(read(u64::MAX - 64, u64::MAX), Err(GapReason::Inconsistent(_))));
        assert!(matches!(read(0x8000, 0x8010), Err(GapReason::Access(_))));
        assert_eq!(read(0x1000, 0x0), Ok(Vec::new()));
    });
}

#[test]
fn a_kernel_without_the_members_says_so() {
    let found = Bench::new().look(|view| view.mm(crate::linux::testing::gva(0x1000)));
    assert!(matches!(found, Err(GapReason::Unavailable(_))));
}
