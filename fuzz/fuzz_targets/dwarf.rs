//! DWARF of any bytes, in an ELF file that leads to it: types or a typed error.
#![no_main]

mod types;

use libfuzzer_sys::fuzz_target;
use lynceus_profiles::dwarf;
use std::io::Cursor;

const NAMES: &[u8] = b"\0.debug_info\0.debug_abbrev\0.debug_str\0.shstrtab\0";

/// An executable with these sections.
fn elf(sections: [&[u8]; 3]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.resize(64, 0);
    let mut headers = vec![0u8; 64];
    let names = [1u32, 13, 27, 38];
    for (name, bytes) in names.into_iter().zip(sections.into_iter().chain([NAMES])) {
        let kind: u32 = if name == 38 { 3 } else { 1 };
        headers.extend(name.to_le_bytes());
        headers.extend(kind.to_le_bytes());
        for word in [0, 0, file.len() as u64, bytes.len() as u64, 0, 1, 0] {
            headers.extend(word.to_le_bytes());
        }
        file.extend(bytes);
    }
    let start = file.len() as u64;
    file[40..48].copy_from_slice(&start.to_le_bytes());
    for (at, value) in [(52, 64u16), (58, 64), (60, 5), (62, 4)] {
        file[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    file.extend(headers);
    file
}

fuzz_target!(|data: &[u8]| {
    let _ = dwarf::read(&mut Cursor::new(data));
    // Two bytes say where the abbreviations end, and the rest are entries of a version 5 unit.
    let Some((cut, rest)) = data.split_first_chunk::<2>() else { return };
    let (abbrev, entries) = rest.split_at(usize::from(u16::from_le_bytes(*cut)).min(rest.len()));
    let mut info = (entries.len() as u32 + 8).to_le_bytes().to_vec();
    info.extend([5, 0, 1, 8, 0, 0, 0, 0]);
    info.extend(entries);
    if let Ok(found) = dwarf::read(&mut Cursor::new(elf([&info, abbrev, b"name\0other\0"]))) {
        types::look_up(&found);
    }
});
