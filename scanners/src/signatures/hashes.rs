//! Lists of SHA-256 hashes: files that must not be, and files that are known to be good.
//!
//! A line is `deny HASH`, `allow HASH`, or a hash with a file name behind it as `sha256sum` prints it, which counts as denied unless
//! a line `allow` stands above. `#` begins a comment.
//!
//! *Trusts*: that whoever chose the file wants it. *Never*: passes over a line that it does not understand.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest list.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Most hashes: 32 bytes each, and as much again for the table.
const MAX_HASHES: usize = 10_000_000;

/// What a list says of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listed {
    /// It is known to be good: what signatures say of it is not told.
    Allow,
    /// It must not be.
    Deny,
}

/// Hashes of files.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HashList {
    hashes: HashMap<[u8; 32], Listed>,
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HashesError {
    /// It cannot be read.
    #[error("{}: {why}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        why: io::Error,
    },
    /// A line is no hash.
    #[error("{}:{line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        why: BadLine,
    },
    /// It is too large.
    #[error("{}: more than {MAX_FILE_BYTES} bytes or {MAX_HASHES} hashes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// What is wrong with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadLine {
    /// There is no SHA-256 where one must be.
    #[error("no SHA-256: 64 hexadecimal digits, after `allow` or `deny` or alone")]
    NoHash,
    /// The same hash is allowed and denied.
    #[error("this hash is both allowed and denied")]
    Both,
}

impl HashList {
    /// Reads a list.
    pub fn load(path: &Path) -> Result<HashList, HashesError> {
        let failed = |why| HashesError::Io { path: path.to_owned(), why };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        let list = HashList::parse(&bytes);
        let list = list.map_err(|(line, why)| HashesError::Line { path: path.to_owned(), line, why })?;
        if bytes.len() as u64 > MAX_FILE_BYTES || list.len() > MAX_HASHES {
            return Err(HashesError::TooLarge { path: path.to_owned() });
        }
        Ok(list)
    }

    /// Understands a list's text; the number of the line that is wrong, and why.
    pub fn parse(text: &[u8]) -> Result<HashList, (usize, BadLine)> {
        let mut list = HashList::default();
        let mut section = Listed::Deny;
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
            let words: Vec<&[u8]> =
                line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
            let verb = |word: &[u8]| match word {
                b"allow" => Some(Listed::Allow),
                b"deny" => Some(Listed::Deny),
                _ => None,
            };
            let (listed, digits) = match words.as_slice() {
                [] => continue,
                [word, rest @ ..] => match (verb(word), rest) {
                    (Some(listed), []) => {
                        section = listed;
                        continue;
                    }
                    (Some(listed), [digits, ..]) => (listed, *digits),
                    (None, _) => (section, *word),
                },
            };
            let number = index.saturating_add(1);
            let hash = sha256(digits).ok_or((number, BadLine::NoHash))?;
            if list.hashes.insert(hash, listed).is_some_and(|before| before != listed) {
                return Err((number, BadLine::Both));
            }
            if list.len() > MAX_HASHES {
                break;
            }
        }
        Ok(list)
    }

    /// Number of hashes.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// What the list says of a file.
    pub fn get(&self, sha256: &[u8; 32]) -> Option<Listed> {
        self.hashes.get(sha256).copied()
    }
}

/// 64 hexadecimal digits; `sha256sum` puts a backslash before them when the file's name has one.
fn sha256(digits: &[u8]) -> Option<[u8; 32]> {
    let digits = digits.strip_prefix(b"\\").unwrap_or(digits);
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut hash = [0; 32];
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind() {
        let (one, two, three, four) = ("11".repeat(32), "aB".repeat(32), "33".repeat(32), "44".repeat(32));
        let text = format!(
            "# a list\n\ndeny {one} a comment\r\nallow {two}\n{three}  bin/x # y\nallow\n\\{four} *a\\\\b\n"
        );
        let list = HashList::parse(text.as_bytes()).unwrap();
        let told = [0x11, 0xab, 0x33, 0x44, 0x55].map(|byte| list.get(&[byte; 32]));
        let (allow, deny) = (Some(Listed::Allow), Some(Listed::Deny));
        assert_eq!(told, [deny, allow, deny, allow, None]);
        assert_eq!(list.len(), 4);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let hash = "12".repeat(32);
        for bad in [&hash[1..], &format!("{hash}0"), "deny x", &hash.replace('1', "g"), "md5"] {
            let text = format!("deny {hash}\n# fine\n{bad}\n");
            assert_eq!(HashList::parse(text.as_bytes()), Err((3, BadLine::NoHash)), "{bad}");
        }
        let both = format!("deny {hash}\nallow {hash}");
        assert_eq!(HashList::parse(both.as_bytes()), Err((2, BadLine::Both)));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, "deny\nwhat is this\n").unwrap();
        let error = HashList::load(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("list:2: no SHA-256: 64 hexadecimal digits, after `allow` or `deny` or alone")
        );
        assert!(matches!(HashList::load(&folder.path().join("none")), Err(HashesError::Io { .. })));
    }
}
