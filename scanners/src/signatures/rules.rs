//! Rules, compiled. A file that is broken is named with its line, and the others still count.
//!
//! *Trusts*: that whoever chose the files wants them. *Never*: uses a part of a file that does not compile as a whole.

use super::engine::{Boreal, ScanEngine};
use super::parts::ByParts;
use super::pool::together;
use super::served::{self, Unserved};
use super::sources::{self, Source};
use boreal::compiler::{Compiler, CompilerBuilder, CompilerParams};
use boreal::{Metadata, MetadataValue, Scanner};
use std::io;
use std::path::PathBuf;

/// What field rules expect to be told of a file.
pub(super) const EXTERNALS: [&str; 5] = ["filename", "filepath", "extension", "filetype", "owner"];

/// Compiled rules.
#[derive(Debug)]
pub struct Rules {
    engine: Box<dyn ScanEngine>,
    count: usize,
    files: usize,
    bad: Vec<BadRules>,
    unserved: Vec<Unserved>,
    asks_for_names: bool,
    digest: [u8; blake3::OUT_LEN],
    /// Of their text alone, wherever the files are.
    text_digest: blake3::Hash,
}

/// A file that could not be used, or not wholly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadRules {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, with the line.
    pub why: String,
}

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A file or folder cannot be read.
    #[error("{}: {why}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The host's answer.
        why: io::Error,
    },
    /// No rule file was named or found.
    #[error("no rule files (*.yar, *.yara) in {0}")]
    None(String),
    /// Every file is broken.
    #[error("none of the rule files can be used; {}: {}", .0.path.display(), .0.why)]
    AllBad(BadRules),
    /// libyara cannot be used.
    #[cfg(feature = "libyara")]
    #[error("libyara: {0}")]
    Libyara(String),
}

impl Rules {
    /// Compiles rule files; of a folder all those below it that end in `.yar` or `.yara`.
    pub fn load(paths: &[PathBuf]) -> Result<Rules, RulesError> {
        Ok(Rules::compile(paths, true)?.0)
    }

    /// The same for libyara. What boreal refuses is refused, and what libyara refuses beside that.
    #[cfg(feature = "libyara")]
    pub fn load_for_libyara(paths: &[PathBuf]) -> Result<Rules, RulesError> {
        let (mut rules, sources) = Rules::compile(paths, false)?;
        let texts = sources.iter().map(|source| (&*source.namespace, &*source.text));
        let (engine, refused) =
            super::libyara::Libyara::new(texts).map_err(|why| RulesError::Libyara(why.to_string()))?;
        rules.engine = Box::new(engine);
        rules.digest = blake3::keyed_hash(&rules.digest, b"libyara").into();
        for (namespace, why) in refused {
            let path = sources.iter().find(|source| source.namespace == namespace);
            let path = path.map(|source| source.path.clone()).unwrap_or_default();
            rules.bad.push(BadRules { path, why: format!("libyara: {why}") });
        }
        Ok(rules)
    }

    /// Compiles rules that stand in a text of this name.
    pub fn from_text(name: &str, text: &str) -> Result<Rules, RulesError> {
        let (path, namespace, text) = (PathBuf::from(name), name.to_owned(), text.to_owned());
        let sources = [Source { path, namespace, text, has_includes: false }];
        let (scanner, bad) = compile_all(&sources);
        match bad.into_iter().next() {
            Some((_, why)) => Err(RulesError::AllBad(BadRules { path: PathBuf::from(name), why })),
            None => Ok(Rules::of(scanner, Texts::of(&sources, false), Vec::new())),
        }
    }

