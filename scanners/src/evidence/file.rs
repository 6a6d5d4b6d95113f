//! The file: a line of JSON for what it is about, a line for each page, each with a digest of itself and of all before.
//!
//! `{"chain":"HEX","record":…}`: `chain` is BLAKE3 of the chain of the line before (32 zero bytes for the first) and the bytes of
//! `record` as they stand in the file. A page is `{"gpa":N,"bytes":"HEX"}`, zeros at its end left out.

use super::memory::{PAGE, Pages};
use super::{About, Evidence};
use lynceus_introspect::{Gpa, GpaRange};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::io::{self, BufRead, Read, Write};

/// Longest line: what a page takes, and a finding with all its strings.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Most pages: a gigabyte's worth is no small file.
const MAX_PAGES: usize = 1 << 18;
/// Most parts of RAM, and most entries with other frames.
const MAX_PARTS: usize = 1 << 16;
const VERSION: u32 = 1;

/// Why evidence cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is not what it should be.
    #[error("line {line}: {why}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A line was changed, left out or moved.
    #[error("line {0}: its digest does not fit: the evidence was changed after it was written")]
    Chain(usize),
    /// Another version's.
    #[error("evidence of version {0}, this release reads {VERSION}")]
    Version(u32),
    /// Another release's detector.
    #[error("no detector is called {0:?}: another release wrote this")]
    Detector(String),
    /// A detector's finding.
    #[error("it is no evidence of a signature's match")]
    NoMatch,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    chain: String,
    #[serde(borrow)]
    record: &'a RawValue,
}

#[derive(Serialize, Deserialize)]
struct PageRecord {
    gpa: u64,
    bytes: String,
}

/// The digest so far.
struct Chain(blake3::Hash);

impl Chain {
    fn new() -> Chain {
        Chain(blake3::Hash::from_bytes([0; 32]))
    }

    fn add(&mut self, record: &str) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.0.as_bytes()).update(record.as_bytes());
        self.0 = hasher.finalize();
        self.0
    }
}

impl Evidence {
    /// Writes it; returns the digest of the whole, by which it can be told from one that was made up later.
    pub fn write(&self, out: &mut impl Write) -> io::Result<String> {
        let mut chain = Chain::new();
        let mut put = |record: String| {
            let digest = chain.add(&record).to_hex();
            writeln!(out, "{{\"chain\":\"{digest}\",\"record\":{record}}}")
        };
        put(serde_json::to_string(&self.about)?)?;
        for (frame, page) in &self.pages.pages {
            let used = page.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            put(serde_json::to_string(&PageRecord { gpa: frame * PAGE, bytes: crate::hex(&page[..used]) })?)?;
        }
        Ok(chain.0.to_hex().to_string())
    }

    /// Reads it, and holds every line to its digest.
    pub fn read(mut file: impl BufRead) -> Result<Evidence, EvidenceError> {
        let mut chain = Chain::new();
        let mut number = 0;
        let mut next = || -> Result<Option<(usize, String)>, EvidenceError> {
            number += 1;
            let mut text = Vec::new();
            file.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text)?;
            if text.is_empty() {
                return Ok(None);
            }
            let wrong = |why: String| EvidenceError::Line { line: number, why };
            if text.pop() != Some(b'\n') {
                return Err(wrong(format!("longer than {MAX_LINE_BYTES} bytes, or cut off")));
            }
            let line: Line<'_> = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
            if chain.add(line.record.get()).to_hex().as_str() != line.chain {
                return Err(EvidenceError::Chain(number));
            }
            Ok(Some((number, line.record.get().to_owned())))
        };
        let (_, head) = next()?.ok_or(EvidenceError::Line { line: 1, why: "an empty file".to_owned() })?;
        let about: About = serde_json::from_str(&head)
            .map_err(|error| EvidenceError::Line { line: 1, why: error.to_string() })?;
        if about.lynceus_evidence != VERSION {
            return Err(EvidenceError::Version(about.lynceus_evidence));
        }
        let mut pages = about_pages(&about)?;
        while let Some((line, record)) = next()? {
            let wrong = |why: String| EvidenceError::Line { line, why };
            let record: PageRecord =
                serde_json::from_str(&record).map_err(|error| wrong(error.to_string()))?;
            let page = page(&record.bytes).ok_or_else(|| wrong("no bytes of a page".to_owned()))?;
            if !record.gpa.is_multiple_of(PAGE) || pages.pages.insert(record.gpa / PAGE, page).is_some() {
                return Err(wrong(format!("no page begins at {:#x}, or it was there already", record.gpa)));
            }
            if pages.pages.len() > MAX_PAGES {
                return Err(wrong(format!("more than {MAX_PAGES} pages")));
            }
        }
        if pages.pages.len() != about.pages {
            let why = format!("{} pages of {}: it was cut off", pages.pages.len(), about.pages);
            return Err(EvidenceError::Line { line: pages.pages.len() + 1, why });
        }
        Ok(Evidence { about, pages })
    }
}

