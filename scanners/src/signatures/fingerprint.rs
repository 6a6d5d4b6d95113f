//! Digests of content that a guest cannot forge, at the speed of memory.
//!
//! Each page of 4 KiB is hashed by NH with words of 64 bits, twice with a shifted key (Black, Halevi, Krawczyk, Krovetz, Rogaway:
//! *UMAC*, CRYPTO 1999), or, where the processor has the instructions, by CLNH with two keys ([`carryless`]), which takes a
//! quarter of the time: for any two different pages of the guest's choice the 256 bits are equal with a probability of at most
//! 2⁻¹²⁸ over the key. Lists of such digests, 128 of them at a time, are hashed by NH with a second key, which adds as much
//! once more; what comes of that, with where a region's runs lie, is digested by BLAKE3 with a third key to 128 bits. What a window's
//! matches depend on has always as many words: it is hashed by NH with a key of its own, and all 256 bits of that are kept.
//!
//! *Trusts*: the host's random numbers. *Never*: shows a digest or a key to anybody: that is what NH's promise rests on.

use super::layout::Layout;
use lynceus_introspect::backend::carryless::{self, Carryless};

const PAGE_BYTES: usize = carryless::BYTES;
const PAGE_PAIRS: usize = PAGE_BYTES / 16;

/// What stands for a region's content, its layout, and how it is scanned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Fingerprint(u128);

/// What stands for a window of a region and what its matches depend on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct WindowKey([u128; 2]);

/// What a window's matches depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'p> {
    /// Digests of its pages and of the page behind them, where there is one.
    pub(super) pages: &'p [PageDigest],
    /// The bytes before it, [`MAX_BEFORE_BYTES`] at most.
    pub(super) before: &'p [u8],
    pub(super) len_bytes: u64,
    /// How many bytes of the page behind it are there.
    pub(super) behind_bytes: u64,
    /// Of the rules.
    pub(super) rules: &'p [u8; blake3::OUT_LEN],
}

/// Most pages of a window, with the one behind it, and most bytes before it.
pub(super) const MAX_WINDOW_PAGES: usize = 3;
pub(super) const MAX_BEFORE_BYTES: usize = 16;
/// Words of 16 bytes: pages, bytes before, the numbers of both, the two lengths, rules.
const WINDOW_PAIRS: usize = 2 * MAX_WINDOW_PAGES + 1 + 1 + 1 + 2;

/// What multiplies, and its keys.
type Keyed = (Carryless, Box<[carryless::Key; 2]>);

/// What stands for a page's content.
pub(super) type PageDigest = [u128; 2];

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
            let mut keys = Box::new([[0; PAGE_BYTES]; 2]);
            keys.iter_mut().for_each(|key| stream.fill(key));
            (carryless, keys)
        });
        let zero_page = hash_page(&page_key, carryless.as_ref(), &[0; PAGE_BYTES]);
        Digester { page_key, carryless, list_key, window_key, zero_page, region_key }
    }

    /// Begins a digest, in memory of an earlier one.
    pub(super) fn begin(&self, mut pages: Vec<PageDigest>) -> Digest<'_> {
        pages.clear();
        Digest { digester: self, pages }
    }

    /// The digest of a page of zeros.
    pub(super) fn zeros(&self) -> PageDigest {
        self.zero_page
    }

    /// Digests what a window's matches depend on; none of what is larger than a window.
    pub(super) fn window(&self, what: Surroundings<'_>) -> Option<WindowKey> {
        if what.pages.len() > MAX_WINDOW_PAGES || what.before.len() > MAX_BEFORE_BYTES {
            return None;
        }
        let pair = |low: u64, high: u64| u128::from(low) | u128::from(high) << 64;
        let mut before = [0; MAX_BEFORE_BYTES];
        before.iter_mut().zip(what.before).for_each(|(to, from)| *to = *from);
        let heading = [
            pair(what.pages.len() as u64, what.before.len() as u64),
            pair(what.len_bytes, what.behind_bytes),
            u128::from_le_bytes(before),
        ];
        let rules = what.rules.as_chunks().0.iter().map(|half| u128::from_le_bytes(*half));
        let mut pairs = [0; WINDOW_PAIRS];
        let words = heading.into_iter().chain(rules).chain(what.pages.iter().flatten().copied());
        pairs.iter_mut().zip(words).for_each(|(to, from)| *to = from);
        Some(WindowKey(nh(&self.window_key, pairs.into_iter())))
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

    /// The digest of a page of [`PAGE_BYTES`]; of fewer bytes none that anything else has.
    pub(super) fn page(&self, page: &[u8]) -> PageDigest {
        if is_zero(page) { self.zero_page } else { hash_page(&self.page_key, self.carryless.as_ref(), page) }
    }

    /// Takes in how many pages there are, and a hash of their digests.
    fn update_pages(&self, hasher: &mut blake3::Hasher, pages: &[PageDigest]) {
        hasher.update(&(pages.len() as u64).to_le_bytes());
        for list in pages.chunks(PAGE_PAIRS / 2) {
            for half in nh(&self.list_key, list.iter().flatten().copied()) {
                hasher.update(&half.to_le_bytes());
            }
        }
    }
}