    /// Rules with what judges regions by parts, or without, and what they were made of.
    fn compile(paths: &[PathBuf], by_parts: bool) -> Result<(Rules, Vec<Source>), RulesError> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for read in sources::read_all(paths)? {
            match read {
                Ok(source) => good.push(source),
                Err(why) => bad.push(why),
            }
        }
        loop {
            let ((scanner, refused), texts) = together(|| compile_all(&good), || Texts::of(&good, by_parts));
            // A file that does not compile may have left some of its rules behind: again without such files.
            for (place, why) in refused.iter().rev() {
                bad.push(BadRules { path: good.remove(*place).path, why: why.clone() });
            }
            bad.sort_by(|one, other| one.path.cmp(&other.path));
            match (good.len(), bad.first()) {
                (0, Some(first)) => return Err(RulesError::AllBad(first.clone())),
                _ if refused.is_empty() => return Ok((Rules::of(scanner, texts, bad), good)),
                _ => {}
            }
        }
    }

    /// No rules: for looking at hashes alone.
    pub fn none() -> Rules {
        Rules::of(compiler().finalize(), Texts::of(&[], false), Vec::new())
    }

    fn of(scanner: Scanner, texts: Texts, bad: Vec<BadRules>) -> Rules {
        let Texts { files, unserved, asks_for_names, digest, text_digest, parts } = texts;
        let engine = Boreal::new(scanner, digest, parts);
        Rules {
            count: engine.about().len(),
            engine: Box::new(engine),
            files,
            bad,
            unserved,
            asks_for_names,
            digest,
            text_digest,
        }
    }

    /// Files that are used.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Number of rules, private ones left out.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Files that are not used, and why.
    pub fn bad(&self) -> &[BadRules] {
        &self.bad
    }

    /// Rules that can match in memory only, or in files only, or in neither.
    pub fn unserved(&self) -> &[Unserved] {
        &self.unserved
    }

    pub(super) fn engine(&self) -> &dyn ScanEngine {
        &*self.engine
    }

    pub(super) fn parts(&self) -> Option<&ByParts> {
        self.engine.parts()
    }

    pub(super) fn asks_for_names(&self) -> bool {
        self.asks_for_names
    }

    /// What stands for all rules in keys of a cache.
    pub(super) fn digest(&self) -> &[u8; blake3::OUT_LEN] {
        &self.digest
    }

    /// What stands for their text: hexadecimal.
    pub(crate) fn text_digest(&self) -> String {
        self.text_digest.to_hex().to_string()
    }
}

pub(super) fn compiler() -> Compiler {
    let mut compiler = CompilerBuilder::new().build();
    compiler.set_params(params());
    for name in EXTERNALS {
        compiler.define_symbol(name, "");
    }
    compiler
}

pub(super) fn params() -> CompilerParams {
    CompilerParams::default().disable_unknown_escape_warning(true).disable_includes(true)
}

/// What is read from rule files beside what the engine makes of them.
struct Texts {
    files: usize,
    unserved: Vec<Unserved>,
    asks_for_names: bool,
    digest: [u8; blake3::OUT_LEN],
    text_digest: blake3::Hash,
    parts: Option<ByParts>,
}

impl Texts {
    fn of(sources: &[Source], by_parts: bool) -> Texts {
        let (mut digest, mut text_digest) = (blake3::Hasher::new(), blake3::Hasher::new());
        let (mut unserved, mut asks_for_names, mut files) = (Vec::new(), false, Vec::new());
        for source in sources {
            for part in [&source.namespace, &source.text] {
                digest.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
            text_digest.update(blake3::hash(source.text.as_bytes()).as_bytes());
            asks_for_names |= served::asks_for_names(&source.text);
            // What compiles can be parsed.
            if let Ok(file) = boreal_parser::parse(&source.text) {
                unserved.extend(served::unserved(&source.namespace, &file));
                files.push((&*source.text, file));
            }
        }
        let has_all = files.len() == sources.len();
        Texts {
            files: sources.len(),
            unserved,
            asks_for_names,
            digest: digest.finalize().into(),
            text_digest: text_digest.finalize(),
            parts: if by_parts && has_all { ByParts::new(&files) } else { None },
        }
    }
}

/// What compiles of these files, and the places of those that do not, with what is wrong with them.
fn compile_all(sources: &[Source]) -> (Scanner, Vec<(usize, String)>) {
    let mut compiler = compiler();
    let refused = |(place, source)| Some((place, compile(&mut compiler, source).err()?));
    let bad = sources.iter().enumerate().filter_map(refused).collect();
    (compiler.finalize(), bad)
}

fn compile(compiler: &mut Compiler, source: &Source) -> Result<(), String> {
    match compiler.add_rules_str_in_namespace(&source.text, &source.namespace) {
        Ok(_) => Ok(()),
        // It calls the text `mem`.
        Err(error) => {
            let why = error.to_string().trim_start_matches("mem:").to_owned();
            Err(if source.has_includes { format!("with its includes in it: {why}") } else { why })
        }
    }
}

/// A rule's metadata as text.
pub(super) fn metadata(scanner: &Scanner, all: &[Metadata]) -> Vec<(String, String)> {
    let value = |value: &MetadataValue| match value {
        MetadataValue::Bytes(symbol) => {
            String::from_utf8_lossy(scanner.get_bytes_symbol(*symbol)).into_owned()
        }
        MetadataValue::Integer(number) => number.to_string(),
        MetadataValue::Boolean(truth) => truth.to_string(),
    };
    all.iter().map(|entry| (scanner.get_string_symbol(entry.name).to_owned(), value(&entry.value))).collect()
}
