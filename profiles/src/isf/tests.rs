//! What is written reads back, and what is broken is refused.

use super::*;
use crate::{BuildId, Identity, Profile, SymbolsBuilder, Type, TypesBuilder};

fn profile() -> Profile {
    let mut types = TypesBuilder::default();
    let void = types.push(Type::Opaque);
    let number = types.push(Type::Integer { bytes: 4, signed: false, bits: None });
    let letter = types.push(Type::Integer { bytes: 1, signed: true, bits: None });
    let name = types.push(Type::Array { element: letter, count: 16 });
    let inner = types.push(Type::Composite { record: 1 });
    let list = types.push(Type::Pointer { target: inner });
    let any = types.push(Type::Pointer { target: void });
    let alias = types.push(Type::Alias(number));
    types.record("task_struct", 64, false);
    types.member("pid", alias, 0, 0);
    types.member("flag", number, 37, 3);
    types.member("comm", name, 64, 0);
    types.member("list", list, 192, 0);
    types.member("", inner, 256, 0);
    types.record("", 16, true);
    types.member("first", any, 0, 0);
    types.member("second", number, 0, 0);
    let mut symbols = SymbolsBuilder::default();
    symbols.push("init_task", 0xffff_ffff_8200_0000, b'D');
    symbols.push("linux_banner", 0xffff_ffff_8100_1000, b'R');
    symbols.push("do_exit", 0xffff_ffff_8100_2000, b'T');
    let banner = "Linux version 6.1.0 (a\\b \"c\") #1";
    let identity = Identity::from_banner(banner, Some(BuildId([7; 20]))).unwrap();
    Profile { identity, symbols: symbols.build(), types: types.build() }
}

fn text(profile: &Profile) -> Vec<u8> {
    let mut out = Vec::new();
    write(profile, &mut out).unwrap();
    out
}

#[test]
fn what_is_written_reads_back() {
    let (written, found) = (profile(), read(&text(&profile())).unwrap());
    assert_eq!(found.identity, written.identity);
    for path in ["pid", "flag", "comm", "list", "first", "second"] {
        let field = written.field("task_struct", path).unwrap();
        assert_eq!(found.field("task_struct", path).unwrap(), field, "{path}");
    }
    assert_eq!(found.size_of("task_struct").unwrap(), 64);
    assert_eq!(found.symbols.len(), 3);
    assert_eq!(found.symbol("do_exit").unwrap(), 0xffff_ffff_8100_2000);
    // And once more: the second writing holds what the first did.
    assert_eq!(
        read(&text(&found)).unwrap().types.members_of("task_struct"),
        found.types.members_of("task_struct")
    );
}

#[test]
fn the_physical_start_that_libvmi_wants_is_written_once() {
    let mut profile = profile();
    let mut symbols = SymbolsBuilder::default();
    symbols.push("startup_64", 0xffff_ffff_8100_0000, b'T');
    symbols.push("linux_banner", 0xffff_ffff_8100_1000, b'R');
    profile.symbols = symbols.build();
    for _ in 0..2 {
        let text = String::from_utf8(text(&profile)).unwrap();
        assert_eq!(text.matches("\"phys_startup_64\"").count(), 1);
        profile = read(text.as_bytes()).unwrap();
        assert_eq!(profile.symbol("phys_startup_64").unwrap(), 0x100_0000);
    }
}

#[test]
fn a_packed_file_reads_as_well() {
    let mut packed = Vec::new();
    let mut writer = lzma_rust2::XzWriter::new(&mut packed, lzma_rust2::XzOptions::with_preset(1)).unwrap();
    std::io::Write::write_all(&mut writer, &text(&profile())).unwrap();
    writer.finish().unwrap();
    assert_eq!(read(&packed).unwrap().identity, profile().identity);
    for len in 0..packed.len().min(200) {
        assert!(read(&packed[..len]).is_err());
    }
}

#[test]
fn broken_files_are_refused_with_the_reason() {
    let good = String::from_utf8(text(&profile())).unwrap();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        read(good.replacen(from, to, 1).as_bytes())
    };
    assert!(matches!(with("6.2.0", "4.0.0"), Err(IsfError::Version(_))));
    assert!(matches!(with("constant_data", "other_data"), Err(IsfError::NoBanner)));
    assert!(matches!(with("\"offset\":24", "\"offset\":4294967295"), Err(IsfError::Type { .. })));
    assert!(matches!(with("\"kind\":\"array\"", "\"kind\":\"riddle\""), Err(IsfError::Type { .. })));
    assert!(matches!(read(b"{}"), Err(IsfError::Json(_))));
    let deep = "{\"kind\":\"pointer\",\"subtype\":".repeat(64) + "{}" + &"}".repeat(64);
    assert!(with("{\"kind\":\"base\",\"name\":\"unsigned int\"}", &deep).is_err());
    for len in (0..good.len()).step_by(97) {
        assert!(read(&good.as_bytes()[..len]).is_err());
    }
}
