//! A table with little beside its entries: they stand in a list that grows by an eighth, and are found by their numbers.
//!
//! *Trusts*: that keys are digests with a secret key: their own bits say where they are looked for.

use hashbrown::HashTable;

/// Entries that a list has room for at least.
const MIN_ROOM: usize = 8;

/// A key whose bits nobody can choose.
pub(super) trait Digest: Copy + Eq {
    fn mark(&self) -> u64;
}

#[derive(Debug)]
pub(super) struct Table<K, V> {
    entries: Vec<(K, V)>,
    numbers: HashTable<u32>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table { entries: Vec::new(), numbers: HashTable::new() }
    }
}

impl<K: Digest, V> Table<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let Table { entries, numbers } = self;
        let is_it = |number: &u32| entries.get(*number as usize).is_some_and(|(other, _)| other == key);
        let number = *numbers.find(key.mark(), is_it)?;
        entries.get_mut(number as usize).map(|(_, value)| value)
    }

    /// Adds what is not in it.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let Ok(number) = u32::try_from(self.entries.len()) else { return };
        reserve(&mut self.entries, 1);
        self.entries.push((key, value));
        add(&self.entries, &mut self.numbers, key, number);
    }

    /// Keeps some, and no room for more.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        let Table { entries, numbers } = self;
        entries.retain(|(_, value)| keep(value));
        entries.shrink_to_fit();
        *numbers = HashTable::with_capacity(entries.len());
        (0..).zip(&*entries).for_each(|(number, (key, _))| add(entries, numbers, *key, number));
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.entries
            .capacity()
            .saturating_mul(size_of::<(K, V)>())
            .saturating_add(self.numbers.allocation_size())
    }

    /// How many bytes more it takes at most with one entry more.
    pub(super) fn more_for_one(&self) -> usize {
        let numbers = self.numbers.allocation_size();
        let grows = self.numbers.len() == self.numbers.capacity();
        let more = growth(&self.entries, 1).saturating_mul(size_of::<(K, V)>());
        // It doubles; the first is small.
        more.saturating_add(if grows { numbers.max(64) } else { 0 })
    }
}

/// Has an entry found by its number.
fn add<K: Digest, V>(entries: &[(K, V)], numbers: &mut HashTable<u32>, key: K, number: u32) {
    let mark = |number: &u32| entries.get(*number as usize).map_or(0, |(key, _)| key.mark());
    numbers.insert_unique(key.mark(), number, mark);
}

/// Makes room in a list, and some more.
pub(super) fn reserve<T>(list: &mut Vec<T>, count: usize) {
    list.reserve_exact(growth(list, count).max(count));
}

/// By how many entries a list grows to take in so many.
pub(super) fn growth<T>(list: &Vec<T>, count: usize) -> usize {
    if list.capacity().saturating_sub(list.len()) >= count {
        return 0;
    }
    count.max(list.len() / 8).max(MIN_ROOM)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    impl Digest for u64 {
        fn mark(&self) -> u64 {
            self.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }
    }

    #[test]
    fn what_is_put_in_is_found_and_room_is_told_beforehand() {
        let mut table = Table::<u64, u64>::default();
        assert!(table.is_empty() && table.bytes() == 0);
        for number in 0..20_000 {
            assert_eq!(table.get_mut(&number), None);
            let expected = table.bytes() + table.more_for_one();
            table.insert(number, number * 7);
            assert!(table.bytes() <= expected, "{} of {expected} with {number}", table.bytes());
        }
        assert!((0..20_000).all(|number| table.get_mut(&number) == Some(&mut (number * 7))));
        // An eighth more, and four bytes and one for each number, in a table that is at least seven sixteenths full.
        assert!(table.bytes() < 20_000 * (16 + 2 + 12), "{}", table.bytes());
        table.retain(|value| value % 3 == 0);
        for number in 0..20_000 {
            assert_eq!(table.get_mut(&number).is_some(), number % 3 == 0);
        }
        assert!(table.bytes() < 7_000 * (16 + 12));
        table.retain(|_| false);
        assert_eq!(table.bytes(), 0);
    }
}
