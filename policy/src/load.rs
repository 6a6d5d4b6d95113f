//! A folder of policy files, read and put together.
//!
//! *Does*: reads every `*.toml` below a folder in the order of their paths, within limits, and merges them; a name that two files
//! give is an error that names both places. *Never*: follows a link out of the folder, or gives a value meaning.

use crate::error::{ErrorKind, Errors, LoadError, PolicyError};
use crate::place::{At, FileId, Place, Sources};
use crate::suggest;
use crate::syntax::{
    AddressEntry, File, GroupEntry, PolicyEntry, ServiceEntry, SiteEntry, TemplateEntry, TestEntry, VmEntry,
};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A policy file may have so many bytes.
pub const MAX_FILE_BYTES: u64 = 8 << 20;
/// All of them together so many.
pub const MAX_TOTAL_BYTES: u64 = 64 << 20;
/// A folder may have so many files.
pub const MAX_FILES: usize = 4096;
/// Folders may be nested so deep.
const MAX_FOLDER_DEPTH: usize = 16;
/// A folder may have so many things of one kind: VMs, groups, policies, …
const MAX_ENTRIES: usize = 50_000;

/// Something from a policy file, with the file.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) file: FileId,
    pub(crate) item: At<T>,
}

impl<T> Entry<T> {
    pub(crate) fn get(&self) -> &T {
        self.item.get()
    }
}

/// Things by name.
pub(crate) type Named<T> = BTreeMap<String, Entry<T>>;

/// What a folder's files say, not yet understood.
#[derive(Default, Debug)]
pub struct Folder {
    /// The files.
    pub sources: Sources,
    pub(crate) site: Option<Entry<SiteEntry>>,
    pub(crate) vms: Named<VmEntry>,
    pub(crate) groups: Named<GroupEntry>,
    pub(crate) addresses: Named<AddressEntry>,
    pub(crate) services: Named<ServiceEntry>,
    pub(crate) templates: Named<TemplateEntry>,
    pub(crate) policies: Named<PolicyEntry>,
    pub(crate) tests: Vec<Entry<TestEntry>>,
}

impl Folder {
    /// Reads a folder, or a single file.
    pub fn load(path: &Path) -> Result<Folder, LoadError> {
        Folder::parse(read_files(path)?)
    }

    /// Understands the syntax of texts, each with its file's name.
    pub fn parse(texts: Vec<(String, String)>) -> Result<Folder, LoadError> {
        let mut folder = Folder::default();
        let mut errors = Errors::default();
        for (name, text) in texts {
            let file = folder.sources.add(name, text);
            match toml::from_str::<File>(folder.sources.text(file)) {
                Ok(parsed) => folder.merge(file, parsed, &mut errors),
                Err(error) => {
                    let place = folder.place(file, error.span().unwrap_or(0..0));
                    errors.push(place, ErrorKind::Syntax(suggest::improve(error.message())));
                }
            }
        }
        errors.or(folder)
    }

    pub(crate) fn place(&self, file: FileId, span: Range<usize>) -> Place {
        self.sources.place(file, &span)
    }

    /// Where an entry stands.
    pub(crate) fn place_of<T>(&self, entry: &Entry<T>) -> Place {
        self.place(entry.file, entry.item.span())
    }

    fn merge(&mut self, file: FileId, parsed: File, errors: &mut Errors) {
        let sources = &self.sources;
        if let Some(item) = parsed.site {
            match &self.site {
                Some(first) => errors.push(
                    sources.place(file, &item.span()),
                    ErrorKind::Duplicate {
                        kind: "section",
                        name: "site".to_owned(),
                        first: sources.place(first.file, &first.item.span()),
                    },
                ),
                None => self.site = Some(Entry { file, item }),
            }
        }
        put(sources, "VM", file, parsed.vm, &mut self.vms, errors);
        put(sources, "group", file, parsed.group, &mut self.groups, errors);
        put(sources, "address set", file, parsed.addresses, &mut self.addresses, errors);
        put(sources, "service set", file, parsed.services, &mut self.services, errors);
        put(sources, "template", file, parsed.template, &mut self.templates, errors);
        put(sources, "policy", file, parsed.policy, &mut self.policies, errors);
        self.tests.extend(parsed.test.into_iter().map(|item| Entry { file, item }));
    }
}

/// Adds one file's things of a kind to all of that kind.
fn put<T>(
    sources: &Sources,
    kind: &'static str,
    file: FileId,
    from: BTreeMap<String, At<T>>,
    to: &mut Named<T>,
    errors: &mut Errors,
) {
    for (name, item) in from {
        let place = sources.place(file, &item.span());
        if !is_name(&name) {
            let why = "it must be 1 to 64 letters, digits, `_`, `-` or `.`, and begin with a letter or digit"
                .to_owned();
            errors.push(place, ErrorKind::Value { value: name, expected: "name", why });
        } else if let Some(first) = to.get(&name) {
            let first = sources.place(first.file, &first.item.span());
            errors.push(place, ErrorKind::Duplicate { kind, name, first });
        } else if to.len() >= MAX_ENTRIES {
            errors.push(place, ErrorKind::TooMany { what: kind, limit: MAX_ENTRIES });
            return;
        } else {
            to.insert(name, Entry { file, item });
        }
    }
}

/// Names end up in logs, counters and nft's identifiers.
pub(crate) fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=64).contains(&name.len())
        && name.chars().all(is_plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// The texts of a folder's files with their paths below it, or of one file with its name.
pub fn read_files(path: &Path) -> Result<Vec<(String, String)>, LoadError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Io { path, source }
    };
    let is_folder = std::fs::metadata(path).map_err(io(path))?.is_dir();
    let mut found = Vec::new();
    if is_folder {
        list(path, 0, &mut found)?;
        if found.is_empty() {
            return Err(LoadError::Empty { path: path.to_owned() });
        }
    } else {
        found.push(path.to_owned());
    }
    found.sort();
    let mut total_bytes = 0u64;
    let mut texts = Vec::with_capacity(found.len());
    for file in found {
        let bytes = std::fs::metadata(&file).map_err(io(&file))?.len();
        total_bytes = total_bytes.saturating_add(bytes);
        if bytes > MAX_FILE_BYTES || total_bytes > MAX_TOTAL_BYTES {
            return Err(LoadError::TooLarge { path: file, bytes });
        }
        let below = if is_folder { file.strip_prefix(path).unwrap_or(&file) } else { &file };
        texts.push((below.display().to_string(), std::fs::read_to_string(&file).map_err(io(&file))?));
    }
    Ok(texts)
}

/// Finds the policy files of a folder. Hidden files and links are left alone: editors and version control keep theirs beside ours.
fn list(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), LoadError> {
    let io = |source| LoadError::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let kind = entry.file_type().map_err(io)?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() && depth < MAX_FOLDER_DEPTH {
            list(&path, depth + 1, found)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "toml") {
            if found.len() >= MAX_FILES {
                return Err(LoadError::TooManyFiles { path: folder.to_owned() });
            }
            found.push(path);
        }
    }
    Ok(())
}

/// Reads a file of another kind as strictly as a policy: an unknown key is an error with its place and a suggestion.
pub fn from_toml<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T, PolicyError> {
    toml::from_str(text).map_err(|error| {
        let mut sources = Sources::default();
        let file = sources.add(name.to_owned(), text.to_owned());
        let place = sources.place(file, &error.span().unwrap_or(0..0));
        PolicyError { place, kind: ErrorKind::Syntax(suggest::improve(error.message())) }
    })
}
