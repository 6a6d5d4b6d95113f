//! LZO1X decompression into a buffer of known size.
//!
//! Source: Linux `Documentation/staging/lzo.rst` (stream format). *Trusts*: nothing. Every copy is bounded by
//! the output, which is at most one page, so a bomb cannot grow.

/// Decompresses `src`; `None` unless it is well formed and fills `out` exactly.
pub(crate) fn decompress(src: &[u8], out: &mut [u8]) -> Option<()> {
    let mut lzo = Lzo { src: src.iter(), out, at: 0 };
    // How many literals followed the last instruction: 0 to 3, or 4 for a run.
    let mut state = 0;
    if let Some(first @ 18..) = src.first().copied() {
        lzo.byte()?;
        let run = usize::from(first).checked_sub(17)?;
        lzo.literals(run)?;
        state = run.min(4);
    }
    loop {
        match lzo.step(state)? {
            Some(next) => state = next,
            None => return (lzo.at == lzo.out.len() && lzo.src.as_slice().is_empty()).then_some(()),
        }
    }
}

struct Lzo<'a> {
    src: std::slice::Iter<'a, u8>,
    out: &'a mut [u8],
    at: usize,
}

impl Lzo<'_> {
    /// One instruction; the new state, or an inner `None` at the end mark.
    fn step(&mut self, state: usize) -> Option<Option<usize>> {
        let op = usize::from(self.byte()?);
        let (distance, len, tail) = match op {
            0..16 if state == 0 => {
                let run = self.length(op, 15)?.checked_add(3)?;
                self.literals(run)?;
                return Some(Some(4));
            }
            0..16 => {
                let far = (usize::from(self.byte()?) << 2) | (op >> 2);
                if state == 4 {
                    (far.checked_add(2049)?, 3, op & 3)
                } else {
                    (far.checked_add(1)?, 2, op & 3)
                }
            }
            16..32 => {
                let len = self.length(op & 7, 7)?.checked_add(2)?;
                let word = self.word()?;
                let far = ((op & 8) << 11) | (word >> 2);
                if far == 0 {
                    return Some(None);
                }
                (far.checked_add(16384)?, len, word & 3)
            }
            32..64 => {
                let len = self.length(op & 31, 31)?.checked_add(2)?;
                let word = self.word()?;
                ((word >> 2).checked_add(1)?, len, word & 3)
            }
            _ => {
                let len =
                    if op < 128 { (op >> 5 & 1).checked_add(3)? } else { (op >> 5 & 3).checked_add(5)? };
                let far = (usize::from(self.byte()?) << 3) | (op >> 2 & 7);
                (far.checked_add(1)?, len, op & 3)
            }
        };
        self.copy(distance, len)?;
        self.literals(tail)?;
        Some(Some(tail))
    }

    fn byte(&mut self) -> Option<u8> {
        self.src.next().copied()
    }

    fn word(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes([self.byte()?, self.byte()?])))
    }

    /// A length: `short` itself, or where that is 0 `base` plus a run of zero bytes worth 255 each and a last
    /// byte.
    fn length(&mut self, short: usize, base: usize) -> Option<usize> {
        if short != 0 {
            return Some(short);
        }
        let mut len = base;
        loop {
            match self.byte()? {
                0 => len = len.checked_add(255)?,
                last => return len.checked_add(usize::from(last)),
            }
        }
    }

    fn literals(&mut self, len: usize) -> Option<()> {
        let (from, rest) = self.src.as_slice().split_at_checked(len)?;
        let end = self.at.checked_add(len)?;
        self.out.get_mut(self.at..end)?.copy_from_slice(from);
        (self.src, self.at) = (rest.iter(), end);
        Some(())
    }

    /// Copies from `distance` bytes back; the two may overlap, and then the bytes repeat.
    fn copy(&mut self, distance: usize, len: usize) -> Option<()> {
        let from = self.at.checked_sub(distance)?;
        let end = self.at.checked_add(len).filter(|end| *end <= self.out.len())?;
        if distance >= len {
            self.out.copy_within(from..from.checked_add(len)?, self.at);
        } else {
            for (source, target) in (from..).zip(self.at..end) {
                *self.out.get_mut(target)? = self.out.get(source).copied()?;
            }
        }
        self.at = end;
        Some(())
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes with repeats near and far, long and short.
    fn repetitive() -> impl Strategy<Value = Vec<u8>> {
        let piece =
            (prop::collection::vec(any::<u8>(), 1..80), 1..60usize).prop_map(|(bytes, n)| bytes.repeat(n));
        prop::collection::vec(piece, 1..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn undoes_a_compressor(bytes in repetitive()) {
            let packed = lzokay_native::compress(&bytes).unwrap();
            let mut out = vec![0xee; bytes.len()];
            prop_assert_eq!(decompress(&packed, &mut out), Some(()));
            prop_assert_eq!(&out, &bytes);
            // Neither a byte more nor one less.
            prop_assert_eq!(decompress(&packed, &mut vec![0; bytes.len() + 1]), None);
            if let Some(less) = bytes.len().checked_sub(1) {
                prop_assert_eq!(decompress(&packed, &mut vec![0; less]), None);
            }
            prop_assert_eq!(decompress(&packed[..packed.len() - 1], &mut out), None);
        }

        #[test]
        fn survives_anything(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decompress(&bytes, &mut [0; 300]);
        }
    }
}
