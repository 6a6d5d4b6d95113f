//! Rule files: found, read, compiled. One that is broken is named with its line, and the others still count.
//!
//! *Trusts*: that whoever chose the files wants them. *Never*: follows an `include` out of the folder that was named, reads a
//! file of more than [`MAX_FILE_BYTES`].

use boreal::compiler::{Compiler, CompilerBuilder, CompilerParams};
use boreal::{Metadata, MetadataValue, Scanner};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Largest rule file: the largest of the field have 10 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most files.
const MAX_FILES: usize = 100_000;
/// What field rules expect to be told of a file.
const EXTERNALS: [&str; 5] = ["filename", "filepath", "extension", "filetype", "owner"];

/// Compiled rules.
#[derive(Debug)]
pub struct Rules {
    scanner: Scanner,
    files: usize,
    bad: Vec<BadRules>,
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
}

impl Rules {
    /// Compiles rule files; of a folder all those below it that end in `.yar` or `.yara`.
    pub fn load(paths: &[PathBuf]) -> Result<Rules, RulesError> {
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
            match read(&path).and_then(|text| compile(&mut all, &path, &folder, &text).map(|()| text)) {
                Ok(text) => good.push((path, folder, text)),
                Err(why) => bad.push(BadRules { path, why }),
            }
        }
        // A file that does not compile may have left some of its rules behind: again without such files.
        if !bad.is_empty() {
            all = compiler();
            good.retain(|(path, folder, text)| match compile(&mut all, path, folder, text) {
                Ok(()) => true,
                Err(why) => {
                    bad.push(BadRules { path: path.clone(), why });
                    false
                }
            });
        }
        match (good.len(), bad.first()) {
            (0, Some(first)) => Err(RulesError::AllBad(first.clone())),
            (files, _) => Ok(Rules { scanner: all.finalize(), files, bad }),
        }
    }

    /// Files that are used.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Number of rules, private ones left out.
    pub fn len(&self) -> usize {
        self.scanner.rules().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Files that are not used, and why.
    pub fn bad(&self) -> &[BadRules] {
        &self.bad
    }

    pub(super) fn scanner(&self) -> &Scanner {
        &self.scanner
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

fn compiler() -> Compiler {
    let mut compiler = CompilerBuilder::new().build();
    compiler.set_params(CompilerParams::default().disable_unknown_escape_warning(true));
    for name in EXTERNALS {
        compiler.define_symbol(name, "");
    }
    compiler
}

/// Includes are read from the folder and what lies below it, and from nowhere else.
fn set_includes(compiler: &mut Compiler, folder: PathBuf) {
    compiler.set_include_callback(move |name, from, _| {
        let base = from.and_then(Path::parent).filter(|base| base.starts_with(&folder)).unwrap_or(&folder);
        let path = fs::canonicalize(base.join(name))?;
        if !path.starts_with(fs::canonicalize(&folder)?) {
            return Err(io::Error::other("an include that leaves the folder of the rules"));
        }
        read(&path).map_err(io::Error::other)
    });
}

fn compile(compiler: &mut Compiler, path: &Path, folder: &Path, text: &str) -> Result<(), String> {
    set_includes(compiler, folder.to_owned());
    let namespace = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    // Two files of the same name in different folders must not share names of rules.
    let namespace = format!("{namespace}#{:08x}", mark(path.to_string_lossy().as_bytes()));
    match compiler.add_rules_str_in_namespace(text, &namespace) {
        Ok(_) => Ok(()),
        // It calls the text `mem`.
        Err(error) => Err(error.to_string().trim_start_matches("mem:").to_owned()),
    }
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
