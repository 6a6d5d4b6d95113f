//! The profile store: one file per kernel build, so that the next attach takes milliseconds.
//!
//! *Trusted* profiles are imported by the admin and keyed by build id. *Learned* ones were built from a guest's
//! memory and are content-addressed: the file is named by a BLAKE3 digest of all the guest bytes it was built from,
//! and says where, counted from `_text`, these bytes lie. An attach hashes the same places of the new guest and uses
//! the entry only when the digest is the same. A profile is a pure function of those bytes, so a hostile guest can
//! only ever store what a guest with the very same bytes would have got anyway.
//!
//! A worker that gives up the right to open files takes an [opened](ProfileStore::opened) store with it, and hands back what it
//! learned.
//!
//! *Trusts*: the directory, which only its owner may write to. *Never*: hands a learned profile to a guest by build
//! id or banner alone, keeps more than [`MAX_LEARNED`] learned profiles, or leaves a half-written file.

mod format;
mod opened;

use crate::{Identity, Profile, kallsyms};
use opened::{AtStart, Opened};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Most learned profiles kept; the one used longest ago goes first.
pub const MAX_LEARNED: usize = 64;
/// Most files looked at in the directory.
const MAX_FILES: usize = 4096;
const EXTENSION: &str = "lyp";
/// Largest kernel file kept: distributions' have 10 to 70 MB, with debug information half a gigabyte.
const MAX_KERNEL_BYTES: u64 = 256 << 20;

/// Who vouches for a profile.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// The admin, who imported it.
    Trusted,
    /// Nobody: it was read from a guest's memory and holds for guests with the same bytes.
    Learned,
}

/// A piece of guest memory that a profile was built from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SourceRange {
    /// Physical distance from the kernel's `_text`, in bytes.
    pub offset_from_text: i64,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// BLAKE3 over all source ranges: place, length and bytes of each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SourceDigest(pub [u8; 32]);

/// Computes a [`SourceDigest`], range after range, in the header's order.
#[derive(Debug, Default)]
pub struct SourceHasher(blake3::Hasher);

impl SourceHasher {
    /// Begins a range; its bytes follow by [`SourceHasher::bytes`].
    pub fn range(&mut self, range: SourceRange) {
        self.0.update(&range.offset_from_text.to_le_bytes());
        self.0.update(&range.len_bytes.to_le_bytes());
    }
    /// Adds bytes of the current range.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// The digest of everything added.
    pub fn finish(&self) -> SourceDigest {
        SourceDigest(*self.0.finalize().as_bytes())
    }
}

/// What can be told of a stored profile without loading it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Who vouches for it.
    pub origin: Origin,
    /// Build id, banner and release.
    pub identity: Identity,
    /// Distance of `linux_banner` from `_text` in bytes.
    pub banner_offset: Option<i64>,
    /// Distance of the build-id note from `_text` in bytes.
    pub build_id_offset: Option<i64>,
    /// Digest of the bytes it was built from; zero for a trusted profile.
    pub digest: SourceDigest,
    /// Where these bytes lie; empty for a trusted profile.
    pub ranges: Vec<SourceRange>,
}

impl Header {
    /// What an imported profile is stored under. `build_id_offset` is where the build id's bytes lie from `_text`, if known.
    pub fn trusted(profile: &Profile, build_id_offset: Option<i64>) -> Header {
        let distance = |name| profile.symbols.address(name)?.checked_sub(kallsyms::LINK_TEXT);
        Header {
            origin: Origin::Trusted,
            identity: profile.identity.clone(),
            banner_offset: distance("linux_banner").and_then(|distance| i64::try_from(distance).ok()),
            build_id_offset,
            digest: SourceDigest::default(),
            ranges: Vec::new(),
        }
    }
}

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Reading failed, of a file without a name.
    #[error("the stored profile cannot be read: {0}")]
    Read(io::Error),
    /// Others may write to the directory, so nothing in it can be trusted.
    #[error(
        "{0} belongs to or can be written by someone else: chown it and `chmod go-w`, or choose another directory"
    )]
    Insecure(PathBuf),
    /// Some other file.
    #[error("not a stored profile")]
    NotAProfile,
    /// Made by another release.
    #[error("stored profile of version {0}, this release reads {v}: delete it, it will be made anew", v = format::VERSION)]
    Version(u32),
    /// Damaged.
    #[error("the stored profile is damaged ({0}): delete it, it will be made anew")]
    Damaged(&'static str),
    /// Over the format's limits.
    #[error("the profile is too large to be stored")]
    TooLarge,
    /// A learned profile is found by its bytes.
    #[error("a learned profile needs the ranges of guest memory it was built from")]
    NoSources,
}

