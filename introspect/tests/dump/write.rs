//! Written dumps: they read back, leave out what could not be read, keep what exists, and are no dump until
//! complete.

use crate::fixture::{self, PAGE};
use lynceus_introspect::backend::dump::write::{DumpWriteError, Existing, WriteFormat, write, write_file};
use lynceus_introspect::backend::dump::{Dump, Format};
use lynceus_introspect::backend::fake::{Fake, Fault};
use lynceus_introspect::{Gfn, Gpa, GpaRange, GuestMemory, ReadError, Stability};
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

const FORMATS: [(WriteFormat, Format); 3] =
    [(WriteFormat::Elf, Format::Elf), (WriteFormat::Lime, Format::Lime), (WriteFormat::Avml, Format::Avml)];

fn fake(guest: &fixture::Guest) -> Fake {
    Fake::blocks(guest.iter().map(|(start, bytes)| (Gpa(*start), bytes.clone())).collect())
}

fn written(memory: &dyn GuestMemory, format: WriteFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    write(memory, &mut out, format, &mut |_, _| ()).unwrap();
    out.into_inner()
}

fn open(bytes: &[u8]) -> Dump {
    Dump::open(fixture::file(bytes).path()).unwrap()
}

#[test]
fn a_written_dump_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = fixture::guest();
    guest.push((0x80_0000, vec![0; 4 << 20]));
    let total: u64 = guest.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    for (format, detected) in FORMATS {
        let path = dir.path().join(detected.to_string());
        let mut heard = Vec::new();
        let mut progress = |done, all| heard.push((done, all));
        let report = write_file(&fake(&guest), &path, format, Existing::Keep, &mut progress).unwrap();
        assert_eq!(
            (report.memory_bytes, report.zero_bytes),
            (total, (175 * PAGE + (4 << 20)) as u64),
            "every fourth page"
        );
        assert_eq!((report.unreadable.len(), report.stability), (0, Stability::Moving));
        assert!(heard.is_sorted() && heard.last() == Some(&(total, total)), "{heard:?}");

        let about = std::fs::metadata(&path).unwrap();
        assert_eq!((about.len(), about.mode() & 0o777), (report.file_bytes, 0o600));
        assert!(
            about.blocks() * 512 < total - (3 << 20),
            "zeros take no room: {} of {total}",
            about.blocks() * 512
        );
        let dump = Dump::open(&path).unwrap();
        assert_eq!((dump.format(), dump.warnings()), (detected, [].as_slice()));
        for (start, bytes) in &guest {
            let mut read = vec![0; bytes.len()];
            dump.read(Gpa(*start), &mut read).unwrap();
            assert!(read == *bytes);
        }
        // A dump of a dump is the same dump.
        assert!(written(&dump, format) == std::fs::read(&path).unwrap());
    }
}

#[test]
fn ranges_need_not_be_whole_pages_and_may_end_in_zeros() {
    let guest = vec![(0x123, fixture::pages(5, 3)[..9000].to_vec()), (0x10_0001, vec![0; 70_000])];
    for (format, _) in FORMATS {
        let dump = open(&written(&fake(&guest), format));
        let ranges: Vec<GpaRange> = dump.ram().to_vec();
        assert_eq!(ranges, fake(&guest).ram());
        for (start, bytes) in &guest {
            let mut read = vec![0xee; bytes.len()];
            dump.read(Gpa(*start), &mut read).unwrap();
            assert!(read == *bytes);
        }
    }
}

#[test]
fn an_unreadable_page_is_reported_and_left_out() {
    let guest = fixture::guest();
    let broken =
        fake(&guest).fault(Gfn(5), Fault::Absent).fault(Gfn(6), Fault::Absent).fault(Gfn(7), Fault::Corrupt);
    for (format, _) in FORMATS {
        let mut out = Cursor::new(Vec::new());
        let report = write(&broken, &mut out, format, &mut |_, _| ()).unwrap();
        let missing: Vec<_> =
            report.unreadable.iter().map(|u| (u.range.start.0, u.range.len_bytes)).collect();
        assert_eq!(missing, [(0x5000, 0x2000), (0x7000, 0x1000)]);
        assert!(matches!(report.unreadable[0].why, ReadError::Absent { .. }));
        let dump = open(out.get_ref());
        let mut page = vec![0; PAGE];
        for at in [0x5000, 0x6000, 0x7000] {
            assert!(dump.read(Gpa(at), &mut page).is_err());
        }
        for at in [0x4000, 0x8000] {
            dump.read(Gpa(at as u64), &mut page).unwrap();
            assert_eq!(page, guest[0].1[at..at + PAGE]);
        }
    }
}

/// Eight bytes of RAM, its number, at the start of each page.
struct Pieces(Vec<GpaRange>);

impl Pieces {
    fn new(count: u64) -> Pieces {
        Pieces((0..count).map(|n| GpaRange { start: Gpa(n * 0x1000), len_bytes: 8 }).collect())
    }
}

impl GuestMemory for Pieces {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        buf.copy_from_slice(&(at.0 / 0x1000).to_le_bytes());
        Ok(())
    }

    fn ram(&self) -> &[GpaRange] {
        &self.0
    }
}

