//! Digests of content that a guest cannot forge, at the speed of memory.
//!
//! Each page of 4 KiB is hashed by NH with words of 64 bits, twice with a shifted key (Black, Halevi, Krawczyk, Krovetz, Rogaway:
//! *UMAC*, CRYPTO 1999): for any two different pages of the guest's choice the 256 bits are equal with a probability of at most
//! 2⁻¹²⁸ over the key. Those of a region, with where its runs lie, are digested by BLAKE3 with a second key to 128 bits.
//!
//! *Trusts*: the host's random numbers. *Never*: shows a digest or a key to anybody: that is what NH's promise rests on.

use super::layout::Layout;
use std::io::Read;

const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / 8;

/// What stands for a region's content, its layout, and how it is scanned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Fingerprint(u128);

/// The keys of one process, made at random.
pub(super) struct Digester {
    page_key: Vec<u64>,
    region_key: [u8; blake3::KEY_LEN],
}

impl std::fmt::Debug for Digester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digester")
    }
}

impl Digester {
    pub(super) fn new() -> std::io::Result<Digester> {
        let mut seed = [0; blake3::KEY_LEN];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
        Ok(Digester::of_seed(&seed))
    }

    fn of_seed(seed: &[u8; blake3::KEY_LEN]) -> Digester {
        let mut stream = blake3::Hasher::new_keyed(seed).update(b"lynceus scan cache").finalize_xof();
        let mut region_key = [0; blake3::KEY_LEN];
        stream.fill(&mut region_key);
        let mut bytes = [0; 8];
        let page_key = std::iter::repeat_with(|| {
            stream.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        });
        Digester { page_key: page_key.take(PAGE_WORDS + 2).collect(), region_key }
    }

    pub(super) fn begin(&self) -> Digest<'_> {
        Digest { digester: self, pages: Vec::new() }
    }

    /// Makes a fingerprint that holds for certain circumstances only.
    pub(super) fn within(&self, content: Fingerprint, circumstances: &[&[u8]]) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_keyed(&self.region_key);
        hasher.update(b"within").update(&content.0.to_le_bytes());
        for part in circumstances {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        short(&hasher)
    }

    /// NH over a page of [`PAGE_BYTES`], with the key and with the key shifted by two words.
    fn page(&self, page: &[u8]) -> [u128; 2] {
        let (mut one, mut two) = (0u128, 0u128);
        let shifted = self.page_key.iter().skip(2);
        let mut keys = self.page_key.iter().zip(shifted);
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        for pair in page.chunks_exact(16) {
            let (first, second) = pair.split_at(8);
            let (first, second) = (word(first), word(second));
            let (Some((a, c)), Some((b, d))) = (keys.next(), keys.next()) else { break };
            let product = |k: u64, l: u64| {
                u128::from(first.wrapping_add(k)).wrapping_mul(u128::from(second.wrapping_add(l)))
            };
            one = one.wrapping_add(product(*a, *b));
            two = two.wrapping_add(product(*c, *d));
        }
        [one, two]
    }
}

/// A digest that is being made.
pub(super) struct Digest<'d> {
    digester: &'d Digester,
    pages: Vec<u8>,
}

impl Digest<'_> {
    /// Digests whole pages, or the end.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let mut pages = bytes.chunks_exact(PAGE_BYTES);
        for page in pages.by_ref() {
            self.page(page);
        }
        // The end: its length is told by the runs.
        if !pages.remainder().is_empty() {
            let mut page = [0; PAGE_BYTES];
            let rest = pages.remainder();
            page.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            self.page(&page);
        }
    }

    fn page(&mut self, page: &[u8]) {
        for half in self.digester.page(page) {
            self.pages.extend_from_slice(&half.to_le_bytes());
        }
    }

    pub(super) fn end(self, layout: &Layout, runs: impl Iterator<Item = (u64, u64)>) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_keyed(&self.digester.region_key);
        hasher.update(b"region").update(&[u8::from(layout.is_file)]);
        for number in [layout.region_bytes(), layout.own_bytes] {
            hasher.update(&number.to_le_bytes());
        }
        for (offset, len) in runs {
            hasher.update(&offset.to_le_bytes()).update(&len.to_le_bytes());
        }
        hasher.update(&self.pages).update(&(self.pages.len() as u64).to_le_bytes());
        short(&hasher)
    }
}

fn short(hasher: &blake3::Hasher) -> Fingerprint {
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    Fingerprint(u128::from_le_bytes(bytes))
}
