//! Reading: all formats, raw layouts, hostile files.

use crate::fixture::{self, Compression, PAGE};
use lynceus_introspect::backend::dump::{Dump, DumpError, Format, RawLayout};
use lynceus_introspect::{Gfn, Gpa, GpaRange, GuestMemory, ReadError, Stability};
use std::path::Path;

fn open(bytes: &[u8]) -> Result<Dump, DumpError> {
    let file = fixture::file(bytes);
    Dump::open(file.path())
}

/// Everything that `ram` says is there equals the guest's, in odd pieces as well as at once.
fn check(dump: &Dump, guest: &[(u64, Vec<u8>)]) {
    let ram: Vec<GpaRange> = guest
        .iter()
        .map(|(start, bytes)| GpaRange { start: Gpa(*start), len_bytes: bytes.len() as u64 })
        .collect();
    assert_eq!(dump.ram(), ram);
    for (start, bytes) in guest {
        let mut all = vec![0xee; bytes.len()];
        dump.read(Gpa(*start), &mut all).unwrap();
        assert!(all == *bytes, "memory at {start:#x} differs");
        for (at, len) in [(0, 1), (4095, 2), (4090, 9000), (65530, 70000), (bytes.len() - 5, 5)] {
            let mut some = vec![0xee; len];
            dump.read(Gpa(start + at as u64), &mut some).unwrap();
            assert!(some == bytes[at..at + len], "{len} bytes at {start:#x}+{at:#x}");
        }
        let end = Gpa(start + bytes.len() as u64 - 3);
        assert!(matches!(dump.read(end, &mut [0; 8]), Err(ReadError::NotRam { .. })));
    }
    for at in [Gpa(1 << 50), Gpa(u64::MAX), Gpa(u64::MAX - 7)] {
        assert!(matches!(dump.read(at, &mut [0; 8]), Err(ReadError::NotRam { .. })), "{at}");
    }
    assert_eq!(dump.stability(), Stability::Frozen);
}

#[test]
fn every_format_reads_back() {
    let guest = fixture::guest();
    let mut files = vec![
        (Format::Lime, fixture::lime(&guest)),
        (Format::Avml, fixture::avml(&guest)),
        (Format::Elf, fixture::elf(&guest)),
        (Format::Elf, fixture::xen(&guest, false)),
        (Format::Elf, fixture::xen(&guest, true)),
    ];
    for compression in Compression::ALL {
        files.push((Format::Kdump, fixture::kdump(&guest, compression)));
    }
    for (format, bytes) in files {
        let dump = open(&bytes).unwrap();
        assert_eq!((dump.format(), dump.warnings()), (format, [].as_slice()));
        check(&dump, &guest);
        let dump = open(&fixture::flattened(&bytes)).unwrap();
        assert_eq!((dump.format(), dump.warnings()), (format, [].as_slice()), "flattened");
        check(&dump, &guest);
    }
}

#[test]
fn raw_images_can_be_laid_out_anew() {
    let bytes = fixture::pages(7, 600);
    let dump = open(&bytes).unwrap();
    assert_eq!((dump.format(), dump.raw_layouts()), (Format::Raw, vec![RawLayout::Identity]));
    check(&dump, &[(0, bytes.clone())]);
    let below = 100 * PAGE;
    let dump = dump.with_raw_layout(RawLayout::HoleRemoved { below_bytes: below as u64 }).unwrap();
    check(&dump, &[(0, bytes[..below].to_vec()), (1 << 32, bytes[below..].to_vec())]);

    let at = |len| RawLayout::candidates(len);
    assert_eq!(at(0xb000_0000 - 1), [RawLayout::Identity]);
    assert_eq!(at(3 << 30), [RawLayout::Identity, RawLayout::HoleRemoved { below_bytes: 2 << 30 }]);
    assert_eq!(at(4 << 30).len(), 3);
}

#[test]
fn an_excluded_page_is_absent_and_not_zeros() {
    let guest = fixture::guest();
    let dump = open(&fixture::kdump_without(&guest, Compression::Zlib, 3)).unwrap();
    let mut page = vec![0; PAGE];
    assert_eq!(dump.read(Gpa(0x3000), &mut page), Err(ReadError::Absent { at: Gpa(0x3000) }));
    dump.read(Gpa(0x4000), &mut page).unwrap();
    assert_eq!(page, guest[0].1[0x4000..0x5000]);
    assert_eq!(dump.ram()[0].len_bytes, guest[0].1.len() as u64, "it is RAM all the same");
}

