//! What the guest's own kernel said about itself, as the lab guest captured it (answer to `TRUTH`).
//!
//! The answer is a sequence of records `FILE <path> <len>\n<bytes>`: files of `/proc` and `/sys` under their own paths, a
//! symbolic link's target as its content, and a few files that the guest made up (`/notes`, `/lab/...`,
//! `/proc/PID/fdstat`, `/proc/PID/net/ifaddrs`). [`Truth`] keeps them all; its accessors give plain structs to compare
//! with what introspection found.
//!
//! It trusts the guest: this is test code, whose input comes from our own guest. An accessor fails on a line that it cannot
//! read rather than leaving it out, so that a test never passes on half of the truth. Text that is not UTF-8 is
//! replaced by `U+FFFD` characters.
//!
//! PID 1 takes the truth: its state, descriptors and counters move while it does, so do not test by them.

mod memory;
mod net;
mod system;
mod tasks;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

pub use memory::{Fd, Map, Mount};
pub use net::{Interface, Socket, SocketKind};
pub use system::{BpfMap, BpfProgram, Clocks, LogRecord, Module, Symbol, parse_kallsyms};
pub use tasks::{Caps, Task, Thread};

/// Everything the guest sent, by path.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    files: BTreeMap<String, Vec<u8>>,
}

impl Truth {
    /// Reads the payload of the answer to `TRUTH`.
    pub fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut files = BTreeMap::new();
        while !bytes.is_empty() {
            let end =
                bytes.iter().position(|&byte| byte == b'\n').context("a record's first line has no end")?;
            let header = std::str::from_utf8(&bytes[..end]).context("a record's first line is not UTF-8")?;
            let fields: Vec<&str> = header.split(' ').collect();
            let &["FILE", path, len] = fields.as_slice() else { bail!("not a record: {header:?}") };
            let len: usize = len.parse().with_context(|| format!("length of {path}"))?;
            let content = bytes
                .get(end + 1..)
                .and_then(|rest| rest.get(..len))
                .context("the last record is cut off")?;
            files.insert(path.to_owned(), content.to_vec());
            bytes = &bytes[end + 1 + len..];
        }
        Ok(Self { files })
    }

    /// One captured file's content, or one symbolic link's target.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }

    /// One captured file as text.
    pub fn text(&self, path: &str) -> Option<String> {
        self.file(path).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// Every captured path, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Every process, kernel threads included, in order.
    pub fn pids(&self) -> Vec<u32> {
        self.numbers("/proc/", "/status")
    }

    /// What the guest could not plant, and why.
    pub fn notes(&self) -> Vec<String> {
        let text = self.text("/notes").unwrap_or_default();
        text.lines().map(|line| line.trim_start_matches("NOTE ").to_owned()).collect()
    }

    /// The numbers `N` of paths `<before>N<after>`, in order.
    fn numbers(&self, before: &str, after: &str) -> Vec<u32> {
        let middle = |path: &str| path.strip_prefix(before)?.strip_suffix(after)?.parse().ok();
        let mut numbers: Vec<u32> = self.paths().filter_map(middle).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The names `X` of paths `<before>X<after>` with no `/` in them, in order.
    fn names(&self, before: &str, after: &str) -> Vec<String> {
        let middle = |path: &str| path.strip_prefix(before)?.strip_suffix(after).map(str::to_owned);
        self.paths().filter_map(middle).filter(|name| !name.contains('/')).collect()
    }

    /// A file that must be there, as text.
    fn need(&self, path: &str) -> Result<String> {
        self.text(path).with_context(|| format!("the truth has no {path}"))
    }

    /// Each line of a file after the first `skip` as `read` understands it. A missing file has no lines.
    fn lines<T>(&self, path: &str, skip: usize, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
        let text = self.text(path).unwrap_or_default();
        text.lines()
            .skip(skip)
            .map(|line| read(line).with_context(|| format!("{path}: cannot read {line:?}")))
            .collect()
    }
}

/// The first `N` columns, and the rest of the line after the blanks that follow them.
fn columns<const N: usize>(line: &str) -> Option<([&str; N], &str)> {
    let mut rest = line.trim_start();
    let mut found = [""; N];
    for column in &mut found {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        *column = rest.get(..end).filter(|text| !text.is_empty())?;
        rest = rest.get(end..)?.trim_start();
    }
    Some((found, rest))
}

/// A hexadecimal number, with or without `0x`.
fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// `major:minor`, both in `radix`.
fn device(text: &str, radix: u32) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((u32::from_str_radix(major, radix).ok()?, u32::from_str_radix(minor, radix).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A truth of these files.
    pub(super) fn truth(files: &[(&str, &str)]) -> Truth {
        let records: Vec<String> =
            files.iter().map(|(path, text)| format!("FILE {path} {}\n{text}", text.len())).collect();
        Truth::parse(records.concat().as_bytes()).unwrap()
    }

    #[test]
    fn records_follow_each_other_without_a_gap() {
        let truth = truth(&[("/a", "one\ntwo"), ("/empty", ""), ("/notes", "NOTE lab-maps: no\n")]);
        assert_eq!(truth.file("/a"), Some(&b"one\ntwo"[..]));
        assert_eq!(truth.file("/empty"), Some(&b""[..]));
        assert_eq!(truth.file("/b"), None);
        assert_eq!(truth.notes(), ["lab-maps: no"]);
    }

    #[test]
    fn a_broken_answer_is_refused() {
        for bytes in ["FILE /a 5\nfour", "FILE /a\n", "FILE /a x\n", "OK 3\nabc", "FILE /a 1"] {
            assert!(Truth::parse(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_an_error() {
        let truth = truth(&[("/proc/modules", "veth 1 2\n")]);
        assert!(truth.modules().unwrap_err().to_string().contains("/proc/modules"));
    }
}
