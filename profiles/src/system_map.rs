//! `System.map`: the symbols that the kernel's build wrote down, one `address type name` a line.
//!
//! A kernel without kallsyms (or with functions alone in it) still has this file, beside it in `/boot` or in its debug
//! package.
//!
//! *Trusts*: nothing. *Never*: takes the addresses of a running kernel (`/proc/kallsyms`), which KASLR has moved or
//! hidden, for link-time ones.
//!
//! Layout: `scripts/mksysmap` (Linux 7.2), which is `nm -n` with some names left out.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::kallsyms::LINK_TEXT;
use crate::{Symbols, SymbolsBuilder};

/// Largest file: those of distribution kernels have some 10 MB.
pub const MAX_FILE_BYTES: u64 = 128 << 20;
/// Most symbols.
pub const MAX_SYMBOLS: usize = 4 << 20;
/// Longest name, in bytes (`KSYM_NAME_LEN`, with as much again to spare).
const MAX_NAME_BYTES: usize = 1024;
/// What Debian puts in place of the file.
const STUB: &[u8] = b"ffffffffffffffff B The real System.map";

/// Why a file gives no symbols.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SystemMapError {
    /// Longer than [`MAX_FILE_BYTES`].
    #[error("longer than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// More than [`MAX_SYMBOLS`].
    #[error("more than {MAX_SYMBOLS} symbols")]
    TooMany,
    /// Debian's placeholder.
    #[error(
        "this System.map is a placeholder: the real one is in the package linux-image-<version>-dbg, \
         under /usr/lib/debug/boot"
    )]
    Stub,
    /// A line is none of a System.map.
    #[error("line {line}: {why}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No `_text`.
    #[error("it has no symbol `_text`: not a kernel's")]
    NoText,
    /// The addresses are not those of the link.
    #[error(
        "`_text` is at {0:#x}, not at {LINK_TEXT:#x}: these are a running kernel's addresses (or no x86-64 kernel's)"
    )]
    NotLinked(u64),
}

/// Whether a file that begins so may be a System.map.
pub fn is_like(start: &[u8]) -> bool {
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line_of(line).is_ok() || line.starts_with(STUB)
}

/// Reads the text of a System.map.
pub fn parse(text: &[u8]) -> Result<Symbols, SystemMapError> {
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(SystemMapError::TooLarge);
    }
    if text.starts_with(STUB) {
        return Err(SystemMapError::Stub);
    }
    let mut builder = SymbolsBuilder::default();
    for (number, line) in (1usize..).zip(text.trim_ascii_end().split(|byte| *byte == b'\n')) {
        if number > MAX_SYMBOLS {
            return Err(SystemMapError::TooMany);
        }
        let (address, kind, name) =
            line_of(line).map_err(|why| SystemMapError::Line { line: number, why })?;
        builder.push(name, address, kind);
    }
    let symbols = builder.build();
    match symbols.address("_text") {
        Some(LINK_TEXT) => Ok(symbols),
        Some(address) => Err(SystemMapError::NotLinked(address)),
        None => Err(SystemMapError::NoText),
    }
}

fn line_of(line: &[u8]) -> Result<(u64, u8, &str), &'static str> {
    if line.len() > MAX_NAME_BYTES {
        return Err("longer than any symbol's name");
    }
    let line = std::str::from_utf8(line).map_err(|_| "not text")?.trim_end_matches('\r');
    let mut words = line.split(' ');
    let (Some(address), Some(kind), Some(name), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("not `address type name`");
    };
    if !(8..=16).contains(&address.len()) || !address.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err("the address is not 8 to 16 hexadecimal digits");
    }
    let address = u64::from_str_radix(address, 16).map_err(|_| "the address is no number")?;
    let &[kind] = kind.as_bytes() else { return Err("the type is not one letter") };
    if !kind.is_ascii_alphabetic() {
        return Err("the type is not one letter");
    }
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err("the name is empty or has a blank in it: a module's, of a running kernel?");
    }
    Ok((address, kind, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAP: &str = "0000000000000000 D __per_cpu_start\n000000000002c3c0 D runqueues\n\
        ffffffff81000000 T _text\nffffffff81000000 T _stext\nffffffff82613b40 D init_task\n";

    fn line(number: usize, text: &str) -> &'static str {
        let text = format!("{MAP}{text}\n");
        match parse(text.as_bytes()) {
            Err(SystemMapError::Line { line, why }) if line == number => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn symbols_come_with_address_and_kind() {
        for text in [MAP.to_owned(), MAP.replace('\n', "\r\n")] {
            let symbols = parse(text.as_bytes()).expect("a System.map");
            assert_eq!(symbols.len(), 5);
            assert_eq!(symbols.address("init_task"), Some(0xffff_ffff_8261_3b40));
            assert_eq!(symbols.address("runqueues"), Some(0x2c3c0));
            assert_eq!(symbols.all("_stext").next().map(|symbol| symbol.kind), Some(b'T'));
        }
        assert!(is_like(MAP.as_bytes()));
    }

    #[test]
    fn debians_placeholder_says_where_the_real_one_is() {
        let stub = b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n";
        assert!(is_like(stub));
        let error = parse(stub).expect_err("a placeholder");
        assert!(error.to_string().contains("linux-image-<version>-dbg"), "{error}");
    }

    #[test]
    fn a_bad_line_is_named() {
        assert!(line(6, "ffffffff81000000 T").contains("address type name"));
        assert!(line(6, "\nffffffff81000000 T a").contains("address type name"));
        assert!(line(6, "ffffffff81000000 T a b").contains("address type name"));
        assert!(line(6, "+fffffff81000000 T a").contains("hexadecimal"));
        assert!(line(6, "fffffffff81000000 T a").contains("hexadecimal"));
        assert!(line(6, "ffffffff81000000 TT a").contains("one letter"));
        assert!(line(6, "ffffffff81000000 1 a").contains("one letter"));
        assert!(line(6, "ffffffffc0000000 t init\t[nfs]").contains("module"));
        assert!(line(6, &format!("ffffffff81000000 T {}", "a".repeat(2000))).contains("longer"));
    }

    #[test]
    fn a_running_kernels_addresses_are_refused() {
        let moved = MAP.replace("ffffffff81000000", "ffffffff9a200000");
        assert_eq!(parse(moved.as_bytes()), Err(SystemMapError::NotLinked(0xffff_ffff_9a20_0000)));
        let hidden = MAP.replace("ffffffff81000000", "0000000000000000");
        assert_eq!(parse(hidden.as_bytes()), Err(SystemMapError::NotLinked(0)));
        assert_eq!(parse(b"ffffffff82613b40 D init_task\n"), Err(SystemMapError::NoText));
        assert!(matches!(parse(b""), Err(SystemMapError::Line { line: 1, .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_give_symbols_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
            let _ = parse(&[MAP.as_bytes(), &bytes].concat());
        }

        #[test]
        fn what_is_written_is_read(found in proptest::collection::btree_map("[a-z_][a-zA-Z0-9_.$]{0,40}", any::<u64>(), 0..50)) {
            let mut text = MAP.to_owned();
            for (name, address) in &found {
                text += &format!("{address:016x} t q.{name}\n");
            }
            let symbols = parse(text.as_bytes()).expect("a System.map");
            for (name, address) in &found {
                prop_assert_eq!(symbols.address(&format!("q.{name}")), Some(*address));
            }
        }
    }
}