fn about_pages(about: &About) -> Result<Pages, EvidenceError> {
    let wrong = |why: &str| EvidenceError::Line { line: 1, why: why.to_owned() };
    if about.ram.len() > MAX_PARTS || about.frames.len() > MAX_PARTS {
        return Err(wrong("more parts of RAM or frames than any guest has"));
    }
    let mut ram = Vec::with_capacity(about.ram.len());
    let mut end = 0;
    for (start, len_bytes) in &about.ram {
        let after = start.checked_add(*len_bytes).filter(|after| *start >= end && *after > *start);
        end = after.ok_or_else(|| wrong("parts of RAM that overlap or wrap"))?;
        ram.push(GpaRange { start: Gpa(*start), len_bytes: *len_bytes });
    }
    Ok(Pages { frames: about.frames.iter().copied().collect(), ram, ..Pages::default() })
}

fn page(hex: &str) -> Option<Box<[u8; PAGE as usize]>> {
    let mut page = Box::new([0; PAGE as usize]);
    let digits = hex.as_bytes().chunks_exact(2);
    if !digits.remainder().is_empty() || digits.len() > page.len() {
        return None;
    }
    for (place, pair) in page.iter_mut().zip(digits) {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        *place = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        let about = About {
            lynceus_evidence: 1,
            written_by: "0".to_owned(),
            vm: "a \"vm\"\n".to_owned(),
            time_ms: 1,
            detector: "kernel_text".to_owned(),
            finding: serde_json::json!({ "summary": "x" }),
            banner: "Linux version 6".to_owned(),
            build_id: None,
            compared: true,
            modules: false,
            region: None,
            slide: 1 << 21,
            text: 0,
            root: 4096,
            processors: Vec::new(),
            levels: 4,
            ram: vec![(0, 8192), (1 << 32, 4096)],
            pages: 2,
            frames: vec![(7, 1)],
        };
        let mut pages = about_pages(&about).unwrap();
        pages.pages.insert(0, Box::new([0xab; 4096]));
        pages.pages.insert(1 << 20, Box::new([0; 4096]));
        Evidence { about, pages }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut file = Vec::new();
        let digest = evidence().write(&mut file).unwrap();
        assert_eq!(digest.len(), 64);
        assert_eq!(Evidence::read(&file[..]).unwrap(), evidence());
    }

    #[test]
    fn no_bit_can_be_turned_over_and_no_line_left_out() {
        let mut file = Vec::new();
        evidence().write(&mut file).unwrap();
        for at in (0..file.len()).step_by(97) {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(Evidence::read(&changed[..]).is_err(), "byte {at}");
        }
        let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
        for left_out in 0..lines.len() {
            let rest: Vec<u8> = lines
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != left_out)
                .flat_map(|(_, line)| line.to_vec())
                .collect();
            assert!(Evidence::read(&rest[..]).is_err(), "line {left_out}");
        }
        assert!(matches!(Evidence::read(&b""[..]), Err(EvidenceError::Line { line: 1, .. })));
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let endless = vec![b'['; 2 << 20];
        assert!(matches!(Evidence::read(&endless[..]), Err(EvidenceError::Line { line: 1, .. })));
    }
}
