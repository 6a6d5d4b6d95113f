//! The state's files.
//!
//! *Does*: keeps all of the state in one file, and what changed since it was written in another, so that a change of one VM among a thousand
//! does not write all of them. *Trusts*: the folder, which only root may write. *Never*: leaves half a file, or takes changes for those of
//! another state than they were written for.

use super::{Pending, State, StateError};
use crate::names::Book;
use lynceus_policy::FORMAT;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

/// The file of what is enforced.
const ENFORCED: &str = "enforced.json";
/// What is different since that was written.
const SINCE: &str = "since.json";
/// The file of what names stand for: it changes with their TTL, and not with the rules.
const NAMES: &str = "names.json";
/// A state file may have so many bytes.
const MAX_BYTES: u64 = 1 << 30;
/// Of more VMs than one in so many that changed, all are written.
const FEW: usize = 8;
/// How often a state is read again that is replaced meanwhile.
const TRIES: usize = 100;

/// What changed since all was written: the state with these VMs only, and those that are gone.
#[derive(Serialize, Deserialize)]
struct Since {
    state: State,
    gone: BTreeSet<String>,
}

/// A state as it is on disk, and the VMs that stand in [`SINCE`].
#[derive(Clone)]
struct Known {
    state: State,
    since: BTreeSet<String>,
}

/// The last state that this process read or wrote: a thousand VMs take long to parse, and rarely change.
static LAST: Mutex<Option<(PathBuf, Stamp, Known)>> = Mutex::new(None);

/// The folder of the state, held by one process at a time.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the folder, makes it if missing, and waits until no other process holds it.
    pub fn open(folder: &Path) -> Result<Store, StateError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { path, source }
        };
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let path = folder.join("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(io(&path))?;
        lock.lock().map_err(io(&path))?;
        Ok(Store { folder: folder.to_owned(), _lock: lock })
    }

    /// What is enforced; nothing on a new host.
    pub fn enforced(&self) -> Result<Option<State>, StateError> {
        peek(&self.folder)
    }

    /// Keeps what is enforced from now on.
    pub fn keep(&self, state: &State) -> Result<(), StateError> {
        let known = known(&self.folder).ok().flatten();
        let changed = known.as_ref().map(|known| known.changed(state));
        let few = changed.filter(|changed| changed.len() <= state.vms.len() / FEW);
        let known = match (known, few) {
            (Some(known), Some(since)) => {
                let state = State { base: known.state.base, ..state.clone() };
                let (here, gone): (BTreeSet<_>, BTreeSet<_>) =
                    since.iter().cloned().partition(|vm| state.vms.contains_key(vm));
                let vms = state.vms.iter().filter(|(vm, _)| here.contains(*vm));
                let vms = vms.map(|(name, vm)| (name.clone(), vm.clone())).collect();
                write(&self.folder.join(SINCE), &Since { state: State { vms, ..state.clone() }, gone })?;
                Known { state, since }
            }
            _ => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let state = State { base: now.as_nanos(), ..state.clone() };
                // What stands beside it names another state from here on.
                write(&self.folder.join(ENFORCED), &state)?;
                remove(&self.folder.join(SINCE))?;
                Known { state, since: BTreeSet::new() }
            }
        };
        remember(&self.folder, stamp(&self.folder), known);
        Ok(())
    }

    /// What names stood for, and until when.
    pub fn names(&self) -> Result<Book, StateError> {
        names(&self.folder)
    }

    /// Keeps it.
    pub fn keep_names(&self, book: &Book) -> Result<(), StateError> {
        write(&self.folder.join(NAMES), book)
    }

    /// Tells one book on disk from another.
    pub fn names_stamp(&self) -> FileStamp {
        file_stamp(&self.folder.join(NAMES))
    }

    /// The change that waits for its confirmation.
    pub fn pending(&self) -> Result<Option<Pending>, StateError> {
        read(&self.folder.join("pending.json"))
    }

    /// A change waits for its confirmation, or no longer.
    pub fn set_pending(&self, pending: Option<&Pending>) -> Result<(), StateError> {
        let path = self.folder.join("pending.json");
        match pending {
            Some(pending) => write(&path, pending),
            None => remove(&path),
        }
    }
}

impl Known {
    /// The VMs that are others in `state` than where all was written.
    fn changed(&self, state: &State) -> BTreeSet<String> {
        let (old, new) = (&self.state.vms, &state.vms);
        let differs = |vm: &&String| old.get(*vm) != new.get(*vm);
        old.keys().chain(new.keys()).filter(differs).chain(&self.since).cloned().collect()
    }
}

/// A file, told from another of the same name.
pub type FileStamp = Option<(u64, i64, i64)>;
/// Tells one state on disk from another: each is a new file.
pub type Stamp = (FileStamp, FileStamp);

/// The stamp of the state in a folder; none where nothing is enforced.
pub fn stamp(folder: &Path) -> Option<Stamp> {
    file_stamp(&folder.join(ENFORCED)).map(|all| (Some(all), file_stamp(&folder.join(SINCE))))
}

fn file_stamp(path: &Path) -> FileStamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// What names stood for, without waiting for those who change it; nothing where nobody ever asked.
pub fn names(folder: &Path) -> Result<Book, StateError> {
    Ok(read(&folder.join(NAMES))?.unwrap_or_default())
}

/// What is enforced, without waiting for those who change it: a state is put there whole.
pub fn peek(folder: &Path) -> Result<Option<State>, StateError> {
    Ok(known(folder)?.map(|known| known.state))
}

