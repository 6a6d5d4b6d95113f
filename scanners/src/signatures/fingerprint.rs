//! Digests of content that a guest cannot forge, at the speed of memory.
//!
//! Each page of 4 KiB is hashed by NH with words of 64 bits, twice with a shifted key (Black, Halevi, Krawczyk, Krovetz, Rogaway:
//! *UMAC*, CRYPTO 1999), or, where the processor has the instructions, by CLNH with two keys ([`carryless`]), which takes a
//! quarter of the time: for any two different pages of the guest's choice the 256 bits are equal with a probability of at most
//! 2⁻¹²⁸ over the key. The same holds for the first bytes of a page, whose sums are kept beside those of all of it. Lists of such
//! digests, 128 of them at a time, are hashed by NH with a second key, which adds as much once more; what comes of that, with where
//! a region's runs lie, is digested by BLAKE3 with a third key to 128 bits. So are the rules and names that a verdict holds for, by
//! themselves, and the two are added. What a window's matches depend on has always as many words: it is hashed by NH with a key of its
//! own, and all 256 bits of that are kept.
//!
//! *Trusts*: the host's random numbers. *Never*: shows a digest or a key to anybody: that is what NH's promise rests on.

use super::layout::Layout;
use super::table::Digest;
use lynceus_introspect::backend::carryless::{self, Carryless, Sums};

const PAGE_BYTES: usize = carryless::BYTES;
/// Bytes at a page's beginning that matches on the page before can depend on.
pub(super) const HEAD_BYTES: usize = carryless::HEAD_BYTES;
/// Bytes at a page's end that matches on the next page can depend on.
pub(super) const TAIL_BYTES: usize = 16;
const PAGE_PAIRS: usize = PAGE_BYTES / 16;

/// What stands for a region's content, its layout, and how it is scanned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Fingerprint([u64; 2]);

/// What stands for a window of a region and what its matches depend on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct WindowKey([u64; 4]);

/// What a window's matches depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'p> {
    /// The digest of its page.
    pub(super) page: &'p PageDigest,
    /// Of the page before it, where there is one: its tail counts.
    pub(super) before: Option<&'p PageDigest>,
    /// Of the page behind it, where there is one: its head counts.
    pub(super) behind: Option<&'p PageDigest>,
    pub(super) len_bytes: u64,
    /// How many bytes of the next page's head are there.
    pub(super) behind_bytes: u64,
    /// Of the rules.
    pub(super) rules: &'p [u8; blake3::OUT_LEN],
}

/// Words of 16 bytes: which pages there are and the two lengths, the tail before, the page, the head behind, rules.
const WINDOW_PAIRS: usize = 2 + 1 + 2 + 2 + 2;

/// What most regions are digested from fits in.
const MESSAGE_BYTES: usize = 256;

/// What multiplies, and its keys.
type Keyed = (Carryless, Box<[carryless::Key; 2]>);

/// What stands for a page's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PageDigest {
    sums: Sums,
    /// Its last bytes, as they are.
    tail: u128,
}

impl Digest for Fingerprint {
    fn mark(&self) -> u64 {
        self.0[0]
    }
}

impl Digest for WindowKey {
    fn mark(&self) -> u64 {
        self.0[0] ^ self.0[1]
    }
}

impl Fingerprint {
    /// The same for these circumstances only. Both are what a keyed hash says of different things: for any other pair the sum is the
    /// same with a probability of 2⁻¹²⁸.
    pub(super) fn within(self, circumstances: Fingerprint) -> Fingerprint {
        let ([one, two], [other_one, other_two]) = (self.0, circumstances.0);
        Fingerprint([one ^ other_one, two ^ other_two])
    }
}

impl PageDigest {
    /// The page's last bytes.
    pub(super) fn tail(&self) -> [u8; TAIL_BYTES] {
        self.tail.to_le_bytes()
    }
}