/// A page by CLNH, or by NH with the key and with the key shifted by two words.
fn hash_page(key: &[[u64; 2]], carryless: Option<&Keyed>, page: &[u8]) -> PageDigest {
    match (carryless, page.as_array()) {
        (Some((carryless, keys)), Some(page)) => carryless.sums(keys, page),
        _ => nh(key, page.as_chunks::<16>().0.iter().map(|pair| u128::from_le_bytes(*pair))),
    }
}

/// NH with a key, and with the key shifted by two words.
fn nh(key: &[[u64; 2]], pairs: impl Iterator<Item = u128>) -> PageDigest {
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
pub(super) struct Digest<'d> {
    digester: &'d Digester,
    pages: Vec<PageDigest>,
}

impl Digest<'_> {
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

    /// Takes in the digest of a whole page.
    pub(super) fn push(&mut self, page: PageDigest) {
        self.pages.push(page);
    }

    /// The region's fingerprint, and the digests of its pages.
    pub(super) fn end(
        self,
        layout: &Layout,
        runs: impl Iterator<Item = (u64, u64)>,
    ) -> (Fingerprint, Vec<PageDigest>) {
        let mut hasher = blake3::Hasher::new_keyed(&self.digester.region_key);
        hasher.update(b"region").update(&[u8::from(layout.is_file)]);
        for number in [layout.region_bytes(), layout.own_bytes] {
            hasher.update(&number.to_le_bytes());
        }
        for (offset, len) in runs {
            hasher.update(&offset.to_le_bytes()).update(&len.to_le_bytes());
        }
        self.digester.update_pages(&mut hasher, &self.pages);
        (short(&hasher), self.pages)
    }
}

/// Whether all bytes are zero, some of them at a time.
fn is_zero(page: &[u8]) -> bool {
    let (blocks, rest) = page.as_chunks::<256>();
    let any = |block: &[u8]| block.iter().fold(0, |any, byte| any | byte);
    blocks.iter().all(|block| any(block) == 0) && any(rest) == 0
}