#[test]
fn memory_in_more_pieces_than_the_elf_header_counts() {
    for pieces in [1_021_u64, 1_022, 65_533, 65_534, 65_535] {
        let dump = open(&written(&Pieces::new(pieces), WriteFormat::Elf));
        assert_eq!((dump.ram().len() as u64, dump.warnings()), (pieces, [].as_slice()));
        for n in [0, 1, pieces / 2, pieces - 1] {
            let mut word = [0; 8];
            dump.read(Gpa(n * 0x1000), &mut word).unwrap();
            assert_eq!(u64::from_le_bytes(word), n);
        }
    }
}

/// Volatility 3 reads at most as many bytes of a block's stream as the block has unpacked, less one.
#[test]
fn avml_blocks_are_longer_than_their_streams_where_they_can_be() {
    let noise = |seed: u64| {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
    };
    // 17 MiB of noise, and then something that shrinks; then more than a block of nothing.
    let mut ram: Vec<u8> = noise(7).take(17 << 20).collect();
    ram.resize(40 << 20, 3);
    let image = written(&Fake::flat(ram.clone()), WriteFormat::Avml);
    let dump = open(&image);
    let mut read = vec![0; ram.len()];
    dump.read(Gpa(0), &mut read).unwrap();
    assert!(read == ram && dump.ram().len() == 1);
    let (mut at, mut blocks) = (0, 0);
    while at < image.len() {
        let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        let len = word(at + 16) - word(at + 8) + 1;
        // Its length stands behind the stream: look for it.
        let end = (at + 32..=image.len() - 8).find(|end| word(*end) == (end - at - 32) as u64).unwrap();
        assert!(((end - at - 32) as u64) < len, "block {blocks}");
        (at, blocks) = (end + 8, blocks + 1);
    }
    assert_eq!(blocks, 2);
}

#[test]
fn an_elf_core_repeats_the_kernels_vmcoreinfo() {
    let text = "OSRELEASE=6.1.0\nBUILD-ID=00\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff88000000\n";
    let mut ram = fixture::pages(9, 20);
    ram[8 * PAGE..9 * PAGE].fill(0);
    ram[8 * PAGE..8 * PAGE + text.len()].copy_from_slice(text.as_bytes());
    ram[4 * PAGE..4 * PAGE + 10].copy_from_slice(b"OSRELEASE=");
    let dump = open(&written(&Fake::flat(ram), WriteFormat::Elf));
    assert_eq!((dump.vmcoreinfo(), dump.warnings()), (Some(text), [].as_slice()));
    assert_eq!(open(&written(&fake(&fixture::small_guest()), WriteFormat::Elf)).vmcoreinfo(), None);
}

#[test]
fn what_exists_stays_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let (path, guest) = (dir.path().join("dump"), fixture::small_guest());
    std::fs::write(&path, "precious").unwrap();
    let keep = write_file(&fake(&guest), &path, WriteFormat::Lime, Existing::Keep, &mut |_, _| ());
    assert!(matches!(keep, Err(DumpWriteError::Exists(at)) if at == path));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");

    let gone = Fake::flat(vec![1; 300 * PAGE]);
    let gone = (0..300).fold(gone, |fake, frame| fake.fault(Gfn(frame), Fault::Lost));
    let failed = write_file(&gone, &path, WriteFormat::Lime, Existing::Replace, &mut |_, _| ());
    assert!(matches!(failed, Err(DumpWriteError::Memory(ReadError::Lost { .. }))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious", "a failed dump replaces nothing");

    write_file(&fake(&guest), &path, WriteFormat::Lime, Existing::Replace, &mut |_, _| ()).unwrap();
    assert_eq!(Dump::open(&path).unwrap().format(), Format::Lime);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left behind");
    let nowhere = dir.path().join("no/such/folder");
    let error =
        write_file(&fake(&guest), &nowhere, WriteFormat::Elf, Existing::Keep, &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("no/such/folder"), "{error}");
}

/// A disk that is full after some bytes.
struct Full {
    inner: Cursor<Vec<u8>>,
    left: usize,
}

impl Write for Full {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.left < buf.len() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.left -= buf.len();
        self.inner.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Full {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn an_unfinished_dump_is_no_dump() {
    let guest = fixture::guest();
    for (format, _) in FORMATS {
        // AVML's is shorter, and written from its start to its end.
        let whole = written(&fake(&guest), WriteFormat::Avml).len();
        let avml = [4, 100, whole / 2, whole - 100];
        for left in if format == WriteFormat::Avml { avml } else { [4, 100, 100_000, 1_500_000] } {
            let mut full = Full { inner: Cursor::new(Vec::new()), left };
            let failed = write(&fake(&guest), &mut full, format, &mut |_, _| ());
            assert!(matches!(failed, Err(DumpWriteError::Io(_))), "{left}");
            let mut bytes = full.inner.into_inner();
            // Even where its length would do for a raw image.
            bytes.resize(bytes.len().next_multiple_of(PAGE).max(2 << 20), 0);
            assert!(Dump::open(fixture::file(&bytes).path()).is_err(), "{format:?} after {left}");
        }
    }
}
