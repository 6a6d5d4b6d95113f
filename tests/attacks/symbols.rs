//! Attacks 7 and 8: types and symbols that were tampered with, decoys, and images of kernels that do not run.

use crate::hostile::{EXTRA, Hostile, inconsistent, look_everywhere};
use lynceus_introspect::find::{self, AttachError, Attached, Check, Source};
use lynceus_introspect::{Gpa, GpaRange, GuestMemory, Gva};
use lynceus_lab::{KernelVersion, kernels};
use lynceus_profiles::compare::Disagreement;
use lynceus_profiles::kallsyms::LINK_TEXT;
use lynceus_profiles::kernel_file::{self, Elsewhere};
use lynceus_profiles::store::{Header, ProfileStore};
use tempfile::TempDir;

/// What the profile is built from in memory, in the order in which an attach names it (Linux 6.1).
struct Tables {
    names: GpaRange,
    markers: GpaRange,
    tokens: GpaRange,
    offsets: GpaRange,
    btf: GpaRange,
}

fn tables(guest: &Hostile) -> Tables {
    let attached = guest.attach().expect("a sound guest");
    assert!(attached.evidence.failed.is_empty());
    let [names, markers, tokens, _, offsets, btf] = attached.sources[..] else {
        panic!("{:?}", attached.sources)
    };
    Tables { names, markers, tokens, offsets, btf }
}

/// A store with the profile of the distribution's kernel package.
fn trusted() -> (TempDir, ProfileStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ProfileStore::open(folder.path().join("profiles")).expect("a store");
    let file = kernels::fetch(KernelVersion::V6_1).expect("the lab's kernel").vmlinuz;
    let file = std::fs::File::open(file).expect("its file");
    let kernel = kernel_file::load(file, Elsewhere::default()).expect("its profile");
    store
        .save(&Header::trusted(&kernel.profile, kernel.build_id_offset), &kernel.profile)
        .expect("room for it");
    (folder, store)
}

fn attach_trusting(guest: &Hostile) -> Attached {
    let (_folder, store) = trusted();
    find::attach_with(guest.shared(), Some(&store)).expect("the trusted profile finds it")
}

fn fails(guest: &Hostile) -> String {
    match guest.attach() {
        Err(error @ (AttachError::NoKernel { .. } | AttachError::NoneSuffices(_))) => error.to_string(),
        Err(AttachError::Ambiguous(found)) => panic!("{found:?}"),
        Ok(attached) => panic!("{:?}", attached.evidence),
    }
}

/// The place of a symbol in the kernel's image.
fn place(guest: &Hostile, symbol: &str) -> Gpa {
    let link = guest.kernel.profile.symbol(symbol).expect("a symbol");
    Gpa(guest.kernel.text.0 + (link - LINK_TEXT))
}

fn bytes(guest: &Hostile, range: GpaRange) -> Vec<u8> {
    let mut bytes = vec![0; range.len_bytes as usize];
    guest.memory.read(range.start, &mut bytes).expect("RAM");
    bytes
}

/// Makes kallsyms say that `symbol` lies at `to`. Offsets count down from one below the base (`KALLSYMS_ABSOLUTE_PERCPU`).
fn redirect(guest: &mut Hostile, symbol: &str, to: &str) {
    let offset = |guest: &Hostile, name: &str| {
        let link = guest.kernel.profile.symbol(name).expect("a symbol");
        (-1 - i32::try_from(link - LINK_TEXT).expect("in the image")).to_le_bytes()
    };
    let (from, to) = (offset(guest, symbol), offset(guest, to));
    let table = tables(guest).offsets;
    let words = bytes(guest, table);
    let at: Vec<usize> = (0..words.len()).step_by(4).filter(|at| words[*at..*at + 4] == from).collect();
    assert!(!at.is_empty(), "no entry for {symbol}");
    for at in at {
        guest.memory.write(Gpa(table.start.0 + at as u64), &to);
    }
}

/// A type in the BTF blob: where its record begins, its name, kind and number of members.
struct Record {
    at: usize,
    name: String,
    kind: u32,
    vlen: usize,
}

const STRUCT: u32 = 4;
const TYPEDEF: u32 = 8;

