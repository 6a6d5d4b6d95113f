//! The little of an ELF header that detectors ask for. Written by whoever wrote the file: every number is doubted.
//!
//! Layout: `Elf64_Ehdr` and `Elf64_Phdr` of the System V ABI, and the GNU extension `PT_GNU_STACK`.

/// How every ELF file begins.
const MAGIC: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const PROGRAM_HEADERS_AT: usize = 0x20;
const ENTRY_BYTES_AT: usize = 0x36;
const COUNT_AT: usize = 0x38;
/// `PT_GNU_STACK`: what the stack must allow.
const GNU_STACK: u64 = 0x6474_e551;
const EXECUTE: u64 = 1;
/// `PT_DYNAMIC`, and in it `DT_TEXTREL`, `DT_FLAGS` and `DF_TEXTREL`.
const DYNAMIC: u64 = 2;
const TEXT_RELOCATIONS: u64 = 22;
const FLAGS: u64 = 30;
const TEXT_RELOCATIONS_FLAG: u64 = 4;
/// More program headers than any linker makes.
const MAX_HEADERS: usize = 64;

/// Whether a program begins here.
pub(super) fn is_header(bytes: &[u8]) -> bool {
    let plausible =
        |class: Option<&u8>, order: Option<&u8>| matches!(class, Some(1 | 2)) && matches!(order, Some(1 | 2));
    bytes.starts_with(MAGIC) && plausible(bytes.get(4), bytes.get(5)) && bytes.get(6) == Some(&1)
}

/// Whether the program or library that begins with `start` asks for a stack that can be run. One of 32 bits that says nothing
/// does; `None` where its headers lie further on.
pub(super) fn wants_executable_stack(start: &[u8]) -> Option<bool> {
    if start.get(4) != Some(&CLASS_64) {
        return Some(true);
    }
    let stack = program_header(start, GNU_STACK)?;
    Some(stack.is_some_and(|header| number(header, 4, 4).is_some_and(|flags| flags & EXECUTE != 0)))
}

/// Where a file's table for the dynamic linker lies: offset and length in bytes.
pub(super) fn dynamic(start: &[u8]) -> Option<(u64, u64)> {
    let header = program_header(start, DYNAMIC)??;
    Some((number(header, 8, 8)?, number(header, 0x20, 8)?))
}

/// Whether loading changes the code of the file that begins with `header`: it asks for it in its dynamic table, which lies in
/// `start`. What has 32 bits may.
pub(super) fn has_text_relocations(header: &[u8], dynamic: Option<(u64, u64)>, start: &[u8]) -> bool {
    if header.get(4) != Some(&CLASS_64) {
        return true;
    }
    let Some((at, len)) = dynamic else { return false };
    let from = usize::try_from(at).unwrap_or(usize::MAX);
    let table = start.get(from..).unwrap_or_default();
    let entries = table.chunks_exact(16).take(usize::try_from(len / 16).unwrap_or(0));
    entries.into_iter().any(|entry| match (number(entry, 0, 8), number(entry, 8, 8)) {
        (Some(TEXT_RELOCATIONS), _) => true,
        (Some(FLAGS), Some(flags)) => flags & TEXT_RELOCATIONS_FLAG != 0,
        _ => false,
    })
}

/// The program header of a kind; `None` where the headers lie further on, `Some(None)` where there is none of it.
fn program_header(start: &[u8], kind: u64) -> Option<Option<&[u8]>> {
    let first = usize::try_from(number(start, PROGRAM_HEADERS_AT, 8)?).ok()?;
    let stride = usize::try_from(number(start, ENTRY_BYTES_AT, 2)?).ok()?;
    let count = usize::try_from(number(start, COUNT_AT, 2)?).ok()?.min(MAX_HEADERS);
    for index in 0..count {
        let header = start.get(first.checked_add(index.checked_mul(stride)?)?..)?;
        if number(header, 0, 4)? == kind {
            return Some(Some(header));
        }
    }
    Some(None)
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(flags: u32) -> Vec<u8> {
        let mut bytes = vec![0; 0x40 + 2 * 56];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[0x20] = 0x40;
        bytes[0x36] = 56;
        bytes[0x38] = 2;
        bytes[0x40 + 56..][..4].copy_from_slice(&(GNU_STACK as u32).to_le_bytes());
        bytes[0x40 + 60..][..4].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    #[test]
    fn a_program_says_what_its_stack_must_allow() {
        assert_eq!(wants_executable_stack(&program(6)), Some(false));
        assert_eq!(wants_executable_stack(&program(7)), Some(true));
        assert_eq!(wants_executable_stack(&program(7)[..0x50]), None);
        let mut silent = program(7);
        silent[0x38] = 1;
        assert_eq!(wants_executable_stack(&silent), Some(false));
        silent[4] = 1;
        assert_eq!(wants_executable_stack(&silent), Some(true));
    }

    #[test]
    fn text_relocations_are_asked_for() {
        let mut bytes = program(6);
        bytes[0x40..0x44].copy_from_slice(&2u32.to_le_bytes());
        bytes[0x48] = 0xc0;
        bytes[0x60] = 48;
        let with = |entry: [u64; 2]| {
            let mut file = bytes.clone();
            file.resize(0xc0, 0);
            file.extend([1, 0, entry[0], entry[1], 0, 0].map(u64::to_le_bytes).concat());
            has_text_relocations(&bytes, dynamic(&bytes), &file)
        };
        assert_eq!(dynamic(&bytes), Some((0xc0, 48)));
        assert!(with([22, 0]) && with([30, 4]) && !with([30, 8]) && !with([5, 22]));
        assert!(!has_text_relocations(&bytes, dynamic(&bytes), &[]));
    }

    #[test]
    fn only_a_header_is_a_header() {
        assert!(is_header(&program(6)));
        for bytes in [&b"\x7fELF"[..], b"\x7fELF\x03\x01\x01", b"#!/bin/sh", b""] {
            assert!(!is_header(bytes));
        }
    }
}