type Loaded = (Header, Arc<Profile>);

/// A directory of profiles.
#[derive(Clone, Debug)]
pub struct ProfileStore {
    directory: PathBuf,
    /// Files that were opened before: then the directory is out of reach.
    opened: Option<Arc<Opened>>,
    /// The profile loaded last: an attach that has to try several layouts of memory asks for the same one again.
    last: Arc<Mutex<Option<Loaded>>>,
}

impl ProfileStore {
    /// `LYNCEUS_PROFILES`, else `/var/lib/lynceus/profiles` for root and the user's cache directory for others.
    pub fn default_directory() -> PathBuf {
        if let Some(chosen) = std::env::var_os("LYNCEUS_PROFILES").filter(|chosen| !chosen.is_empty()) {
            return chosen.into();
        }
        // /proc/self belongs to the effective user.
        if fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0) {
            return "/var/lib/lynceus/profiles".into();
        }
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("lynceus/profiles")
    }

    /// Opens `directory`, and makes it (mode 0700) where it is missing.
    pub fn open(directory: impl Into<PathBuf>) -> Result<ProfileStore, StoreError> {
        let directory = directory.into();
        let failed = |source| StoreError::Io { path: directory.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
        let meta = fs::metadata(&directory).map_err(failed)?;
        let me = fs::metadata("/proc/self").map(|me| me.uid()).map_err(failed)?;
        if meta.mode() & 0o022 != 0 || (meta.uid() != me && meta.uid() != 0) {
            return Err(StoreError::Insecure(directory));
        }
        Ok(ProfileStore { directory, opened: None, last: Arc::default() })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Headers of all readable profiles, trusted ones first. Damaged and foreign files are left out.
    pub fn headers(&self) -> Result<Vec<Header>, StoreError> {
        let mut headers: Vec<Header> = match &self.opened {
            Some(opened) => opened.headers().collect(),
            None => self.files()?.iter().filter_map(|path| read_header(path).ok()).collect(),
        };
        headers.sort_by_key(|header| header.origin == Origin::Learned);
        Ok(headers)
    }

    /// The header of the trusted profile for a kernel: by its build id, else by its banner.
    pub fn trusted(&self, identity: &Identity) -> Option<Header> {
        let by_banner = Identity { build_id: None, ..identity.clone() };
        let header = |identity: &Identity| match &self.opened {
            Some(opened) => opened.trusted(&trusted_name(identity)),
            None => read_header(&self.directory.join(trusted_name(identity))).ok(),
        };
        let found = header(identity).or_else(|| header(&by_banner))?;
        (found.origin == Origin::Trusted && found.identity.banner == identity.banner).then_some(found)
    }

    /// Loads the profile that a header belongs to.
    pub fn load(&self, header: &Header) -> Result<Arc<Profile>, StoreError> {
        let mut last = self.last();
        if let Some((_, profile)) = last.as_ref().filter(|(loaded, _)| loaded == header) {
            return Ok(profile.clone());
        }
        let (found, profile) = match &self.opened {
            Some(opened) => opened.load(header)?,
            None => self.load_file(header)?,
        };
        if found != *header {
            return Err(StoreError::Damaged("another profile under this name"));
        }
        let profile = Arc::new(profile);
        *last = Some((found, profile.clone()));
        Ok(profile)
    }

    fn load_file(&self, header: &Header) -> Result<(Header, Profile), StoreError> {
        let path = self.path(header)?;
        let failed = |source| StoreError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        let loaded = format::decode(&mut AtStart::of(&file)).map_err(|error| match error {
            StoreError::Read(source) => failed(source),
            other => other,
        })?;
        // The time of last use decides which learned profile goes first. A read-only store works as well.
        let _ = file.set_modified(SystemTime::now());
        Ok(loaded)
    }

    /// Stores a profile under its header. `header.identity` must be the profile's.
    pub fn save(&self, header: &Header, profile: &Profile) -> Result<(), StoreError> {
        *self.last() = None;
        let path = self.path(header)?;
        let bytes = format::encode(header, profile)?;
        match &self.opened {
            Some(opened) => opened.learn(bytes),
            None => {
                write_file(&path, &bytes)?;
                evict(&self.directory, MAX_LEARNED)
            }
        }
    }

    /// Deletes a profile.
    pub fn remove(&self, header: &Header) -> Result<(), StoreError> {
        *self.last() = None;
        let path = self.path(header)?;
        fs::remove_file(&path).map_err(|source| StoreError::Io { path, source })
    }

    /// Keeps a copy of a kernel's own file, so that what a guest has of it in memory can be compared.
    pub fn keep_kernel(&self, identity: &Identity, file: &mut impl Read) -> Result<(), StoreError> {
        let path = self.directory.join(kernel_name(identity));
        let failed = |source| StoreError::Io { path: path.clone(), source };
        let mut copy = tempfile::NamedTempFile::new_in(&self.directory).map_err(failed)?;
        let copied = io::copy(&mut Read::take(file, MAX_KERNEL_BYTES + 1), &mut copy).map_err(failed)?;
        if copied > MAX_KERNEL_BYTES {
            return Err(StoreError::TooLarge);
        }
        copy.as_file().sync_all().map_err(failed)?;
        copy.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// The kernel's own file that was kept for this build, if one was.
    pub fn kernel(&self, identity: &Identity) -> Option<Arc<File>> {
        let name = kernel_name(identity);
        match &self.opened {
            Some(opened) => opened.kernel(&name),
            None => File::open(self.directory.join(name)).ok().map(Arc::new),
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Loaded>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, header: &Header) -> Result<PathBuf, StoreError> {
        let name = match header.origin {
            Origin::Trusted => trusted_name(&header.identity),
            Origin::Learned if header.ranges.is_empty() => return Err(StoreError::NoSources),
            Origin::Learned => {
                format!("learned-{}.{EXTENSION}", blake3::Hash::from_bytes(header.digest.0).to_hex())
            }
        };
        Ok(self.directory.join(name))
    }

    fn files(&self) -> Result<Vec<PathBuf>, StoreError> {
        files(&self.directory, EXTENSION)
    }
}

/// A directory's files of one kind.
fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::Io { path: directory.to_owned(), source };
    let entries = fs::read_dir(directory).map_err(failed)?;
    let paths = entries.take(MAX_FILES).filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|end| end == extension)).collect())
}

