//! Rule files: found, read, compiled. One that is broken is named with its line, and the others still count.
//!
//! *Trusts*: that whoever chose the files wants them. *Never*: follows an `include` out of the folder that was named, reads a
//! file of more than [`MAX_FILE_BYTES`].

use super::engine::{Boreal, ScanEngine};
use super::parts::ByParts;
use super::served::{self, Unserved};
use boreal::compiler::{Compiler, CompilerBuilder, CompilerParams};
use boreal::{Metadata, MetadataValue, Scanner};
use boreal_parser::file::YaraFileComponent;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Largest rule file: the largest of the field have 10 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most files.
const MAX_FILES: usize = 100_000;
/// Deepest chain of includes, and most of them in a file.
const MAX_INCLUDE_DEPTH: u32 = 16;
const MAX_INCLUDES: u32 = 10_000;
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

/// A rule file that was found.
struct Source {
    path: PathBuf,
    namespace: String,
    /// Its text, with its includes in their places.
    text: String,
    has_includes: bool,
}

impl Rules {
    /// Compiles rule files; of a folder all those below it that end in `.yar` or `.yara`.
    pub fn load(paths: &[PathBuf]) -> Result<Rules, RulesError> {
        Ok(Rules::compile(paths, false)?.0)
    }

    /// The same, with what it takes to scan regions again of which little changed.
    pub fn load_for_rescans(paths: &[PathBuf]) -> Result<Rules, RulesError> {
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
        let source = Source { path, namespace, text, has_includes: false };
        let mut all = compiler();
        let compiled = compile(&mut all, &source);
        compiled.map_err(|why| RulesError::AllBad(BadRules { path: source.path.clone(), why }))?;
        Ok(Rules::of(all.finalize(), &[source], Vec::new(), false))
    }

    fn compile(paths: &[PathBuf], for_rescans: bool) -> Result<(Rules, Vec<Source>), RulesError> {
        let mut files = Vec::new();
        for path in paths {
            find(path, true, &mut files)?;
        }
        if files.is_empty() {
            let named = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(RulesError::None(named));
        }
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let mut all = compiler();
        for (path, folder) in files {
            match Source::read(&path, &folder).and_then(|source| compile(&mut all, &source).map(|()| source))
            {
                Ok(source) => good.push(source),
                Err(why) => bad.push(BadRules { path, why }),
            }
        }
        // A file that does not compile may have left some of its rules behind: again without such files.
        if !bad.is_empty() {
            all = compiler();
            good.retain(|source| match compile(&mut all, source) {
                Ok(()) => true,
                Err(why) => {
                    bad.push(BadRules { path: source.path.clone(), why });
                    false
                }
            });
        }
        match (good.len(), bad.first()) {
            (0, Some(first)) => Err(RulesError::AllBad(first.clone())),
            _ => Ok((Rules::of(all.finalize(), &good, bad, for_rescans), good)),
        }
    }

    /// No rules: for looking at hashes alone.
    pub fn none() -> Rules {
        Rules::of(compiler().finalize(), &[], Vec::new(), false)
    }

