//! Sums of carry-less products of a page's words, by the processor's vector instructions.
//!
//! *Does*: mixes the two words of each 16 bytes with a key, multiplies them as polynomials over two elements, and adds the products up:
//! CLNH (Lemire, Kaser: *Faster 64-bit universal hashing using carry-less multiplications*, Journal of Cryptographic Engineering 6,
//! 2016). For two different pages of somebody's choice the sums are equal with a probability of at most 2⁻⁶⁴ over the key. It is what
//! digests pages for scans, and here because it cannot be had without `unsafe`.
//! *Trusts*: the processor's word on what it can do. *Never*: sees guest memory itself: a page is a copy that nobody writes to.
#![allow(unsafe_code)]

/// Bytes of a page, and of a key.
pub const BYTES: usize = 4096;

/// Bytes of a page's head, of which there are sums as well.
pub const HEAD_BYTES: usize = 1024;

/// What a page's words are mixed with: random bytes. It begins where a line of the processor's cache does: most of what sums take is loads
/// of keys, and one across two lines takes twice as long.
#[repr(align(64))]
pub struct Key(pub [u8; BYTES]);

impl Default for Key {
    /// Zeros, to be filled.
    fn default() -> Key {
        Key([0; BYTES])
    }
}

/// Sums of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sums {
    /// Of its first [`HEAD_BYTES`].
    pub head: [u128; 2],
    /// Of all of it.
    pub whole: [u128; 2],
}

/// Makes such sums. There is one only where the processor can.
#[derive(Clone, Copy, Debug)]
pub struct Carryless(());

impl Carryless {
    /// None where the processor lacks the instructions: four products at a time, which servers have had since 2020.
    pub fn new() -> Option<Carryless> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("vpclmulqdq") {
            return Some(Carryless(()));
        }
        None
    }

    /// The sums for two keys, of the page's head and of all of it.
    #[inline]
    pub fn sums(self, keys: &[Key; 2], page: &[u8; BYTES]) -> Sums {
        // SAFETY: there is a value of this type only where the processor has these instructions.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            sums(keys, page)
        }
        #[cfg(not(target_arch = "x86_64"))]
        reference(keys, page)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn sums([one, other]: &[Key; 2], page: &[u8; BYTES]) -> Sums {
    use std::arch::x86_64::{
        _mm512_clmulepi64_epi128, _mm512_loadu_si512, _mm512_setzero_si512, _mm512_storeu_si512,
        _mm512_xor_si512,
    };
    // SAFETY: 64 bytes that are borrowed; the load needs no alignment.
    let load = |bytes: &[u8; 64]| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
    let mut sums = [_mm512_setzero_si512(); 2];
    let mut blocks = page.as_chunks().0.iter().zip(one.0.as_chunks().0).zip(other.0.as_chunks().0);
    let mut add = |count: usize| {
        for ((block, one), other) in blocks.by_ref().take(count) {
            let block = load(block);
            for (sum, key) in sums.iter_mut().zip([one, other]) {
                let mixed = _mm512_xor_si512(block, load(key));
                *sum = _mm512_xor_si512(*sum, _mm512_clmulepi64_epi128::<0x10>(mixed, mixed));
            }
        }
        sums
    };
    let [head, whole] = [add(HEAD_BYTES / 64), add(usize::MAX)].map(|sums| {
        sums.map(|sum| {
            let mut lanes = [0u128; 4];
            // SAFETY: 64 bytes of our own; the store needs no alignment.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sum) };
            lanes.into_iter().fold(0, |all, lane| all ^ lane)
        })
    });
    Sums { head, whole }
}

/// The same, bit by bit.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn reference(keys: &[Key; 2], page: &[u8; BYTES]) -> Sums {
    let words = |pair: &[u8; 16]| {
        let both = u128::from_le_bytes(*pair);
        (both as u64, (both >> 64) as u64)
    };
    let product = |(one, other): (u64, u64)| {
        let bits = (0..u64::BITS).filter(|bit| other >> bit & 1 == 1);
        bits.fold(0, |sum, bit| sum ^ u128::from(one) << bit)
    };
    let sums = |bytes: usize| {
        keys.each_ref().map(|key| {
            let pairs = page.as_chunks().0.iter().zip(key.0.as_chunks().0).take(bytes / 16);
            pairs.fold(0, |sum, (pair, key)| {
                let ((low, high), (low_key, high_key)) = (words(pair), words(key));
                sum ^ product((low ^ low_key, high ^ high_key))
            })
        })
    };
    Sums { head: sums(HEAD_BYTES), whole: sums(BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the processor lacks the instructions there is nothing to test, and `cargo xtask test` says so.
    #[test]
    fn carryless_products_are_those_of_polynomials() {
        let carryless = Carryless::new().expect("a processor with AVX-512 and VPCLMULQDQ");
        let bytes = |seed: usize| std::array::from_fn(|n| (((n + seed) * (n + 7 * seed)) >> 3) as u8);
        for page in [bytes(3), [0; BYTES], [0xff; BYTES]] {
            let keys = [Key(bytes(1)), Key(bytes(2))];
            assert_eq!(carryless.sums(&keys, &page), reference(&keys, &page));
        }
    }
}