fn is_learned(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("learned-"))
}

/// Writes all of a file, or none of it.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Deletes all learned profiles of a directory but the `most` that were used last.
fn evict(directory: &Path, most: usize) -> Result<(), StoreError> {
    let used = |path: PathBuf| Some((fs::metadata(&path).ok()?.modified().ok()?, path));
    let learned = files(directory, EXTENSION)?.into_iter().filter(|path| is_learned(path));
    let mut learned: Vec<_> = learned.filter_map(used).collect();
    learned.sort();
    for (_, path) in learned.iter().take(learned.len().saturating_sub(most)) {
        fs::remove_file(path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
    }
    Ok(())
}

/// Decodes a stored profile from the bytes of its file.
pub fn decode(mut file: &[u8]) -> Result<(Header, Profile), StoreError> {
    format::decode(&mut file)
}

/// By build id; a profile that carries none (ISF) by a digest of its banner.
fn trusted_name(identity: &Identity) -> String {
    match identity.build_id {
        Some(id) => format!("trusted-{id}.{EXTENSION}"),
        None => format!("trusted-{}.{EXTENSION}", blake3::hash(identity.banner.as_bytes()).to_hex()),
    }
}

/// By the same mark as its trusted profile.
fn kernel_name(identity: &Identity) -> String {
    trusted_name(identity).replace("trusted-", "kernel-").replace(EXTENSION, "image")
}

fn read_header(path: &Path) -> Result<Header, StoreError> {
    let failed = |source| StoreError::Io { path: path.to_owned(), source };
    header_of(&File::open(path).map_err(failed)?).map_err(|error| match error {
        StoreError::Read(source) => failed(source),
        other => other,
    })
}

fn header_of(file: &File) -> Result<Header, StoreError> {
    let mut file = AtStart::of(file);
    let mut bytes = vec![0; 2048];
    let have = file.read(&mut bytes).map_err(StoreError::Read)?;
    bytes.truncate(have);
    let need = format::PREFIX_BYTES.saturating_add(format::Prefix::parse(&bytes)?.header_bytes);
    let more = need.saturating_sub(have) as u64;
    file.take(more).read_to_end(&mut bytes).map_err(StoreError::Read)?;
    format::decode_header(&bytes)
}

#[cfg(test)]
mod tests;
