//! Rule files: found and read, with what they include.
//!
//! *Trusts*: that whoever chose the files wants them. *Never*: follows an `include` out of the folder that was named, reads a
//! file of more than [`MAX_FILE_BYTES`].

use super::rules::{BadRules, RulesError};
use boreal_parser::file::YaraFileComponent;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest rule file: the largest of the field have 10 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most files.
const MAX_FILES: usize = 100_000;
/// Deepest chain of includes, and most of them in a file.
const MAX_INCLUDE_DEPTH: u32 = 16;
const MAX_INCLUDES: u32 = 10_000;

/// A rule file that was found.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) namespace: String,
    /// Its text, with its includes in their places.
    pub(super) text: String,
    pub(super) has_includes: bool,
}

/// All files of these paths, in order; of a folder all those below it that end in `.yar` or `.yara`.
pub(super) fn read_all(paths: &[PathBuf]) -> Result<Vec<Result<Source, BadRules>>, RulesError> {
    let mut files = Vec::new();
    for path in paths {
        find(path, true, &mut files)?;
    }
    if files.is_empty() {
        let named = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(RulesError::None(named));
    }
    let read = |(path, folder): (PathBuf, PathBuf)| {
        Source::read(&path, &folder).map_err(|why| BadRules { path, why })
    };
    Ok(files.into_iter().map(read).collect())
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
        let parse = |text| boreal_parser::parse(text).map(|file| file.components).unwrap_or_default();
        let components = if text.contains("include") { parse(text) } else { Vec::new() };
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

/// Two files of the same name in different folders must not share names of rules.
fn namespace(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{stem}#{:08x}", mark(path.to_string_lossy().as_bytes()))
}

/// FNV-1a: a short mark of a path, nothing more.
fn mark(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
