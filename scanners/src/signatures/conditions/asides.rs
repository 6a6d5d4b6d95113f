//! Parts of conditions that ask for nothing of a region but what programs are made of, and for a file's names. Where no program begins
//! they say the same of every region: the engine is asked once.
//!
//! *Trusts*: the engine. *Never*: decides what it refused to compile.

use super::PROGRAM_MODULES;
use super::evaluate::Value;
use crate::signatures::engine::Externals;
use crate::signatures::rules::compiler;
use boreal::Scanner;
use std::collections::HashMap;

/// A region in which no program begins.
const NO_PROGRAM: &[u8] = b"\n";

/// Texts of which it is to be found out what they say.
#[derive(Default, Debug)]
pub(super) struct Compiler {
    numbers: HashMap<String, u32>,
    texts: Vec<(String, Mentions)>,
}

#[derive(Clone, Copy, Debug)]
struct Mentions {
    programs: bool,
    names: bool,
}

/// What they say.
#[derive(Debug)]
pub(super) struct Asides {
    /// Where there is neither a program nor a name.
    plain: Vec<(Value, Mentions)>,
    /// Those that are about names.
    named: Option<Scanner>,
}

impl Compiler {
    /// Adds a part of a condition. Returns its number.
    pub(super) fn add(&mut self, text: &str, programs: bool, names: bool) -> u32 {
        let next = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(text.to_owned()).or_insert_with_key(|text| {
            self.texts.push((text.clone(), Mentions { programs, names }));
            next
        })
    }

    pub(super) fn finish(self) -> Asides {
        let (scanner, compiled) = compile(self.texts.iter().map(|(text, _)| Some(text.as_str())));
        let values = said(&scanner, self.texts.len()).into_iter().zip(compiled);
        let values = values.map(|(value, is_compiled)| if is_compiled { value } else { Value::Unknown });
        let plain = values.zip(self.texts.iter().map(|(_, mentions)| *mentions)).collect();
        let named = self.texts.iter().map(|(text, mentions)| mentions.names.then_some(text.as_str()));
        let named = self.texts.iter().any(|(_, mentions)| mentions.names).then(|| compile(named).0);
        Asides { plain, named }
    }
}

impl Asides {
    /// What one of them says of a region; in one in which a program may begin those about programs say anything. `named` is what
    /// [`Asides::of_names`] gives, for a file.
    pub(super) fn get(
        &self,
        number: u32,
        may_be_program: bool,
        named: Option<&dyn Fn(usize) -> Value>,
    ) -> Value {
        let index = number as usize;
        match (self.plain.get(index), named) {
            (None | Some((Value::Unknown, _)), _) => Value::Unknown,
            (Some((_, mentions)), _) if mentions.programs && may_be_program => Value::Unknown,
            (Some((_, mentions)), Some(named)) if mentions.names => named(index),
            (Some((value, _)), _) => *value,
        }
    }

    /// What all of them say of a file with these names; of those that are not about names nothing.
    pub(super) fn of_names(&self, names: &Externals) -> Vec<Value> {
        let Some(mut scanner) = self.named.clone() else { return Vec::new() };
        for (name, value) in names.pairs() {
            // All of them are defined where the rules are compiled.
            let _ = scanner.define_symbol(name, value.to_owned());
        }
        said(&scanner, self.plain.len())
    }
}

/// Two rules for each text: that it is true, and that it is not. Whether it could be compiled.
fn compile<'t>(texts: impl Iterator<Item = Option<&'t str>>) -> (Scanner, Vec<bool>) {
    let imports: String = PROGRAM_MODULES.iter().map(|name| format!("import \"{name}\"\n")).collect();
    let mut all = compiler();
    let add = |(number, text): (usize, Option<&str>)| {
        let Some(text) = text else { return false };
        let rules = format!(
            "{imports}rule t{number} {{ condition: ({text}\n) }}\nrule f{number} {{ condition: not ({text}\n) }}"
        );
        all.add_rules_str_in_namespace(&rules, number.to_string()).is_ok()
    };
    let done = texts.enumerate().map(add).collect();
    (all.finalize(), done)
}

fn said(scanner: &Scanner, count: usize) -> Vec<Value> {
    let mut values = vec![Value::Undefined; count];
    // It looks for no string: no time is up.
    let result = scanner.scan_mem(NO_PROGRAM).unwrap_or_else(|(_, result)| result);
    for rule in &result.rules {
        let (truth, number) = rule.name.split_at_checked(1).unwrap_or_default();
        if let Some(value) = number.parse().ok().and_then(|index: usize| values.get_mut(index)) {
            *value = Value::Boolean(truth == "t");
        }
    }
    values
}
