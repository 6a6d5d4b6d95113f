//! Two profiles of one build, compared: what a guest's memory says of its kernel against what the admin trusts.
//!
//! A rootkit that redirects a symbol to a clean copy, or shifts a member so that a walker reads something else, has to change
//! kallsyms or BTF in memory; here it shows.
//!
//! *Trusts*: the first profile. *Never*: takes a symbol or type that only one of them has for a lie: sources differ in what they
//! list.

use crate::{Profile, Types};

/// Most disagreements kept.
pub const MAX_KEPT: usize = 64;

/// One disagreement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Disagreement {
    /// A symbol lies elsewhere.
    Symbol {
        /// Its name.
        name: String,
        /// Link-time address in the trusted profile.
        trusted: u64,
        /// And in memory.
        memory: u64,
    },
    /// A structure has another size.
    Size {
        /// Its name.
        ty: String,
        /// Bytes in the trusted profile.
        trusted: u32,
        /// And in memory.
        memory: u32,
    },
    /// A member lies elsewhere or is of another size.
    Member {
        /// Structure and member.
        path: String,
        /// Offset and size in bytes in the trusted profile.
        trusted: (u32, u32),
        /// And in memory.
        memory: (u32, u32),
    },
}

/// All of them, the first [`MAX_KEPT`] in full.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Disagreements {
    /// Those kept.
    pub kept: Vec<Disagreement>,
    /// How many there are.
    pub total: usize,
}

impl Disagreements {
    fn add(&mut self, disagreement: Disagreement) {
        self.total = self.total.saturating_add(1);
        if self.kept.len() < MAX_KEPT {
            self.kept.push(disagreement);
        }
    }
}

impl std::fmt::Display for Disagreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Disagreement::Symbol { name, trusted, memory } => {
                write!(f, "symbol {name}: trusted {trusted:#x}, in memory {memory:#x}")
            }
            Disagreement::Size { ty, trusted, memory } => {
                write!(f, "struct {ty}: trusted {trusted} bytes, in memory {memory}")
            }
            Disagreement::Member { path, trusted, memory } => {
                let ((offset, size), (in_memory, size_there)) = (trusted, memory);
                write!(
                    f,
                    "{path}: trusted at {offset} ({size} bytes), in memory at {in_memory} ({size_there} bytes)"
                )
            }
        }
    }
}

/// What `memory` tells otherwise than `trusted`.
pub fn compare(trusted: &Profile, memory: &Profile) -> Disagreements {
    let mut found = Disagreements::default();
    if trusted.symbols != memory.symbols {
        symbols(trusted, memory, &mut found);
    }
    if trusted.types != memory.types {
        types(&trusted.types, &memory.types, &mut found);
    }
    found
}

/// Symbols that both have and of which no place is the same. Static functions may share a name.
fn symbols(trusted: &Profile, memory: &Profile, found: &mut Disagreements) {
    let mut last = "";
    for index in trusted.symbols.by_name.iter() {
        let Some(symbol) = trusted.symbols.at(index).filter(|symbol| symbol.name != last) else { continue };
        last = symbol.name;
        let mut elsewhere = None;
        for other in memory.symbols.all(symbol.name) {
            elsewhere = Some(other.address);
            if trusted.symbols.all(symbol.name).any(|own| own.address == other.address) {
                elsewhere = None;
                break;
            }
        }
        if let Some(address) = elsewhere {
            let name = symbol.name.to_owned();
            found.add(Disagreement::Symbol { name, trusted: symbol.address, memory: address });
        }
    }
}

fn types(trusted: &Types, memory: &Types, found: &mut Disagreements) {
    let mut last = "";
    for ty in trusted.record_names() {
        if std::mem::replace(&mut last, ty) == ty {
            continue;
        }
        let (Some(own), Some(other)) = (trusted.size_of(ty), memory.size_of(ty)) else { continue };
        if own != other {
            found.add(Disagreement::Size { ty: ty.to_owned(), trusted: own, memory: other });
        }
        let Some(record) = trusted.record(ty) else { continue };
        for (bits, member) in trusted.named_members(record) {
            let (name, field) = (trusted.text(member.name), trusted.describe(bits, member));
            let (Some(field), Ok(there)) = (field, memory.field(ty, name)) else { continue };
            // Sources describe the unit of a bit field differently, and a flexible array has no size.
            let plain = field.bits.is_none() && there.bits.is_none();
            if plain && (field.offset, field.size) != (there.offset, there.size) {
                found.add(Disagreement::Member {
                    path: format!("{ty}.{name}"),
                    trusted: (field.offset, field.size),
                    memory: (there.offset, there.size),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SymbolsBuilder, Type, TypesBuilder};

    fn profile(symbol: u64, offset: u32, extra: bool) -> Profile {
        let mut symbols = SymbolsBuilder::default();
        symbols.push("init_task", symbol, b'D');
        symbols.push("show", 1, b't');
        symbols.push("show", 2, b't');
        if extra {
            symbols.push("only_here", 3, b't');
        }
        let mut types = TypesBuilder::default();
        let number = types.push(Type::Integer { bytes: 4, signed: false, bits: None });
        types.record("task_struct", 64, false);
        types.member("pid", number, offset * 8, 0);
        Profile { symbols: symbols.build(), types: types.build(), ..Profile::default() }
    }

    #[test]
    fn what_only_one_of_them_has_is_no_lie() {
        assert_eq!(compare(&profile(8, 4, true), &profile(8, 4, false)), Disagreements::default());
        assert_eq!(compare(&profile(8, 4, false), &profile(8, 4, true)), Disagreements::default());
    }

    #[test]
    fn moved_symbols_and_members_are_named() {
        let found = compare(&profile(8, 4, false), &profile(16, 12, false));
        let member =
            Disagreement::Member { path: "task_struct.pid".to_owned(), trusted: (4, 4), memory: (12, 4) };
        let symbol = Disagreement::Symbol { name: "init_task".to_owned(), trusted: 8, memory: 16 };
        assert_eq!((found.kept, found.total), (vec![symbol, member], 2));
    }

    #[test]
    fn members_of_anonymous_structures_are_compared_by_their_names() {
        let profile = |pid_at: u32| {
            let mut types = TypesBuilder::default();
            let number = types.push(Type::Integer { bytes: 4, signed: false, bits: None });
            let inner = types.record("", 32, false);
            types.member("pid", number, pid_at * 8, 0);
            let inner = types.push(Type::Composite { record: inner });
            types.record("task_struct", 128, false);
            for at in [0, 64] {
                types.member("", inner, at * 8, 0);
            }
            types.member("comm", number, 96 * 8, 0);
            Profile { types: types.build(), ..Profile::default() }
        };
        assert_eq!(compare(&profile(4), &profile(4)).total, 0);
        let found = compare(&profile(4), &profile(12)).kept;
        let moved =
            Disagreement::Member { path: "task_struct.pid".to_owned(), trusted: (4, 4), memory: (12, 4) };
        assert!(found.contains(&moved), "{found:?}");
        assert!(
            found
                .iter()
                .all(|found| matches!(found, Disagreement::Member { path, .. } if path.ends_with("pid")))
        );
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let mut found = Disagreements::default();
        (0..1000).for_each(|n| found.add(Disagreement::Size { ty: n.to_string(), trusted: 0, memory: 1 }));
        assert_eq!((found.kept.len(), found.total), (MAX_KEPT, 1000));
    }
}
