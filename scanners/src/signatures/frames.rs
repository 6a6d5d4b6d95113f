//! Digests of frames by their numbers, for as long as a scan lasts.
//!
//! *Trusts*: nothing. A guest has a say in which frames are asked for: the table is flat, so that none is slower to find than another, and
//! what it takes is bounded; what has no room is not remembered.

use super::fingerprint::PageDigest;

/// Frames that are remembered: with their places, some 28 MB.
const MAX_FRAMES: usize = 1 << 18;
/// Places of neighbouring frames that are made together, and most of these.
const CHUNK: usize = 1 << 10;
const MAX_CHUNKS: usize = 1 << 11;
/// Frames from this number on (8 TB) are not remembered.
const END: u64 = 1 << 31;

/// Digests by frame.
#[derive(Default, Debug)]
pub(super) struct Frames {
    /// For each frame one more than its place among the digests; 0 where there is none.
    places: Vec<Option<Box<[u32; CHUNK]>>>,
    chunks: usize,
    digests: Vec<PageDigest>,
}

impl Frames {
    /// Makes room for so many.
    pub(super) fn reserve(&mut self, frames: usize) {
        self.digests.reserve(frames.min(MAX_FRAMES));
    }

    pub(super) fn len(&self) -> usize {
        self.digests.len()
    }

    #[inline]
    pub(super) fn get(&self, frame: u64) -> Option<PageDigest> {
        let (chunk, at) = place(frame)?;
        let number = *self.places.get(chunk)?.as_ref()?.get(at)?;
        self.digests.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
    }

    /// Remembers a digest, where there is room and none before it.
    pub(super) fn put(&mut self, frame: u64, digest: &PageDigest) {
        let Some((chunk, at)) = place(frame).filter(|_| self.digests.len() < MAX_FRAMES) else { return };
        if self.places.len() <= chunk {
            self.places.resize_with(chunk.saturating_add(1), || None);
        }
        let Some(places) = self.places.get_mut(chunk) else { return };
        if places.is_none() {
            if self.chunks >= MAX_CHUNKS {
                return;
            }
            self.chunks = self.chunks.saturating_add(1);
        }
        let places = places.get_or_insert_with(|| Box::new([0; CHUNK]));
        if let Some(number) = places.get_mut(at).filter(|number| **number == 0) {
            self.digests.push(*digest);
            *number = u32::try_from(self.digests.len()).unwrap_or(0);
        }
    }
}

/// The chunk that a frame's place is in, and where in it.
#[inline]
fn place(frame: u64) -> Option<(usize, usize)> {
    let frame = usize::try_from(frame).ok().filter(|_| frame < END)?;
    Some((frame / CHUNK, frame % CHUNK))
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint::Digester;
    use super::*;

    #[test]
    fn frames_are_found_by_their_numbers_within_limits() {
        let mut frames = Frames::default();
        let digester = Digester::new().expect("random numbers");
        let digest = |number: u64| digester.page(&[number.to_le_bytes(); 512].concat());
        let numbers = [0, 1, 1023, 1024, 5_000_000, END - 1];
        for number in numbers {
            assert_eq!(frames.get(number), None);
            frames.put(number, &digest(number));
            frames.put(number, &digest(7));
        }
        assert!(numbers.iter().all(|number| frames.get(*number) == Some(digest(*number))));
        assert_eq!((frames.get(2), frames.len()), (None, numbers.len()));
        for number in [END, u64::MAX] {
            frames.put(number, &digest(7));
            assert_eq!(frames.get(number), None);
        }
    }

    #[test]
    fn what_has_no_room_is_not_remembered() {
        let mut frames = Frames::default();
        let zeros = Digester::new().expect("random numbers").zeros();
        (0..=MAX_FRAMES as u64).for_each(|number| frames.put(number, &zeros));
        assert_eq!((frames.len(), frames.get(MAX_FRAMES as u64)), (MAX_FRAMES, None));
        let mut frames = Frames::default();
        (0..=MAX_CHUNKS as u64).for_each(|number| frames.put(number * CHUNK as u64, &zeros));
        assert_eq!(frames.len(), MAX_CHUNKS);
    }
}
