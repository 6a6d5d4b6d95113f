//! Answers that the host reads where they lie in the guest's RAM: an emulated serial port takes a second for a megabyte.
//!
//! Over the port goes `RAM <len> <sum>\n`, and then for each page of the answer the number of its frame, eight bytes in little endian. The
//! answer stays where it is until the host has sent a line.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::sys;

const PAGE_BYTES: usize = 4096;
/// Shorter ones are said faster than found.
const FROM_BYTES: usize = 1 << 16;

#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

/// Whether the host can read this guest's RAM (`lynceus.answers=ram` on the kernel's command line) and should for that much.
pub(crate) fn is_for(answer: &[u8]) -> bool {
    answer.len() >= FROM_BYTES && sys::kernel_option("lynceus.answers").as_deref() == Some("ram")
}

/// An answer in pages of its own.
pub(crate) struct Shared(Vec<Page>);

impl Shared {
    pub(crate) fn new(answer: &[u8]) -> Shared {
        let page = |part: &[u8]| {
            let mut page = Page([0; PAGE_BYTES]);
            page.0[..part.len()].copy_from_slice(part);
            page
        };
        Shared(answer.chunks(PAGE_BYTES).map(page).collect())
    }

    /// Says where they are (Documentation/admin-guide/mm/pagemap.rst).
    pub(crate) fn tell(&self, len: usize, port: &mut File) -> io::Result<()> {
        let first = self.0.as_ptr() as u64 / PAGE_BYTES as u64;
        let mut entries = vec![0; self.0.len() * 8];
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, first * 8)?;
        let frames = entries.as_chunks().0.iter().flat_map(|entry| frame(*entry).unwrap_or(0).to_le_bytes());
        let mut said = format!("RAM {len} {:x}\n", self.sum()).into_bytes();
        said.extend(frames);
        port.write_all(&said)
    }

    /// Of all pages, zeroes at the end with them: a frame that the kernel moved meanwhile is noticed.
    fn sum(&self) -> u64 {
        let words = self.0.iter().flat_map(|page| page.0.as_chunks().0);
        words.fold(0, |sum: u64, word| sum.rotate_left(1).wrapping_add(u64::from_le_bytes(*word)))
    }
}

/// The frame of a page that is in memory.
pub(crate) fn frame(entry: [u8; 8]) -> Option<u64> {
    (entry[7] & 0x80 != 0).then(|| u64::from_ne_bytes(entry) & ((1 << 55) - 1))
}
