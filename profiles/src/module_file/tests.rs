//! Module files made by hand: linked where they should be, and refused where they are bent.

#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::*;
use proptest::prelude::*;

const HEADER: usize = 64;
const TEXT: u64 = 0xffff_ffff_c000_1000;

/// `.text` (a call of `printk`, the address of `lock`, which has no size), `.bss` (empty), `.modinfo`.
fn module() -> Vec<u8> {
    let names = b"\0.text\0.rela.text\0.bss\0.modinfo\0.symtab\0.strtab\0";
    let name = |wanted: &str| {
        let wanted = [wanted.as_bytes(), b"\0"].concat();
        names.windows(wanted.len()).position(|part| part == wanted).unwrap() as u32
    };
    let strings = b"\0printk\0lock\0";
    let text = [0xe8, 0, 0, 0, 0, 0x48, 0xc7, 0xc7, 0, 0, 0, 0, 0xc3];
    let info = b"vermagic=6.1.0-1-amd64 SMP\0depends=llc,stp\0";
    let mut symbols = vec![0; 24];
    for (name, info, section) in [(1u32, 0x10u8, 0u16), (8, 0x01, 3)] {
        symbols.extend(name.to_le_bytes());
        symbols.extend([info, 0]);
        symbols.extend(section.to_le_bytes());
        symbols.extend([0; 16]);
    }
    let mut relocations = Vec::new();
    for (offset, symbol, kind, addend) in [(1u64, 1u64, 4u64, -4i64), (8, 2, 11, 0)] {
        relocations.extend(offset.to_le_bytes());
        relocations.extend((symbol << 32 | kind).to_le_bytes());
        relocations.extend(addend.to_le_bytes());
    }
    let tail = [strings.as_slice(), names].concat();
    let parts = [
        (".text", 1u32, 6u64, &text[..], [0u32, 0], 0u64),
        (".rela.text", 4, 0x40, &relocations, [5, 1], 24),
        (".bss", 8, 3, b"", [0, 0], 0),
        (".modinfo", 1, 2, info, [0, 0], 0),
        (".symtab", 2, 0, &symbols, [6, 2], 24),
        (".strtab", 3, 0, &tail, [0, 0], 0),
    ];
    let (mut body, mut table) = (Vec::new(), vec![0u8; 64]);
    for (part, kind, flags, data, [link, info], entry) in parts {
        // Names of sections lie behind those of symbols.
        table.extend((strings.len() as u32 + name(part)).to_le_bytes());
        table.extend(kind.to_le_bytes());
        for word in [flags, 0, (HEADER + body.len()) as u64, data.len() as u64] {
            table.extend(word.to_le_bytes());
        }
        table.extend(link.to_le_bytes());
        table.extend(info.to_le_bytes());
        table.extend(8u64.to_le_bytes());
        table.extend(entry.to_le_bytes());
        body.extend_from_slice(data);
        body.resize(body.len().next_multiple_of(8), 0);
    }
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [1u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for word in [0, 0, (HEADER + body.len()) as u64] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 0, 0, 64, 7, 6] {
        file.extend(half.to_le_bytes());
    }
    [file, body, table].concat()
}

fn link(file: &ModuleFile, printk: Option<u64>) -> Result<crate::kernel_file::KernelImage, LinkError> {
    file.link(&Places {
        section: &|name, number| (name == ".text" && number == 0).then_some(TEXT),
        per_cpu: None,
        symbol: &|name| printk.filter(|_| name == "printk"),
    })
}

#[test]
fn a_module_is_linked_for_where_it_lies() {
    let file = ModuleFile::load(&module()[..]).unwrap();
    assert_eq!(file.release, "6.1.0-1-amd64");
    assert_eq!(file.depends, ["llc", "stp"]);
    assert_eq!(file.code_sections().collect::<Vec<_>>(), [(".text", 0)]);
    let image = link(&file, Some(TEXT + 0x100)).unwrap();
    // The distance counts from behind the call.
    assert_eq!(image.bytes(TEXT, TEXT + 5).unwrap(), [0xe8, 0xfb, 0, 0, 0]);
    // What has no size lies nowhere: anything may be there.
    let sites: Vec<_> = image.patch_sites().iter().map(|site| (site.at, site.end)).collect();
    assert_eq!(sites, [(TEXT + 8, TEXT + 12)]);
    assert!(image.bytes(TEXT - 1, TEXT).is_none() && image.bytes(TEXT, TEXT + 100).is_none());
}

#[test]
fn a_symbol_that_nobody_has_is_told() {
    let file = ModuleFile::load(&module()[..]).unwrap();
    assert_eq!(link(&file, None).unwrap_err(), LinkError::NoSymbol("printk".to_owned()));
}