fn short(hasher: &blake3::Hasher) -> Fingerprint {
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    Fingerprint(u128::from_le_bytes(bytes))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn digest(digester: &Digester, bytes: &[u8]) -> Vec<PageDigest> {
        let mut digest = digester.begin(Vec::new());
        digest.update(bytes);
        digest.pages
    }

    /// NH as it is defined, word by word.
    fn reference(digester: &Digester, page: &[u8], shift: usize) -> u128 {
        let key: Vec<u64> = digester.page_key.iter().flatten().copied().collect();
        let words: Vec<u64> =
            page.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect();
        let sum = |index: usize| {
            let word = |index: usize| u128::from(words[index].wrapping_add(key[index + shift]));
            word(2 * index).wrapping_mul(word(2 * index + 1))
        };
        (0..words.len() / 2).map(sum).fold(0, u128::wrapping_add)
    }

    #[test]
    fn pages_are_hashed_as_nh_is_defined() {
        let digester = Digester::of_seed(&[7; 32], None);
        let page: Vec<u8> = (0..PAGE_BYTES).map(|n| ((n * n) >> 3) as u8).collect();
        for page in [page, vec![0; PAGE_BYTES], vec![0xff; PAGE_BYTES]] {
            let expected = [0, 2].map(|shift| reference(&digester, &page, shift));
            assert_eq!(digest(&digester, &page), [expected]);
        }
    }

    #[test]
    fn every_bit_every_key_and_every_circumstance_counts() {
        counts(None);
        counts(Carryless::new());
    }

    fn counts(carryless: Option<Carryless>) {
        let (one, other) = (Digester::of_seed(&[1; 32], carryless), Digester::of_seed(&[2; 32], carryless));
        let page = vec![0x5a; PAGE_BYTES];
        let known = digest(&one, &page);
        assert_ne!(known, digest(&other, &page));
        assert_eq!(
            digest(&one, &[0; PAGE_BYTES]),
            [hash_page(&one.page_key, one.carryless.as_ref(), &[0; PAGE_BYTES])]
        );
        for bit in (0..PAGE_BYTES * 8).step_by(37) {
            let mut changed = page.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let halves = (digest(&one, &changed)[0], known[0]);
            assert!(halves.0[0] != halves.1[0] && halves.0[1] != halves.1[1], "bit {bit}");
        }
        let layout = Layout { end: 8192, own_bytes: 8192, ..Layout::default() };
        let of = |layout: &Layout, runs: &[(u64, u64)]| {
            let mut digest = one.begin(Vec::new());
            digest.update(&page);
            digest.end(layout, runs.iter().copied()).0
        };
        let first = of(&layout, &[(0, 4096)]);
        assert_ne!(first, of(&layout, &[(4096, 4096)]), "where it lies");
        assert_ne!(first, of(&Layout { is_file: true, ..layout.clone() }, &[(0, 4096)]));
        assert_ne!(first, of(&Layout { own_bytes: 4096, ..layout.clone() }, &[(0, 4096)]));
        assert_eq!(first, of(&Layout { start: 8192, end: 16384, ..layout.clone() }, &[(0, 4096)]));
        assert_ne!(one.within(first, &[b"ab", b"c"]), one.within(first, &[b"a", b"bc"]));
    }

    /// NH promises nothing for what differs in length alone: everything that a window depends on has its place.
    #[test]
    fn everything_that_a_window_depends_on_counts() {
        let digester = Digester::of_seed(&[3; 32], None);
        let (pages, rules, others) = ([[1, 2], [3, 4], [5, 6]], [7; 32], [8; 32]);
        let one = Surroundings {
            pages: &pages,
            before: &[9; 16],
            len_bytes: 8192,
            behind_bytes: 4096,
            rules: &rules,
        };
        let changed = [[1, 2], [3, 4], [5, 7]];
        let all = [
            one,
            Surroundings { pages: &changed, ..one },
            Surroundings { pages: &pages[..2], ..one },
            Surroundings { pages: &[[1, 2], [3, 4], [0, 0]], ..one },
            Surroundings { pages: &pages[..1], ..one },
            Surroundings { before: &[9; 15], ..one },
            Surroundings { before: &[0; 16], ..one },
            Surroundings { before: &[], ..one },
            Surroundings { len_bytes: 4096, ..one },
            Surroundings { behind_bytes: 0, ..one },
            Surroundings { rules: &others, ..one },
        ];
        let keys: std::collections::HashSet<_> =
            all.iter().map(|what| digester.window(*what).expect("a key")).collect();
        assert_eq!(keys.len(), all.len());
        assert_eq!(digester.window(one), digester.window(one));
        let other = Digester::of_seed(&[4; 32], None);
        assert_ne!(digester.window(one), other.window(one));
        assert_eq!(digester.window(Surroundings { before: &[9; 17], ..one }), None);
        assert_eq!(digester.window(Surroundings { pages: &[[1, 2]; 4], ..one }), None);
    }

    #[test]
    fn keys_are_made_anew() {
        let [one, other] = [(); 2].map(|()| Digester::new().expect("random numbers"));
        assert_ne!(one.page_key, other.page_key);
        assert_eq!(format!("{one:?}"), "Digester", "keys are not printed");
    }
}
