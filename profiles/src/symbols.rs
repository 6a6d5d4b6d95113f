//! The symbol table: names and link-time addresses, searchable both ways.

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

/// A compact, immutable symbol table.
#[derive(Clone, Debug, Default)]
pub struct Symbols {}

/// Collects symbols in any order.
#[derive(Debug, Default)]
pub struct SymbolsBuilder {}

impl SymbolsBuilder {
    /// Adds one symbol.
    pub fn push(&mut self, _name: &str, _address: u64, _kind: u8) {
        todo!()
    }
    /// Sorts and freezes the table.
    pub fn build(self) -> Symbols {
        todo!()
    }
}

impl Symbols {
    /// Number of symbols.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Address of the first symbol of that name.
    pub fn address(&self, _name: &str) -> Option<u64> {
        todo!()
    }
    /// Every symbol of that name.
    pub fn all(&self, _name: &str) -> impl Iterator<Item = Symbol<'_>> {
        std::iter::empty()
    }
    /// The symbol at or below `address`, with the distance to it in bytes.
    pub fn nearest(&self, _address: u64) -> Option<(Symbol<'_>, u64)> {
        todo!()
    }
    /// All symbols by ascending address.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        std::iter::empty()
    }
}
