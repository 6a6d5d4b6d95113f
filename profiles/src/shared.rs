//! Bytes that do not change while they are held, and tables in them: what many processes can have in memory once.
//!
//! *Does*: lends parts of one block, which may be this process's own or a file that is mapped and cannot be written to any more. *Trusts*:
//! whoever made the block that its bytes stay as they are; not their content: a table of another length has fewer entries, no entry is
//! looked for outside. *Never*: copies the block.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A part of a block of bytes, which it keeps alive.
#[derive(Clone)]
pub struct Shared {
    block: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Shared {
    /// All of a block. Its bytes must stay as they are, for as long as anyone holds a part of it.
    pub fn new(block: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Shared {
        let range = 0..(*block).as_ref().len();
        Shared { block, range }
    }

    /// The part of it from its byte `start` to its byte `end`; none where it does not reach.
    pub fn part(&self, start: usize, end: usize) -> Option<Shared> {
        let (from, to) = (self.range.start.checked_add(start)?, self.range.start.checked_add(end)?);
        let inside = from <= to && to <= self.range.end;
        inside.then(|| Shared { block: self.block.clone(), range: from..to })
    }
}

impl From<Vec<u8>> for Shared {
    fn from(mut bytes: Vec<u8>) -> Shared {
        bytes.shrink_to_fit();
        Shared::new(Arc::new(bytes))
    }
}

impl Default for Shared {
    fn default() -> Shared {
        Shared::from(Vec::new())
    }
}

impl Deref for Shared {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.block).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Shared) -> bool {
        **self == **other
    }
}

impl Eq for Shared {}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// What a table can hold: always of `N` bytes.
pub trait Packed<const N: usize> {
    /// As it was written. Any bytes are some value.
    fn unpack(bytes: [u8; N]) -> Self;
    /// As it is written.
    fn pack(&self) -> [u8; N];
}

/// Entries of `N` bytes each.
#[derive(Clone, PartialEq, Eq)]
pub struct Table<T, const N: usize> {
    bytes: Shared,
    of: PhantomData<fn() -> T>,
}

impl<T: Packed<N>, const N: usize> Table<T, N> {
    /// The entries in a block.
    pub fn new(bytes: Shared) -> Table<T, N> {
        Table { bytes, of: PhantomData }
    }

    /// A table in this process's memory.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a T>) -> Table<T, N>
    where
        T: 'a,
    {
        Table::new(Shared::from(entries.into_iter().flat_map(Packed::pack).collect::<Vec<u8>>()))
    }

    /// How they are written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.packed().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packed().is_empty()
    }

    /// One of them.
    pub fn get(&self, index: usize) -> Option<T> {
        self.packed().get(index).map(|bytes| T::unpack(*bytes))
    }

    /// From this one on, either way.
    pub fn iter_from(&self, index: usize) -> impl DoubleEndedIterator<Item = T> + '_ {
        self.packed().get(index..).unwrap_or_default().iter().map(|bytes| T::unpack(*bytes))
    }

    /// All of them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = T> + '_ {
        self.iter_from(0)
    }

    /// Those before this one.
    pub fn iter_to(&self, index: usize) -> impl DoubleEndedIterator<Item = T> + '_ {
        self.packed().get(..index).unwrap_or_default().iter().map(|bytes| T::unpack(*bytes))
    }

    /// How many of them, which are sorted so, come before the first for which it does not hold.
    pub fn partition_point(&self, holds: impl Fn(&T) -> bool) -> usize {
        self.packed().partition_point(|bytes| holds(&T::unpack(*bytes)))
    }

    fn packed(&self) -> &[[u8; N]] {
        self.bytes.as_chunks().0
    }
}

impl<T: Packed<N>, const N: usize> Default for Table<T, N> {
    fn default() -> Table<T, N> {
        Table::new(Shared::default())
    }
}

impl<T, const N: usize> fmt::Debug for Table<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.bytes.len().checked_div(N).unwrap_or(0))
    }
}

impl Packed<4> for u32 {
    fn unpack(bytes: [u8; 4]) -> u32 {
        u32::from_le_bytes(bytes)
    }
    fn pack(&self) -> [u8; 4] {
        self.to_le_bytes()
    }
}

/// `parts` behind each other, and zeros where they are shorter than `N`.
pub(crate) fn join<const N: usize, const P: usize>(parts: [&[u8]; P]) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(parts.iter().flat_map(|part| part.iter())) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_never_reaches_out_of_its_block() {
        let all = Shared::from(vec![0, 1, 2, 3, 4]);
        let part = all.part(1, 4).unwrap();
        assert_eq!(*part, [1, 2, 3]);
        assert_eq!(*part.part(1, 2).unwrap(), [2]);
        assert!(part.part(0, 4).is_none() && part.part(2, 1).is_none() && part.part(1, usize::MAX).is_none());
    }

    #[test]
    fn a_table_is_as_long_as_its_bytes_last() {
        let table = Table::<u32, 4>::of(&[1, 5, 9]);
        assert_eq!(table.iter().rev().collect::<Vec<_>>(), [9, 5, 1]);
        assert_eq!((table.partition_point(|item| *item < 6), table.get(2), table.get(3)), (2, Some(9), None));
        assert_eq!(table.iter_to(1).collect::<Vec<_>>(), [1]);
        let cut = Table::<u32, 4>::new(Shared::from(table.bytes()[..7].to_vec()));
        assert_eq!((cut.len(), cut.iter_from(1).count(), cut.iter_from(9).count()), (1, 0, 0));
    }
}
