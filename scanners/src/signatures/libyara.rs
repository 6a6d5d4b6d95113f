//! libyara, for whoever must have the original, and to hold boreal against.
//!
//! *Trusts*: C code that reads what the guest chose: 4.5.5 has faults in memory safety that later versions mend. It is off by default.
//! *Never*: knows parts of regions again. Its timeouts count whole seconds; a verdict that was cut short is lost, as it returns none.

use super::cache::ScanCache;
use super::content::{Content, Fragments};
use super::engine::{About, Cut, Externals, ScanEngine, Verdict, hit};
use super::parts::ByParts;
use super::rules::EXTERNALS;
use boreal::memory::{FragmentedMemory, MemoryParams};
use std::sync::Arc;
use std::time::Duration;
use yara::{MemoryBlock, MemoryBlockIterator, MetadataValue, Rule, ScanFlags};

/// What boreal is never asked for: its memory needs no parameters.
const PARAMS: MemoryParams =
    MemoryParams { max_fetched_region_size: usize::MAX, memory_chunk_size: None, can_refetch_regions: true };

/// libyara with its rules.
pub(super) struct Libyara {
    rules: yara::Rules,
}

impl std::fmt::Debug for Libyara {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Libyara")
    }
}

impl Libyara {
    /// Compiles texts in their namespaces. Which of them it refuses, and why, is told beside it.
    pub(super) fn new<'s>(
        sources: impl Iterator<Item = (&'s str, &'s str)>,
    ) -> Result<(Libyara, Vec<(String, String)>), yara::Error> {
        let (mut all, mut bad) = (compiler()?, Vec::new());
        for (namespace, text) in sources {
            // A compiler that met an error is of no more use.
            match compiler()?.add_rules_str_with_namespace(text, namespace) {
                Ok(_) => all = all.add_rules_str_with_namespace(text, namespace)?,
                Err(why) => bad.push((namespace.to_owned(), why.to_string())),
            }
        }
        Ok((Libyara { rules: all.compile_rules()? }, bad))
    }
}

fn compiler() -> Result<yara::Compiler, yara::Error> {
    let mut compiler = yara::Compiler::new()?;
    for name in EXTERNALS {
        compiler.define_variable(name, "")?;
    }
    Ok(compiler)
}

impl ScanEngine for Libyara {
    fn scan(
        &self,
        content: &Content,
        externals: &Externals,
        own_bytes: u64,
        budget: Duration,
        _: Option<&ScanCache>,
    ) -> Verdict {
        let failed = || Verdict { hits: Vec::new(), cut: Some(Cut::Failed) };
        let Ok(mut scanner) = self.rules.scanner() else { return failed() };
        let seconds = budget.as_secs().saturating_add(1);
        scanner.set_timeout(i32::try_from(seconds).unwrap_or(i32::MAX));
        let flags = ScanFlags::REPORT_RULES_MATCHING;
        let result = if content.is_file() {
            scanner.set_flags(flags);
            for (name, value) in externals.pairs() {
                // No rule uses it: nothing to define.
                let _ = scanner.define_variable(name, value);
            }
            scanner.scan_mem(content.all()).map_err(|error| error.kind)
        } else {
            scanner.set_flags(flags | ScanFlags::PROCESS_MEMORY);
            let found = scanner.scan_mem_blocks(Blocks(content.fragments()));
            found.map_err(|error| match error {
                yara::Error::Yara(error) => error.kind,
                _ => yara::errors::YaraErrorKind::InsufficientMemory,
            })
        };
        match result {
            Ok(rules) => {
                let hits = rules.iter().filter_map(|rule| hit_of(rule, own_bytes)).collect();
                Verdict { hits, cut: None }
            }
            Err(yara::errors::YaraErrorKind::ScanTimeout) => {
                Verdict { hits: Vec::new(), cut: Some(Cut::Budget(Duration::from_secs(seconds))) }
            }
            Err(_) => failed(),
        }
    }

    fn parts(&self) -> Option<&ByParts> {
        None
    }
}

fn hit_of(rule: &Rule<'_>, own_bytes: u64) -> Option<super::engine::Hit> {
    let value = |value: &MetadataValue<'_>| match value {
        MetadataValue::Integer(number) => number.to_string(),
        MetadataValue::String(text) => (*text).to_owned(),
        MetadataValue::Boolean(truth) => truth.to_string(),
    };
    let about = About {
        name: rule.identifier.to_owned(),
        namespace: rule.namespace.to_owned(),
        tags: rule.tags.iter().map(|tag| (*tag).to_owned()).collect(),
        meta: rule.metadatas.iter().map(|meta| (meta.identifier.to_owned(), value(&meta.value))).collect(),
    };
    let strings = rule.strings.iter().map(|string| {
        let mut places: Vec<(u64, u64)> = string
            .matches
            .iter()
            .map(|found| ((found.base as u64).saturating_add(found.offset as u64), found.length as u64))
            .collect();
        places.sort_unstable();
        (string.identifier.trim_start_matches('$'), places)
    });
    hit(&Arc::new(about), strings, own_bytes)
}

/// The runs of a region, as libyara asks for them.
struct Blocks<'c>(Fragments<'c>);

impl MemoryBlockIterator for Blocks<'_> {
    fn first(&mut self) -> Option<MemoryBlock<'_>> {
        self.0.reset();
        self.next()
    }

    fn next(&mut self) -> Option<MemoryBlock<'_>> {
        FragmentedMemory::next(&mut self.0, &PARAMS)?;
        let fetched = self.0.fetch(&PARAMS)?;
        Some(MemoryBlock::new(fetched.start as u64, fetched.mem))
    }
}
