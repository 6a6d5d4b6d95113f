//! A guest's answer to a line: over its serial port, or where it lies in its RAM (`lab/guest/src/shared.rs`).

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const PAGE_BYTES: usize = 4096;
/// Where QEMU's q35 has RAM that does not fit below the PCI hole.
const ABOVE_HOLE: u64 = 1 << 32;
/// How much lies below it then.
const BELOW_HOLE_BYTES: u64 = 2 << 30;

/// Reads one, and whether it is what was asked for or what went wrong.
pub(crate) fn read(port: &mut BufReader<impl Read + Write>, ram: &Path) -> Result<(bool, Vec<u8>)> {
    let mut head = String::new();
    port.read_line(&mut head)?;
    let words: Vec<&str> = head.split_whitespace().collect();
    let [word, len, sum @ ..] = &words[..] else { bail!("the guest said {head:?}") };
    let len: usize = len.parse().with_context(|| format!("the guest said {head:?}"))?;
    let mut bytes = vec![0; len.next_multiple_of(PAGE_BYTES)];
    let [sum] = sum else {
        bytes.truncate(len);
        port.read_exact(&mut bytes)?;
        return Ok((*word == "OK", bytes));
    };
    let mut frames = vec![0; bytes.len() / PAGE_BYTES * 8];
    port.read_exact(&mut frames)?;
    let file = File::open(ram)?;
    for (page, frame) in bytes.chunks_mut(PAGE_BYTES).zip(frames.as_chunks().0) {
        file.read_exact_at(page, offset(u64::from_le_bytes(*frame)))?;
    }
    port.get_mut().write_all(b"\n")?;
    let words = bytes.as_chunks().0.iter();
    let ours = words.fold(0, |sum: u64, word| sum.rotate_left(1).wrapping_add(u64::from_le_bytes(*word)));
    ensure!(u64::from_str_radix(sum, 16)? == ours, "the answer was moved in the guest's RAM");
    bytes.truncate(len);
    Ok((true, bytes))
}

/// Where a frame is in the file behind the RAM.
fn offset(frame: u64) -> u64 {
    let address = frame * PAGE_BYTES as u64;
    if address < ABOVE_HOLE { address } else { address - ABOVE_HOLE + BELOW_HOLE_BYTES }
}