#[test]
fn what_is_no_dump_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let text = dir.path().join("notes.txt");
    std::fs::write(&text, "not a dump\n".repeat(40_000)).unwrap();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    for path in [dir.path(), &fifo, &text, &empty, Path::new("/dev/zero")] {
        let error = Dump::open(path).unwrap_err();
        assert!(matches!(error, DumpError::NotADump { .. }), "{}: {error}", path.display());
        assert!(error.to_string().starts_with(&path.display().to_string()));
    }
    assert!(matches!(Dump::open(&dir.path().join("none")), Err(DumpError::Io { .. })));
    assert!(matches!(open(&[0; 5000]), Err(DumpError::NotADump { .. })), "a raw image of odd length");
    let mut packed = vec![0; 2 << 20];
    packed[..3].copy_from_slice(b"\x1f\x8b\x08");
    let error = open(&packed).unwrap_err();
    assert!(
        matches!(error, DumpError::Unsupported { .. }) && error.to_string().contains("gunzip"),
        "{error}"
    );
}

/// Opens, and reads a little everywhere: nothing may panic, and what is read must be the guest's.
fn survives(bytes: &[u8]) -> bool {
    let Ok(dump) = open(bytes) else { return false };
    for range in dump.ram() {
        for at in [0, 0x3000, 0x10_0000, range.len_bytes - 1] {
            let _ = dump.read(Gpa(range.start.0.saturating_add(at)), &mut [0; 5000]);
            let _ = dump.read(Gpa(range.start.0.saturating_add(at)), &mut [0; 1]);
        }
    }
    true
}

fn samples() -> Vec<Vec<u8>> {
    let guest = fixture::small_guest();
    let mut all = vec![fixture::lime(&guest), fixture::avml(&guest), fixture::elf(&guest)];
    all.extend([fixture::xen(&guest, false), fixture::xen(&guest, true)]);
    all.extend(Compression::ALL.map(|compression| fixture::kdump(&guest, compression)));
    all.push(fixture::flattened(&fixture::elf(&guest)));
    all.push(fixture::flattened(&fixture::kdump(&guest, Compression::Zlib)));
    all
}

/// `LYNCEUS_CORPUS=fuzz/corpus/dump cargo test -p lynceus-introspect --test dump -- --ignored fuzz_corpus`
#[test]
#[ignore = "writes seeds for the fuzz target"]
fn fuzz_corpus() {
    let dir = std::env::var_os("LYNCEUS_CORPUS").expect("LYNCEUS_CORPUS");
    std::fs::create_dir_all(&dir).unwrap();
    for (n, sample) in samples().into_iter().enumerate() {
        // The target's first byte: no padding.
        std::fs::write(Path::new(&dir).join(format!("sample-{n}")), [vec![0], sample].concat()).unwrap();
    }
}

#[test]
fn a_truncated_dump_keeps_what_it_has_and_says_so() {
    let guest = fixture::small_guest();
    for sample in samples() {
        for cut in
            (0..200).chain((200..sample.len()).step_by(sample.len() / 60 + 1)).chain([sample.len() - 1])
        {
            let Ok(dump) = open(&sample[..cut]) else { continue };
            let mut wrong = 0;
            for (start, bytes) in &guest {
                for (n, page) in bytes.chunks(PAGE).enumerate() {
                    let mut read = vec![0; PAGE];
                    match dump.read(Gpa(start + (n * PAGE) as u64), &mut read) {
                        Ok(()) => assert!(read == page, "{} cut to {cut}: page {n} differs", dump.format()),
                        Err(_) => wrong += 1,
                    }
                }
            }
            // A raw image cannot know. AVML's last bytes are a check of the stream, not content.
            assert!(wrong == 0 || !dump.warnings().is_empty(), "{} cut to {cut}: silent", dump.format());
        }
    }
}