fn known(folder: &Path) -> Result<Option<Known>, StateError> {
    let mut before = stamp(folder);
    for _ in 0..TRIES {
        if let (Ok(last), Some(before)) = (LAST.lock(), &before)
            && let Some((of, stamp, known)) = last.as_ref()
            && (of.as_path(), stamp) == (folder, before)
        {
            return Ok(Some(known.clone()));
        }
        let known = both(folder)?;
        let after = stamp(folder);
        // The two files are one state only if neither was replaced meanwhile.
        if before == after {
            known.iter().for_each(|known| remember(folder, before, known.clone()));
            return Ok(known);
        }
        before = after;
    }
    let path = folder.join(ENFORCED);
    let source = std::io::Error::other("it is replaced faster than it can be read");
    Err(StateError::Io { path, source })
}

fn remember(folder: &Path, stamp: Option<Stamp>, known: Known) {
    if let (Ok(mut last), Some(stamp)) = (LAST.lock(), stamp) {
        *last = Some((folder.to_owned(), stamp, known));
    }
}

/// All, and what changed since.
fn both(folder: &Path) -> Result<Option<Known>, StateError> {
    let path = folder.join(ENFORCED);
    let state: State = match read(&path)? {
        Some(State { format, .. }) if format != FORMAT => {
            return Err(StateError::Format { path, found: format });
        }
        Some(state) => state,
        None => return Ok(None),
    };
    let since: Option<Since> = read(&folder.join(SINCE))?;
    let Some(Since { state: newer, gone }) = since.filter(|since| since.state.base == state.base) else {
        return Ok(Some(Known { state, since: BTreeSet::new() }));
    };
    let since = newer.vms.keys().cloned().chain(gone).collect::<BTreeSet<String>>();
    let mut vms: BTreeMap<_, _> = state.vms;
    vms.retain(|name, _| !since.contains(name));
    vms.extend(newer.vms);
    Ok(Some(Known { state: State { vms, ..newer }, since }))
}

fn remove(path: &Path) -> Result<(), StateError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StateError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(io)?;
    let damaged =
        |error: serde_json::Error| StateError::Damaged { path: path.to_owned(), why: error.to_string() };
    serde_json::from_slice(&text).map(Some).map_err(damaged)
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let text = serde_json::to_vec(value)
        .map_err(|error| StateError::Damaged { path: path.to_owned(), why: error.to_string() })?;
    replace(path, &text).map_err(io)
}

/// Writes a file whole, and only then gives it its name.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    std::fs::rename(&new, path)?;
    // The name is on disk when its folder is.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Vm;
    use lynceus_policy::{Folder, Policy};
    use std::sync::Arc;

    /// So many VMs, the last of which may send to a port.
    fn state(vms: usize, port: u16) -> State {
        let mut text = String::new();
        for vm in 0..vms {
            let port = if vm + 1 == vms { port } else { 1 };
            text += &format!(
                "[policy.p{vm}]\nvms=['v{vm}']\n[[policy.p{vm}.rule]]\ndirection='out'\naction='allow'\nservices=['tcp/{port}']\n[vm.v{vm}]\n[[vm.v{vm}.interface]]\nmac='52:54:00:00:00:{vm:02x}'\naddresses=[]\n"
            );
        }
        let policy = Policy::of(&Folder::parse(vec![("p".to_owned(), text)]).unwrap()).unwrap();
        let vm = |of: &Arc<lynceus_policy::VmPolicy>| Vm { policy: of.clone(), isolation: of.clone() };
        let vms = policy.vms.into_iter().map(|(name, of)| (name, vm(&Arc::new(of)))).collect();
        State { vms, generation: port.into(), ..State::default() }
    }

    /// What another process would read.
    fn read_anew(folder: &Path) -> State {
        let mut found = both(folder).unwrap().unwrap().state;
        assert_eq!(found, peek(folder).unwrap().unwrap());
        found.base = 0;
        found
    }

    #[test]
    fn few_changes_are_kept_beside_and_read_back_with_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let all = folder.path().join(ENFORCED);
        for (vms, port, is_whole) in
            [(20, 5, true), (20, 6, false), (19, 7, false), (20, 8, false), (3, 9, true), (20, 10, true)]
        {
            let before = std::fs::metadata(&all).ok().map(|meta| meta.ino());
            store.keep(&state(vms, port)).unwrap();
            assert_eq!(read_anew(folder.path()), state(vms, port), "{vms} {port}");
            let after = std::fs::metadata(&all).ok().map(|meta| meta.ino());
            assert_eq!(before != after, is_whole, "{vms} {port}");
        }
    }

    #[test]
    fn changes_of_another_state_are_none() {
        let (folder, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::open(folder.path()).unwrap();
        store.keep(&state(20, 1)).unwrap();
        store.keep(&state(20, 2)).unwrap();
        std::fs::copy(folder.path().join(SINCE), kept.path().join(SINCE)).unwrap();
        Store::open(kept.path()).unwrap().keep(&state(20, 3)).unwrap();
        // As if it had ended between the two.
        std::fs::copy(folder.path().join(SINCE), kept.path().join(SINCE)).unwrap();
        assert_eq!(read_anew(kept.path()), state(20, 3));
        // One that is cut off is told, and not passed over.
        std::fs::write(folder.path().join(SINCE), "{").unwrap();
        assert!(matches!(peek(folder.path()), Err(StateError::Damaged { .. })));
    }
}
