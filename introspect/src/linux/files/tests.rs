//! Descriptor tables that lie.

use super::*;
use crate::linux::testing::{Bench, gva, number, pointer};

const MAX_FDS_AT: u64 = 0x1100;

/// `files_struct` at 0x1000, its table at 0x1100, descriptors at 0x2000, the bitmap at 0x3000.
fn bench(max_fds: u32, open: u64) -> Bench {
    let mut bench = Bench::new();
    let (count, files, open_fds) = (number(0, 4), pointer(8), pointer(16));
    bench.layouts().files = Ok(FilesLayout {
        table: pointer(0),
        fdtable: Span::of(&[count, files, open_fds]),
        max_fds: count,
        files,
        open_fds,
        file: FileLayout {
            file: Span::of(&[pointer(0), pointer(40)]),
            mount: pointer(0),
            dentry: pointer(8),
            inode: pointer(16),
            flags: number(24, 4),
            position: number(32, 8),
            private: pointer(40),
            inode_span: Span::of(&[number(0, 2), pointer(16)]),
            mode: number(0, 2),
            number: number(8, 8),
            super_block: pointer(16),
            device: number(0, 4),
        },
        references: References::All(number(48, 8)),
    });
    bench.link(0x1000, 0x1100).u32(MAX_FDS_AT, max_fds);
    bench.link(0x1108, 0x2000).link(0x1110, 0x3000).u64(0x3000, open);
    bench
}

#[test]
fn a_file_without_users_is_released() {
    let less_one = References::LessOne(number(48, 8));
    for (kind, count, wanted) in [
        (None, 1, false),
        (None, 0, true),
        (Some(less_one), 0, false),
        (Some(less_one), 0xe000_0000_0000_0000, true),
    ] {
        let mut bench = bench(64, 1);
        if let (Some(kind), Ok(layout)) = (kind, &mut bench.layouts().files) {
            layout.references = kind;
        }
        bench.u64(0x4030, count);
        assert_eq!(bench.look(|view| view.is_released(gva(0x4000))), Ok(wanted), "{count:#x}");
    }
}

#[test]
fn a_reserved_descriptor_is_no_gap() {
    let found = bench(64, 0b101).look(|view| view.files(gva(0x1000)));
    assert_eq!(found, Partial::default());
}

#[test]
fn sockets_are_found_without_their_paths() {
    let mut bench = bench(64, 0b10);
    bench.link(0x2008, 0x4000).link(0x4010, 0x5000).bytes(0x5000, &0o140_777u16.to_le_bytes());
    bench.link(0x4028, 0x6000);
    let found = bench.look(|view| view.socket_files(gva(0x1000)));
    assert_eq!(found.items, [(1, gva(0x6000))]);
    assert!(found.is_complete());
}

#[test]
fn an_absurd_table_costs_nothing() {
    for max_fds in [1 << 31, u32::MAX] {
        let found = bench(max_fds, 0).look(|view| view.files(gva(0x1000)));
        assert!(found.items.is_empty());
        assert!(found.gaps.iter().any(|gap| matches!(gap.reason, GapReason::Limit(_))));
    }
}

#[test]
fn a_table_of_wild_pointers_is_given_up() {
    let mut bench = bench(1 << 16, u64::MAX);
    bench.bytes(0x3000, &[0xff; 0x2000]);
    bench.bytes(0x10_0000, &[0xee; 0x8_0000]).link(0x1108, 0x10_0000);
    let found = bench.look(|view| view.files(gva(0x1000)));
    assert!(found.items.is_empty());
    assert!(!found.is_complete());
    assert_eq!(found.gaps.len() as u64 + found.more_gaps, u64::from(MAX_FAILURES) + 1);
}

#[test]
fn no_table_no_files_and_a_wild_one_is_a_gap() {
    let bench = bench(64, 0);
    assert_eq!(bench.look(|view| view.files(Gva(0))), Partial::default());
    assert!(!bench.look(|view| view.files(Gva(0x41))).is_complete());
}