/// Numbers that would take all memory or all time if they were believed.
#[test]
fn absurd_counts_are_refused() {
    let guest = fixture::small_guest();
    let with = |mut bytes: Vec<u8>, at: usize, number: &[u8]| {
        bytes[at..at + number.len()].copy_from_slice(number);
        open(&bytes)
    };
    let corrupt = |result: Result<Dump, DumpError>| matches!(result, Err(DumpError::Corrupt { .. }));
    let huge = (u64::MAX - 0x1000).to_le_bytes();
    assert!(corrupt(with(fixture::lime(&guest), 16, &huge)));
    assert!(corrupt(with(fixture::avml(&guest), 16, &huge)));
    assert!(corrupt(with(fixture::elf(&guest), 56, &[0xfe, 0xff])), "program headers past the end");
    assert!(corrupt(with(fixture::elf(&guest), 32, &huge)), "their table past the end");
    let kdump = fixture::kdump(&guest, Compression::Zlib);
    assert!(corrupt(with(kdump.clone(), PAGE + 96, &huge)), "frames");
    assert!(corrupt(with(kdump.clone(), 432, &[0xff; 4])), "sub header blocks");
    assert!(corrupt(with(kdump.clone(), 436, &[0xff; 4])), "bitmap blocks");
    assert!(corrupt(with(kdump.clone(), 428, &[0xff; 4])), "block size");
    let flat = fixture::flattened(&kdump);
    assert!(corrupt(with(flat.clone(), PAGE + 8, &[0xff; 8])), "a record of 2^64 bytes");
    // A record far away makes a long file of zeros, not an allocation.
    let far = with(flat, PAGE, &0x7fff_0000_0000_0000_u64.to_be_bytes());
    assert_eq!(far.unwrap().ram().len(), 2);
    // A run of 2^44 zeros is one thing, one that wraps another.
    let zeros = with(fixture::elf(&guest), 64 + 40, &(1_u64 << 45).to_le_bytes()).unwrap();
    assert_eq!((zeros.ram().len(), zeros.warnings().len()), (1, 1));
}

#[test]
fn a_dump_that_is_cut_while_open_is_lost_and_not_zeros() {
    let bytes = fixture::elf(&fixture::guest());
    let file = fixture::file(&bytes);
    let dump = Dump::open(file.path()).unwrap();
    let mut page = [0; PAGE];
    dump.read(Gpa(0x40_0000), &mut page).unwrap();
    file.as_file().set_len(0x2000).unwrap();
    assert!(matches!(dump.read(Gpa(0x40_0000), &mut page), Err(ReadError::Lost { .. })));
}

/// Eight threads that share a dump, whose cache is smaller than its memory.
#[test]
fn threads_share_a_dump() {
    let guest = vec![(0, fixture::pages(11, 3000))];
    let dump = open(&fixture::kdump(&guest, Compression::Snappy)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (dump, bytes) = (&dump, &guest[0].1);
            scope.spawn(move || {
                for n in (0..3000).map(|n| (n * 7 + thread * 311) % 3000) {
                    let mut page = [0; PAGE];
                    dump.read(Gpa((n * PAGE) as u64), &mut page).unwrap();
                    assert!(page == bytes[n * PAGE..(n + 1) * PAGE]);
                }
            });
        }
    });
}

#[test]
fn page_tables_of_a_xen_pv_guest_hold_machine_frames() {
    let guest = fixture::small_guest();
    let pv = open(&fixture::xen(&guest, true)).unwrap();
    assert_eq!(pv.frame_of_entry(0x1003), Some(Gfn(3)));
    assert_eq!(pv.frame_of_entry(0x1010), Some(Gfn(0x10)));
    assert_eq!(pv.frame_of_entry(3), None, "not the guest's");
    assert_eq!(open(&fixture::xen(&guest, false)).unwrap().frame_of_entry(3), Some(Gfn(3)));
}

#[test]
fn a_32_bit_core_reads_back() {
    let guest = fixture::small_guest();
    let dump = open(&fixture::elf32(&guest)).unwrap();
    assert_eq!((dump.format(), dump.warnings()), (Format::Elf, [].as_slice()));
    let mut read = vec![0; guest[1].1.len()];
    dump.read(Gpa(guest[1].0), &mut read).unwrap();
    assert!(read == guest[1].1);
}

#[test]
fn flipped_bits_are_survived() {
    for sample in samples() {
        for at in (0..600).chain((600..sample.len()).step_by(sample.len() / 150 + 1)) {
            for mask in [0x01, 0x80, 0xff] {
                let mut hurt = sample.clone();
                hurt[at.min(sample.len() - 1)] ^= mask;
                survives(&hurt);
            }
        }
    }
}