/// The records of a BTF blob (`include/uapi/linux/btf.h`), and where its strings begin.
fn records(blob: &[u8]) -> (Vec<Record>, usize) {
    let word = |at: usize| u32::from_le_bytes(blob[at..at + 4].try_into().unwrap());
    let header = word(4) as usize;
    let (mut at, end) = (header + word(8) as usize, header + (word(8) + word(12)) as usize);
    let strings = header + word(16) as usize;
    let mut found = Vec::new();
    while at < end {
        let info = word(at + 4);
        let (kind, vlen) = (info >> 24 & 31, (info & 0xffff) as usize);
        let name = blob[strings + word(at) as usize..].split(|byte| *byte == 0).next().unwrap();
        found.push(Record { at, name: String::from_utf8(name.to_vec()).unwrap(), kind, vlen });
        at += 12
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * vlen,
                6 | 13 => 8 * vlen,
                _ => 0,
            };
    }
    (found, strings)
}

/// Lets `change` write over the record of a type in the guest's BTF; it is given the blob and the record's number.
fn tamper(guest: &mut Hostile, name: &str, kind: u32, change: impl FnOnce(&mut [u8], &Record, u32)) {
    let range = tables(guest).btf;
    let mut blob = bytes(guest, range);
    let (records, _) = records(&blob);
    let number = records.iter().position(|found| found.name == name && found.kind == kind).expect("the type");
    change(&mut blob, &records[number], number as u32 + 1);
    guest.memory.write(range.start, &blob);
}

/// Where the record of a structure's member lies in the blob.
fn member_at(blob: &[u8], record: &Record, member: &str) -> usize {
    let strings = records(blob).1;
    let word = |at: usize| u32::from_le_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
    let is = |at: &usize| blob[strings + word(*at)..].starts_with(&[member.as_bytes(), b"\0"].concat());
    (0..record.vlen).map(|index| record.at + 12 + 12 * index).find(is).expect("the member")
}

/// Moves a member by eight bytes, as a rootkit would to make a walker read something else.
fn shift(guest: &mut Hostile, ty: &str, member: &str) {
    tamper(guest, ty, STRUCT, |blob, record, _| {
        let at = member_at(blob, record, member) + 8;
        let offset = u32::from_le_bytes(blob[at..at + 4].try_into().unwrap()) + 64;
        blob[at..at + 4].copy_from_slice(&offset.to_le_bytes());
    });
}

#[test]
fn a_thousand_banners() {
    let mut guest = Hostile::new();
    let scratch = guest.scratch(8 << 20);
    for index in 0..1000 {
        let text = format!("Linux version 9.9.{index} (root@evil) #1 SMP\n\0");
        guest.write(Gva(scratch.0 + index * 4096), text.as_bytes());
    }
    let attached = guest.attach().expect("its kernel");
    assert_eq!(attached.guest.kernel().text, guest.kernel.text);
    assert_eq!(attached.guest.kernel().profile.identity, guest.kernel.profile.identity);
}

/// Copies the kernel's image to memory that it does not run in, as it may be left there by a boot before.
fn second_image(guest: &mut Hostile) -> (u64, Gva) {
    let len = (guest.kernel.profile.symbol("_end").unwrap() - LINK_TEXT).next_multiple_of(2 << 20);
    let scratch = guest.scratch(len + (2 << 20));
    let image = bytes(guest, GpaRange { start: guest.kernel.text, len_bytes: len });
    guest.memory.write(EXTRA, &image);
    (len, scratch)
}

#[test]
fn the_image_of_a_kernel_that_does_not_run() {
    let mut guest = Hostile::new();
    second_image(&mut guest);
    let attached = guest.attach().expect("the living one");
    assert_eq!(attached.guest.kernel().text, guest.kernel.text);
    assert!(attached.rejected.iter().any(|rejected| rejected.text == EXTRA), "{:?}", attached.rejected);
}

/// The copy has page tables of its own that map the kernel's addresses to it, a fitting `phys_base`, and the direct map.
fn living_decoy() -> Hostile {
    let mut guest = Hostile::new();
    let (len, _) = second_image(&mut guest);
    let old = place(&guest, "phys_base");
    let moved = |at: Gpa, guest: &Hostile| Gpa(EXTRA.0 + (at.0 - guest.kernel.text.0));
    let base = EXTRA.0.wrapping_sub(guest.kernel.text.0);
    let mut phys_base = [0; 8];
    guest.memory.read(old, &mut phys_base).expect("RAM");
    let phys_base = u64::from_le_bytes(phys_base).wrapping_add(base);
    let at = moved(old, &guest);
    guest.memory.write(at, &phys_base.to_le_bytes());
    // Its root is where the symbol says, in the copy; the tables below lie behind the copy.
    let text = guest.symbol("_text");
    let tables = Gpa(EXTRA.0 + len);
    let root = guest.forged_tables(tables, text, EXTRA, len >> 21);
    let top = bytes(&guest, GpaRange { start: root.table, len_bytes: 4096 });
    let own_root = moved(place(&guest, "init_top_pgt"), &guest);
    guest.memory.write(own_root, &top);
    // The copy's direct map reaches the copy.
    let direct = Gva(guest.read_u64(guest.symbol("page_offset_base")) + EXTRA.0);
    let (entry, _) = guest.entry(direct, 3);
    guest.memory.write(entry, &(EXTRA.0 | 0xe3).to_le_bytes());
    guest
}