/// The keys of one process, made at random.
pub(super) struct Digester {
    page_key: Vec<[u64; 2]>,
    carryless: Option<Keyed>,
    list_key: Vec<[u64; 2]>,
    window_key: Vec<[u64; 2]>,
    /// A quarter of a guest's pages and more are zero: theirs is known.
    zero_page: PageDigest,
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
        getrandom::fill(&mut seed)?;
        Ok(Digester::of_seed(&seed, Carryless::new()))
    }

    fn of_seed(seed: &[u8; blake3::KEY_LEN], carryless: Option<Carryless>) -> Digester {
        let mut stream = blake3::Hasher::new_keyed(seed).update(b"lynceus scan cache").finalize_xof();
        let mut region_key = [0; blake3::KEY_LEN];
        stream.fill(&mut region_key);
        let mut bytes = [0; 8];
        let mut word = || {
            stream.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        let mut key = || -> Vec<[u64; 2]> {
            std::iter::repeat_with(|| [word(), word()]).take(PAGE_PAIRS.saturating_add(1)).collect()
        };
        let (page_key, list_key, window_key) = (key(), key(), key());
        let carryless = carryless.map(|carryless| {
            let mut keys: Box<[carryless::Key; 2]> = Box::default();
            keys.iter_mut().for_each(|key| stream.fill(&mut key.0));
            (carryless, keys)
        });
        let sums = hash_page(&page_key, carryless.as_ref(), &[0; PAGE_BYTES]);
        let zero_page = PageDigest { sums, tail: 0 };
        Digester { page_key, carryless, list_key, window_key, zero_page, region_key }
    }

    /// Begins a digest, in memory of an earlier one.
    pub(super) fn begin(&self, mut pages: Vec<PageDigest>) -> Listing<'_> {
        pages.clear();
        Listing { digester: self, pages }
    }

    /// The digest of a page of zeros.
    pub(super) fn zeros(&self) -> PageDigest {
        self.zero_page
    }

    /// Digests what a window's matches depend on.
    pub(super) fn window(&self, what: Surroundings<'_>) -> WindowKey {
        let pair = |low: u64, high: u64| u128::from(low) | u128::from(high) << 64;
        let tail = what.before.map_or(0, |page| page.tail);
        let [whole, other_whole] = what.page.sums.whole;
        let [head, other_head] = what.behind.map_or([0; 2], |page| page.sums.head);
        let [rules, other_rules] = [what.rules.first_chunk(), what.rules.last_chunk()]
            .map(|half| half.map_or(0, |half| u128::from_le_bytes(*half)));
        let pairs: [u128; WINDOW_PAIRS] = [
            pair(what.before.is_some().into(), what.behind.is_some().into()),
            pair(what.len_bytes, what.behind_bytes),
            tail,
            whole,
            other_whole,
            head,
            other_head,
            rules,
            other_rules,
        ];
        let [one, other] = nh(&self.window_key, pairs.into_iter());
        WindowKey([one as u64, (one >> 64) as u64, other as u64, (other >> 64) as u64])
    }

    /// What stands for circumstances, such as rules: see [`Fingerprint::within`].
    pub(super) fn circumstances(&self, parts: &[&[u8]]) -> Fingerprint {
        let mut message = b"within".to_vec();
        for part in parts {
            message.extend_from_slice(&(part.len() as u64).to_le_bytes());
            message.extend_from_slice(part);
        }
        self.short(&message)
    }

    /// The fingerprint of a region, by where its runs lie and the digests of its pages.
    pub(super) fn region(
        &self,
        layout: &Layout,
        runs: impl Iterator<Item = (u64, u64)>,
        pages: &[PageDigest],
    ) -> Fingerprint {
        let mut message = Vec::with_capacity(MESSAGE_BYTES);
        message.extend_from_slice(b"region");
        message.push(layout.is_file.into());
        let mut add = |number: u64| message.extend_from_slice(&number.to_le_bytes());
        [layout.region_bytes(), layout.own_bytes].into_iter().for_each(&mut add);
        runs.flat_map(|(offset, len)| [offset, len]).for_each(&mut add);
        add(pages.len() as u64);
        for list in pages.chunks(PAGE_PAIRS / 2) {
            for half in nh(&self.list_key, list.iter().flat_map(|page| page.sums.whole)) {
                message.extend_from_slice(&half.to_le_bytes());
            }
        }
        self.short(&message)
    }

    fn short(&self, message: &[u8]) -> Fingerprint {
        let digest = blake3::keyed_hash(&self.region_key, message);
        let (words, _) = digest.as_bytes().as_chunks::<8>();
        let word = |index: usize| words.get(index).map_or(0, |word| u64::from_le_bytes(*word));
        Fingerprint([word(0), word(1)])
    }

    /// The digest of a page of [`PAGE_BYTES`]; of fewer bytes none that anything else has.
    pub(super) fn page(&self, page: &[u8]) -> PageDigest {
        if is_zero(page) {
            return self.zero_page;
        }
        let sums = hash_page(&self.page_key, self.carryless.as_ref(), page);
        PageDigest { sums, tail: page.last_chunk().map_or(0, |tail| u128::from_le_bytes(*tail)) }
    }

    /// Whether these are the first [`HEAD_BYTES`] of a page with this digest.
    pub(super) fn is_head_of(&self, head: &[u8], page: &PageDigest) -> bool {
        let mut whole = [0; PAGE_BYTES];
        whole.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        self.page(&whole).sums.head == page.sums.head
    }
}

