//! The symbol table: names and link-time addresses, searchable both ways, in flat arrays that processes can share.

use crate::shared::{Packed, Shared, Table, join};

/// One symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symbol<'a> {
    /// Its name.
    pub name: &'a str,
    /// Link-time address. Zero-based for per-CPU symbols through Linux 6.12.
    pub address: u64,
    /// The letter of `nm`: `T` text, `D` data, `R` read-only, `A` absolute; lower case is local.
    pub kind: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) address: u64,
    pub(crate) name_start: u32,
    pub(crate) name_len: u16,
    pub(crate) kind: u8,
}

impl Packed<16> for Entry {
    fn unpack(b: [u8; 16]) -> Entry {
        Entry {
            address: u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            name_start: u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
            name_len: u16::from_le_bytes([b[12], b[13]]),
            kind: b[14],
        }
    }
    fn pack(&self) -> [u8; 16] {
        join::<16, 4>([
            &self.address.to_le_bytes(),
            &self.name_start.to_le_bytes(),
            &self.name_len.to_le_bytes(),
            &[self.kind, 0],
        ])
    }
}

/// A compact, immutable symbol table, sorted by address; symbols of one address keep the source's order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Symbols {
    pub(crate) names: Shared,
    pub(crate) entries: Table<Entry, 16>,
    /// Indices into `entries`, sorted by name, then by address.
    pub(crate) by_name: Table<u32, 4>,
}

/// Collects symbols in any order.
#[derive(Debug, Default)]
pub struct SymbolsBuilder {
    names: String,
    entries: Vec<Entry>,
}

impl SymbolsBuilder {
    /// Adds one symbol. A name over 65,535 bytes is cut to nothing and so not found by name.
    pub fn push(&mut self, name: &str, address: u64, kind: u8) {
        let name_len = u16::try_from(name.len()).unwrap_or(0);
        let name_start = self.names.len() as u32;
        if name_len > 0 {
            self.names.push_str(name);
        }
        self.entries.push(Entry { address, name_start, name_len, kind });
    }

    /// Sorts and freezes the table.
    pub fn build(self) -> Symbols {
        let SymbolsBuilder { names, mut entries } = self;
        entries.sort_by_key(|entry| entry.address);
        let name = |index: u32| {
            entries.get(index as usize).and_then(|entry| names.as_bytes().get(entry.name())).unwrap_or(&[])
        };
        let mut by_name: Vec<u32> = (0..entries.len() as u32).collect();
        by_name.sort_by(|a, b| (name(*a), a).cmp(&(name(*b), b)));
        let (entries, by_name) = (Table::of(&entries), Table::of(&by_name));
        Symbols { names: Shared::from(names.into_bytes()), entries, by_name }
    }
}

impl Symbols {
    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Address of the lowest symbol of that name.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.all(name).next().map(|symbol| symbol.address)
    }
    /// Every symbol of that name, by ascending address.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Symbol<'a>> {
        let from = self.by_name.partition_point(|index| self.bytes_at(*index) < name.as_bytes());
        let rest = self.by_name.iter_from(from);
        rest.map_while(move |index| self.at(index).filter(|symbol| symbol.name == name))
    }
    /// The symbol at or below `address`, with the distance to it in bytes.
    pub fn nearest(&self, address: u64) -> Option<(Symbol<'_>, u64)> {
        let above = self.entries.partition_point(|entry| entry.address <= address);
        let symbol = self.at(u32::try_from(above.checked_sub(1)?).ok()?)?;
        Some((symbol, address.saturating_sub(symbol.address)))
    }
    /// The symbol at exactly `address`: of several the last in the source's order.
    pub fn exactly(&self, address: u64) -> Option<Symbol<'_>> {
        self.nearest(address).filter(|(_, distance)| *distance == 0).map(|(symbol, _)| symbol)
    }
    /// Address of the first symbol above `address`.
    pub fn next_after(&self, address: u64) -> Option<u64> {
        let above = self.entries.partition_point(|entry| entry.address <= address);
        self.entries.get(above).map(|entry| entry.address)
    }
    /// All symbols by ascending address.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        (0..self.entries.len() as u32).filter_map(|index| self.at(index))
    }

    pub(crate) fn at(&self, index: u32) -> Option<Symbol<'_>> {
        let entry = self.entries.get(index as usize)?;
        Some(Symbol { name: self.name_of(&entry), address: entry.address, kind: entry.kind })
    }

    /// A name as it is stored: texts are in the order of their bytes.
    fn bytes_at(&self, index: u32) -> &[u8] {
        let name = |entry: Entry| self.names.get(entry.name());
        self.entries.get(index as usize).and_then(name).unwrap_or_default()
    }

    fn name_of(&self, entry: &Entry) -> &str {
        self.names.get(entry.name()).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("")
    }
}

impl Entry {
    /// Where its name is.
    fn name(&self) -> std::ops::Range<usize> {
        let start = self.name_start as usize;
        start..start.saturating_add(self.name_len.into())
    }
}