#[test]
fn two_kernels_that_both_look_alive_are_named_both() {
    let guest = living_decoy();
    let both = |error: AttachError| match error {
        AttachError::Ambiguous(found) => {
            let mut texts: Vec<Gpa> = found.iter().map(|found| found.text).collect();
            texts.sort();
            assert_eq!(texts, [guest.kernel.text, EXTRA]);
        }
        other => panic!("{other}"),
    };
    both(guest.attach().err().expect("two kernels"));
    // A profile that is known of both is no reason to take the first.
    let folder = tempfile::tempdir().expect("a folder");
    let store = ProfileStore::open(folder.path().join("profiles")).expect("a store");
    find::attach_with(Hostile::new().shared(), Some(&store)).expect("the sound guest");
    assert_eq!(store.headers().expect("what was learned").len(), 1);
    both(find::attach_with(guest.shared(), Some(&store)).err().expect("two kernels"));
}

#[test]
fn tokens_that_were_wiped() {
    let mut guest = Hostile::new();
    let tokens = tables(&guest).tokens;
    guest.memory.write(tokens.start, &vec![0; tokens.len_bytes as usize]);
    fails(&guest);
    // The admin's profile of the build still finds it.
    let attached = attach_trusting(&guest);
    assert_eq!(attached.source, Source::Trusted);
    let tasks = attached.guest.view().tasks();
    assert!(tasks.is_complete() && tasks.items.iter().any(|task| task.comm == "lab-plain"));
}

#[test]
fn a_table_of_four_thousand_million_symbols() {
    for count in [u32::MAX, 0x7fff_ffff, 1 << 24, 0] {
        let mut guest = Hostile::new();
        let names = tables(&guest).names;
        guest.memory.write(Gpa(names.start.0 - 8), &u64::from(count).to_le_bytes());
        fails(&guest);
    }
}

#[test]
fn markers_that_lead_elsewhere() {
    let mut guest = Hostile::new();
    let markers = tables(&guest).markers;
    guest.memory.write(Gpa(markers.start.0 + 8), &0u32.to_le_bytes());
    fails(&guest);
}

#[test]
fn names_of_random_bytes() {
    let mut guest = Hostile::new();
    let names = tables(&guest).names;
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(names.len_bytes as usize)
    .collect();
    guest.memory.write(names.start, &noise);
    fails(&guest);
}

/// `init_task` in the log buffer: a copy of the first task, whose successor is a copy of PID 1, and nobody else.
fn clean_copy(guest: &mut Hostile) {
    let tasks = u64::from(guest.field("task_struct", "tasks").offset);
    let len = guest.kernel.profile.types.size_of("task_struct").expect("its size") as usize;
    let (idle, init) = (guest.symbol("init_task"), guest.task("init"));
    let decoy = guest.symbol("__log_buf");
    let other = Gva(decoy.0 + (len as u64).next_multiple_of(64));
    guest.copy(idle, decoy, len).copy(init.at, other, len);
    let (first, second) = (decoy.0 + tasks, other.0 + tasks);
    guest.u64(Gva(first), second).u64(Gva(first + 8), second);
    guest.u64(Gva(second), first).u64(Gva(second + 8), first);
}

#[test]
fn a_symbol_that_leads_to_a_careless_copy() {
    let mut guest = Hostile::new();
    let (idle, decoy) = (guest.symbol("init_task"), guest.symbol("__log_buf"));
    let len = guest.kernel.profile.types.size_of("task_struct").expect("its size") as usize;
    guest.copy(idle, decoy, len);
    redirect(&mut guest, "init_task", "__log_buf");
    let attached = guest.attach().expect("a kernel");
    assert!(attached.evidence.failed.contains(&Check::TaskList), "{:?}", attached.evidence);
    assert!(inconsistent(&attached.guest.view().tasks().gaps));
}