/// A page by CLNH, or by NH with the key and with the key shifted by two words.
fn hash_page(key: &[[u64; 2]], carryless: Option<&Keyed>, page: &[u8]) -> Sums {
    if let (Some((carryless, keys)), Some(page)) = (carryless, page.as_array()) {
        return carryless.sums(keys, page);
    }
    let sums = |key: &[[u64; 2]], part: &[u8]| {
        nh(key, part.as_chunks::<16>().0.iter().map(|pair| u128::from_le_bytes(*pair)))
    };
    let (head, rest) = page.split_at_checked(HEAD_BYTES).unwrap_or((page, &[]));
    let [one, other] = sums(key, head);
    let [more, other_more] = sums(key.get(HEAD_BYTES / 16..).unwrap_or_default(), rest);
    Sums { head: [one, other], whole: [one.wrapping_add(more), other.wrapping_add(other_more)] }
}

/// NH with a key, and with the key shifted by two words.
fn nh(key: &[[u64; 2]], pairs: impl Iterator<Item = u128>) -> [u128; 2] {
    let (mut one, mut two) = (0u128, 0u128);
    let shifted = key.get(1..).unwrap_or_default();
    for ((both, key), next_key) in pairs.zip(key).zip(shifted) {
        let (low, high) = (both as u64, (both >> 64) as u64);
        let product =
            |[a, b]: [u64; 2]| u128::from(low.wrapping_add(a)).wrapping_mul(u128::from(high.wrapping_add(b)));
        one = one.wrapping_add(product(*key));
        two = two.wrapping_add(product(*next_key));
    }
    [one, two]
}

/// A digest that is being made.
pub(super) struct Listing<'d> {
    digester: &'d Digester,
    pages: Vec<PageDigest>,
}

impl Listing<'_> {
    /// Digests whole pages, or the end.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let mut pages = bytes.chunks_exact(PAGE_BYTES);
        for page in pages.by_ref() {
            self.pages.push(self.digester.page(page));
        }
        // The end: its length is told by the runs.
        if !pages.remainder().is_empty() {
            let mut page = [0; PAGE_BYTES];
            let rest = pages.remainder();
            page.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            self.pages.push(self.digester.page(&page));
        }
    }

    /// The region's fingerprint, and the digests of its pages.
    pub(super) fn end(
        self,
        layout: &Layout,
        runs: impl Iterator<Item = (u64, u64)>,
    ) -> (Fingerprint, Vec<PageDigest>) {
        (self.digester.region(layout, runs, &self.pages), self.pages)
    }
}

/// Whether all bytes are zero, some of them at a time.
fn is_zero(page: &[u8]) -> bool {
    let (blocks, rest) = page.as_chunks::<256>();
    let any = |block: &[u8]| block.iter().fold(0, |any, byte| any | byte);
    blocks.iter().all(|block| any(block) == 0) && any(rest) == 0
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests;