    fn of(scanner: Scanner, sources: &[Source], bad: Vec<BadRules>, for_rescans: bool) -> Rules {
        let (mut digest, mut text_digest) = (blake3::Hasher::new(), blake3::Hasher::new());
        let (mut unserved, mut asks_for_names, mut files) = (Vec::new(), false, Vec::new());
        for source in sources {
            for part in [&source.namespace, &source.text] {
                digest.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
            text_digest.update(blake3::hash(source.text.as_bytes()).as_bytes());
            asks_for_names |= served::asks_for_names(&source.text);
            // What compiled can be parsed.
            if let Ok(file) = boreal_parser::parse(&source.text) {
                unserved.extend(served::unserved(&source.namespace, &file));
                if for_rescans {
                    files.push((&*source.text, file));
                }
            }
        }
        let digest: [u8; blake3::OUT_LEN] = digest.finalize().into();
        let has_all = for_rescans && files.len() == sources.len();
        let parts = if has_all { ByParts::new(&files) } else { None };
        let engine = Boreal::new(scanner, digest, parts);
        Rules {
            count: engine.about().len(),
            engine: Box::new(engine),
            files: sources.len(),
            bad,
            unserved,
            asks_for_names,
            digest,
            text_digest: text_digest.finalize(),
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

/// Rule files with the folder that their includes must stay in.
fn find(path: &Path, named: bool, files: &mut Vec<(PathBuf, PathBuf)>) -> Result<(), RulesError> {
    let failed = |why| RulesError::Io { path: path.to_owned(), why };
    let is_folder = fs::metadata(path).map_err(failed)?.is_dir();
    if !is_folder {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if (named || matches!(ending, "yar" | "yara")) && files.len() < MAX_FILES {
            let folder =
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            files.push((path.to_owned(), folder.to_owned()));
        }
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(path).map_err(failed)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    for entry in entries {
        // A link may lead anywhere, or round in circles.
        if fs::symlink_metadata(&entry).is_ok_and(|about| !about.is_symlink()) {
            find(&entry, false, files)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    let about = fs::metadata(path).map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("not a regular file".to_owned());
    }
    if about.len() > MAX_FILE_BYTES {
        return Err(format!("{} bytes, more than {MAX_FILE_BYTES}", about.len()));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    // Field rules have names of their authors in Latin-1.
    Ok(String::from_utf8(bytes).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned()))
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

impl Source {
    fn read(path: &Path, folder: &Path) -> Result<Source, String> {
        let own = read(path)?;
        let mut whole = Expanded { folder, text: String::new(), includes: 0 };
        whole.append(&own, None, 0)?;
        let (text, has_includes) = (whole.text, whole.includes > 0);
        Ok(Source { path: path.to_owned(), namespace: namespace(path), text, has_includes })
    }
}

/// Includes are read from the folder and what lies below it, and from nowhere else.
fn included(name: &str, from: Option<&Path>, folder: &Path) -> Result<(PathBuf, String), String> {
    let base = from.and_then(Path::parent).unwrap_or(folder);
    let real = |path: &Path| fs::canonicalize(path).map_err(|error| error.to_string());
    let path = real(&base.join(name))?;
    if !path.starts_with(real(folder)?) {
        return Err("an include that leaves the folder of the rules".to_owned());
    }
    let text = read(&path)?;
    Ok((path, text))
}

/// A file's text with its includes in their places. The engine is not let near includes: it follows those in a circle until its
/// stack is full.
struct Expanded<'f> {
    folder: &'f Path,
    text: String,
    includes: u32,
}

impl Expanded<'_> {
    fn append(&mut self, text: &str, from: Option<&Path>, depth: u32) -> Result<(), String> {
        if depth > MAX_INCLUDE_DEPTH || self.includes > MAX_INCLUDES {
            return Err("includes in a circle, or too many of them".to_owned());
        }
        let mut done = 0;
        // What cannot be parsed has no includes; the compiler will say what is wrong with it.
        let components = boreal_parser::parse(text).map(|file| file.components).unwrap_or_default();
        for component in components {
            let YaraFileComponent::Include(include) = component else { continue };
            self.text.push_str(text.get(done..include.span.start).unwrap_or_default());
            self.includes += 1;
            let (path, inner) = included(&include.path, from, self.folder)
                .map_err(|why| format!("include {:?}: {why}", include.path))?;
            self.append(&inner, Some(&path), depth + 1)?;
            done = include.span.end;
        }
        self.text.push_str(text.get(done..).unwrap_or_default());
        if self.text.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("more than {MAX_FILE_BYTES} bytes with its includes"));
        }
        Ok(())
    }
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

/// Two files of the same name in different folders must not share names of rules.
fn namespace(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{stem}#{:08x}", mark(path.to_string_lossy().as_bytes()))
}

/// FNV-1a: a short mark of a path, nothing more.
fn mark(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
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