#[test]
fn places_outside_of_their_section_and_strange_kinds_are_refused() {
    let text = 16;
    for (at, value, expected) in [
        (HEADER + text, 10u8, LinkError::Outside(".text".to_owned())),
        (HEADER + text + 8, 9, LinkError::Kind(9)),
    ] {
        let mut file = module();
        file[at] = value;
        assert_eq!(link(&ModuleFile::load(&file[..]).unwrap(), Some(0)).unwrap_err(), expected);
    }
}

#[test]
fn other_files_are_refused_with_the_reason() {
    assert!(matches!(ModuleFile::load(&b""[..]), Err(ModuleFileError::Packed(_))));
    assert!(matches!(ModuleFile::load(&b"BZh9"[..]), Err(ModuleFileError::Packed(_))));
    assert!(matches!(ModuleFile::load(&b"\x7fELF"[..]), Err(ModuleFileError::Elf(_))));
    let mut program = module();
    program[16] = 2;
    assert!(matches!(ModuleFile::load(&program[..]), Err(ModuleFileError::Elf(_))));
    let other = module();
    let at = other.windows(8).position(|part| part == b"vermagic").unwrap();
    let mut nameless = other.clone();
    nameless[at] = b'x';
    assert!(matches!(ModuleFile::load(&nameless[..]), Err(ModuleFileError::NotAModule)));
}

#[test]
fn a_folder_is_searched_for_modules_by_any_ending() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("6.1.0-1-amd64");
    std::fs::create_dir_all(kernel.join("kernel/net")).unwrap();
    std::fs::write(kernel.join("kernel/net/some-thing.ko"), module()).unwrap();
    for name in ["other.ko.xz", "modules.dep", "third.ko.zst"] {
        std::fs::write(kernel.join(name), b"nothing").unwrap();
    }
    for path in [folder.path(), kernel.as_path()] {
        let files = ModuleFolder::open(path, "6.1.0-1-amd64").unwrap();
        assert_eq!(files.len(), 3);
        assert!(files.module("some_thing").unwrap().is_ok());
        assert!(matches!(files.module("other"), Some(Err(ModuleFileError::Packed(_)))));
        assert!(files.module("modules").is_none());
    }
    let other = ModuleFolder::open(&kernel, "6.1.0-2-amd64").unwrap();
    assert!(matches!(other.module("some_thing"), Some(Err(ModuleFileError::OtherKernel(_)))));
}

proptest! {
    #[test]
    fn no_change_of_a_file_panics(changes in prop::collection::vec((0usize..2000, any::<u8>()), 1..8), cut in 0usize..2000) {
        let mut file = module();
        for (at, value) in changes {
            let len = file.len();
            file[at % len] = value;
        }
        file.truncate(file.len().saturating_sub(cut % 64));
        if let Ok(file) = ModuleFile::load(&file[..])
            && let Ok(image) = link(&file, Some(TEXT))
        {
            let _ = image.patch_sites();
        }
    }
}

#[test]
fn a_block_holds_the_files_that_were_asked_for_and_no_other_answers_to_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one.ko", "odd-one.ko", "left.ko"] {
        std::fs::write(folder.path().join(name), module()).unwrap();
    }
    std::fs::write(folder.path().join("bad.ko.xz"), b"nothing").unwrap();
    let files = ModuleFolder::open(folder.path(), "6.1.0-1-amd64").unwrap();
    let names = ["bad", "odd_one", "one", "nowhere"].map(str::to_owned);
    let packed = files.packed(names.iter()).unwrap().unpack("a key");
    let mut bytes = Vec::new();
    packed.write(&mut bytes).unwrap();
    assert_eq!(packed.len_bytes(), bytes.len() as u64);
    let mapped = ModuleFolder::mapped(&bytes.clone().into(), "a key").unwrap();
    assert_eq!((mapped.len(), mapped.release(), mapped.path()), (3, "6.1.0-1-amd64", folder.path()));
    for name in ["one", "odd_one"] {
        let (mapped, read) = (mapped.module(name).unwrap().unwrap(), files.module(name).unwrap().unwrap());
        assert_eq!(format!("{mapped:?}"), format!("{read:?}"));
    }
    assert!(matches!(mapped.module("bad"), Some(Err(ModuleFileError::Packed(_)))));
    assert!(!mapped.has("left") && mapped.module("nowhere").is_none());
    assert!(matches!(ModuleFolder::mapped(&bytes.clone().into(), "another"), Err(ModuleFileError::Block)));
    for cut in 0..bytes.len() {
        assert!(ModuleFolder::mapped(&bytes[..cut].to_vec().into(), "a key").is_err(), "{cut}");
    }
}