#[test]
fn a_symbol_that_leads_to_a_clean_copy() {
    let mut guest = Hostile::new();
    clean_copy(&mut guest);
    redirect(&mut guest, "init_task", "__log_buf");
    // By itself the copy holds together, and hides all other processes from its list; the pid table shows them.
    let attached = guest.attach().expect("a kernel");
    let listed = attached.guest.view().tasks();
    assert!(listed.items.len() < 3);
    let processes = attached.guest.view().processes();
    assert!(processes.items.iter().any(|(task, listed)| !*listed && task.comm == "lab-plain"));
    // Two sources do not agree on where it lies.
    let attached = attach_trusting(&guest);
    assert_eq!(attached.source, Source::Trusted);
    let named =
        |found: &Disagreement| matches!(found, Disagreement::Symbol { name, .. } if name == "init_task");
    assert!(attached.disagreements.kept.iter().any(named), "{:?}", attached.disagreements);
    let tasks = attached.guest.view().tasks();
    assert!(tasks.is_complete() && tasks.items.iter().any(|task| task.comm == "lab-plain"));
}

#[test]
fn a_member_that_was_shifted() {
    let mut guest = Hostile::new();
    shift(&mut guest, "task_struct", "comm");
    let attached = guest.attach().expect("a kernel");
    assert!(attached.evidence.failed.contains(&Check::InitTask), "{:?}", attached.evidence);
    let attached = attach_trusting(&guest);
    let named = |found: &Disagreement| matches!(found, Disagreement::Member { path, .. } if path.starts_with("task_struct") && path.ends_with("comm"));
    assert!(attached.disagreements.kept.iter().any(named), "{:?}", attached.disagreements);
    assert!(attached.guest.view().tasks().items.iter().any(|task| task.comm == "lab-plain"));
}

#[test]
fn types_that_run_in_a_circle() {
    for name in ["pid_t", "__kernel_pid_t", "u64", "size_t"] {
        let mut guest = Hostile::new();
        tamper(&mut guest, name, TYPEDEF, |blob, record, number| {
            blob[record.at + 8..record.at + 12].copy_from_slice(&number.to_le_bytes());
        });
        // What needs the type is unavailable or reads as nothing; the attach ends, and so does every look.
        if let Ok(attached) = guest.attach() {
            look_everywhere(&attached.guest.view());
        }
    }
    let mut guest = Hostile::new();
    tamper(&mut guest, "list_head", STRUCT, |blob, record, number| {
        let at = member_at(blob, record, "next") + 4;
        blob[at..at + 4].copy_from_slice(&number.to_le_bytes());
    });
    if let Ok(attached) = guest.attach() {
        look_everywhere(&attached.guest.view());
    }
}

#[test]
fn types_that_do_not_exist_or_never_end() {
    for (what, word, value) in [
        ("a kind that is none", 4, 31 << 24),
        ("a structure of 65,535 members", 4, STRUCT << 24 | 0xffff),
        ("a name behind the strings", 0, u32::MAX),
        ("a member of a type that is none", 16, u32::MAX),
    ] {
        let mut guest = Hostile::new();
        tamper(&mut guest, "task_struct", STRUCT, |blob, record, _| {
            blob[record.at + word..record.at + word + 4].copy_from_slice(&value.to_le_bytes());
        });
        let error = fails(&guest);
        assert!(error.contains("types cannot be read"), "{what}: {error}");
        assert_eq!(attach_trusting(&guest).source, Source::Trusted, "{what}");
    }
}

#[test]
fn types_without_a_header() {
    for header in [
        &[0; 24][..],
        &[0xff; 24],
        b"\x9f\xeb\x01\0\xff\xff\xff\xff",
        b"\x9f\xeb\x01\0\x18\0\0\0\0\0\0\0\xff\xff\xff\xff",
    ] {
        let mut guest = Hostile::new();
        let btf = tables(&guest).btf;
        guest.memory.write(btf.start, header);
        assert!(fails(&guest).contains("types cannot be read"));
    }
}

/// A second blob that says otherwise lies in memory: it is not the one that the kernel's symbols name.
#[test]
fn a_second_blob_of_types() {
    let mut guest = Hostile::new();
    let forged = {
        let mut liar = Hostile::new();
        shift(&mut liar, "task_struct", "comm");
        bytes(&liar, tables(&guest).btf)
    };
    let scratch = guest.scratch(16 << 20);
    guest.write(scratch, &forged);
    let attached = guest.attach().expect("a kernel");
    assert!(attached.evidence.failed.is_empty());
    assert_eq!(attached.guest.kernel().profile.types, guest.kernel.profile.types);
}
