//! From what the admin typed to a guest that can be looked at, in two steps.
//!
//! *Does*: [`Prepared::open`] opens all that will be needed and reads nothing of the guest; it takes rights. [`Prepared::attach`] takes
//! none: between the two a worker locks itself down.
//! *Trusts*: the admin's names of targets and files. *Never*: opens a file once it has begun to read a guest.

use crate::cli::LookArgs;
use crate::output::escape;
use anyhow::{Context, Result, bail};
use lynceus_introspect::backend::qemu::{LayoutFrom, Place, Qemu};
use lynceus_introspect::backend::sealed::SealedMap;
use lynceus_introspect::find::{self, Attached};
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::target::{Control, OpenOptions, Target, Unread};
use lynceus_introspect::{ControlError, GapReason, Partial, Pause, Processors};
use lynceus_profiles::Shared;
use lynceus_profiles::kernel_file::{self, KernelImage};
use lynceus_profiles::module_file::ModuleFolder;
use lynceus_profiles::store::ProfileStore;
use lynceus_scanners::{DETECTORS, Detector, Finding};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Who speaks to the hypervisor, for those who may not do it themselves: stops the guest for a moment, and tells its processors' registers.
pub(crate) trait Asker: Pause + Processors + Send + Sync {}
impl<T: Pause + Processors + Send + Sync> Asker for T {}

/// A target that was opened with all that is needed to attach to it.
pub(crate) struct Prepared {
    name: String,
    target: Unread,
    store: Option<ProfileStore>,
    options: Options,
    image: ImageFiles,
    unpacked: Option<Unpacked>,
    modules: Option<ModuleFolder>,
    asker: Option<Arc<dyn Asker>>,
}

/// Kernels that somebody unpacked and that many processes have mapped, by the digests of their files.
type Unpacked = BTreeMap<String, Shared>;

/// The files that may be the kernel's own, open.
#[derive(Default)]
struct ImageFiles {
    /// The one that the admin named. No other will do then.
    given: Option<(String, File)>,
    /// The one that the VM was started with, or why it cannot be opened.
    booted_from: Option<Result<File>>,
}

impl Prepared {
    /// Opens a target and the profile store. Reads nothing of the guest.
    pub(crate) fn open(name: &str, look: &LookArgs) -> Result<Prepared> {
        let target = open_unread(name, look.allow_unrestricted)?;
        let max_pause = Duration::from_millis(look.pause_ms);
        let options = Options { tries: look.tries.max(1), max_pause, ..Options::default() };
        let (image, store) = (ImageFiles::default(), store(look));
        let name = name.to_owned();
        Ok(Prepared { name, target, store, options, image, unpacked: None, modules: None, asker: None })
    }

    /// Opens the kernel's own file as well: the one given, else the one that the VM was started with.
    pub(crate) fn with_image(mut self, given: Option<&Path>) -> Result<Prepared> {
        if let Some(path) = given {
            self.image.given = Some((path.display().to_string(), open_regular(path)?));
        } else if let Some(path) = self.target.kernel_file() {
            self.image.booted_from = Some(open_regular(&path));
        }
        Ok(self)
    }

    /// Opens kernels that are unpacked, to be used in the place of files with these digests. One that is gone by now is left out.
    pub(crate) fn with_unpacked(mut self, kernels: &BTreeMap<String, PathBuf>) -> Prepared {
        let map = |(digest, path): (&String, &PathBuf)| {
            let map = SealedMap::new(&open_regular(path).ok()?).ok()?;
            Some((digest.clone(), Shared::new(Arc::new(map))))
        };
        self.unpacked = Some(kernels.iter().filter_map(map).collect());
        self
    }

    /// Opens the files of modules in a block of that name, to be used where they are the kernel's. One that is gone by now is left out.
    pub(crate) fn with_modules(mut self, block: Option<&(String, PathBuf)>) -> Prepared {
        self.modules = block.and_then(|(key, path)| {
            let map = SealedMap::new(&open_regular(path).ok()?).ok()?;
            ModuleFolder::mapped(&Shared::new(Arc::new(map)), key).ok()
        });
        self
    }

    /// The file of this digest, of those that may be the kernel's own. For a worker's.
    pub(crate) fn image_of(&self, digest: &str) -> Option<Arc<File>> {
        let booted_from = self.image.booted_from.iter().flatten().filter_map(|file| file.try_clone().ok());
        let imported = self.store.iter().flat_map(ProfileStore::opened_kernels);
        let is_it = |file: &Arc<File>| digest_of(file).is_ok_and(|found| found == digest);
        booted_from.map(Arc::new).chain(imported).find(is_it)
    }

    /// From here on nothing takes rights: the store's files are opened, and who speaks to the hypervisor is `asker`, if anyone.
    /// What earlier workers of `vm` learned is there too.
    pub(crate) fn for_worker(mut self, vm: &str, asker: Option<Arc<dyn Asker>>) -> Result<Prepared> {
        self.target.confine();
        self.store = self.store.map(|store| store.opened(vm)).transpose()?;
        self.asker = asker;
        Ok(self)
    }

    /// Reads what the target is, and finds its kernel. What cannot be stored for the next time is said on standard error.
    pub(crate) fn attach(self) -> Result<Guest> {
        let Prepared { name, target, store, options, image, unpacked, modules, asker } = self;
        let target = target.read()?;
        let qemu = match &target {
            // One that could not be asked where its RAM is would not say this either, after half a second.
            Target::Vm(qemu) if qemu.can_pause() && *qemu.layout() == LayoutFrom::Qemu => Some(qemu.clone()),
            _ => None,
        };
        if qemu.as_ref().is_some_and(|qemu| matches!(qemu.place(), Ok(Place::Arriving))) {
            bail!("{name}: its guest migrates here, and is not here yet: there is half a memory to look at");
        }
        target.warnings().iter().for_each(|warning| eprintln!("lynceus: {name}: {}", escape(warning)));
        let found = find::attach_target(&target, store.as_ref());
        let mut attached = found.with_context(|| format!("{name} ({})", target.describe()))?;
        if let Some(error) = &attached.store_error {
            eprintln!("lynceus: the profile could not be kept: {error}");
        }
        let is_dump = matches!(target, Target::Dump { .. });
        if let Some(asker) = asker.filter(|_| !is_dump) {
            attached.guest = attached.guest.with_pause(asker.clone()).with_processors(asker);
        }
        let release = &attached.guest.kernel().profile.identity.release;
        if let Some(modules) = modules.filter(|modules| modules.release() == release) {
            attached.guest.set_module_files(Arc::new(modules));
        }
        let (backend, damaged) = (target.describe(), !target.warnings().is_empty());
        Ok(Guest { name, backend, attached, options, image, unpacked, unshared: None, store, damaged, qemu })
    }
}

/// An attached guest, and how to look at it.
pub(crate) struct Guest {
    /// What the admin called it.
    pub(crate) name: String,
    /// How its memory is reached.
    pub(crate) backend: String,
    /// The guest, and how it was found.
    pub(crate) attached: Attached,
    pub(crate) options: Options,
    image: ImageFiles,
    unpacked: Option<Unpacked>,
    /// The digest of the kernel's file, where it had to be read though others are unpacked.
    pub(crate) unshared: Option<String>,
    store: Option<ProfileStore>,
    /// The dump is damaged: not all of the guest's memory is there.
    pub(crate) damaged: bool,
    /// A VM that can be asked whether the guest is there still.
    qemu: Option<Arc<Qemu>>,
}

impl Guest {
    /// Finds the target, and its kernel.
    pub(crate) fn attach(name: &str, look: &LookArgs) -> Result<Guest> {
        Prepared::open(name, look)?.attach()
    }

    /// Finds the kernel's own file, to compare its memory with: the one given, the one that was imported, the one that the VM
    /// was started with. Tells which it is; none is no failure, one that was given and is another's is.
    pub(crate) fn find_image(&mut self) -> Result<Option<String>> {
        let ImageFiles { given, booted_from } = std::mem::take(&mut self.image);
        if let Some((path, file)) = given {
            self.set_image(&file).with_context(|| path.clone())?;
            return Ok(Some(path));
        }
        let identity = &self.linux().kernel().profile.identity;
        if let Some(file) = self.store.as_ref().and_then(|store| store.kernel(identity)) {
            match self.set_image(&file) {
                Ok(()) => return Ok(Some("the imported kernel".to_owned())),
                Err(error) => eprintln!("lynceus: the imported kernel cannot be used: {error:#}"),
            }
        }
        match booted_from.map(|file| file.and_then(|file| self.set_image(&file))) {
            Some(Ok(())) => Ok(Some("the file that the VM was started with".to_owned())),
            Some(Err(error)) => {
                eprintln!("lynceus: {}: the VM's -kernel cannot be used: {error:#}", self.name);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Finds the files of the kernel's modules: in the folder given, or the host's own, which is used where it has modules of that
    /// release. Tells which it is; a folder that was given and has none is a failure.
    pub(crate) fn find_modules(&mut self, given: Option<&Path>) -> Result<Option<String>> {
        let release = self.linux().kernel().profile.identity.release.clone();
        let folder = match given {
            Some(folder) => folder.to_owned(),
            None => match modules_of(Path::new(HOSTS_MODULES), &release) {
                Some(folder) => folder,
                None => return Ok(None),
            },
        };
        let files = ModuleFolder::open(&folder, &release).with_context(|| folder.display().to_string())?;
        if files.is_empty() {
            let none = || anyhow::anyhow!("{}: no modules in it", folder.display());
            return given.map_or(Ok(None), |_| Err(none()));
        }
        let from = files.path().display().to_string();
        self.attached.guest.set_module_files(Arc::new(files));
        Ok(Some(from))
    }

    fn set_image(&mut self, file: &File) -> Result<()> {
        let digest = self.unpacked.as_ref().map(|_| digest_of(file)).transpose()?;
        let block = |digest: &String| KernelImage::mapped(self.unpacked.as_ref()?.get(digest)?, digest).ok();
        let shared = digest.as_ref().and_then(block);
        let is_shared = shared.is_some();
        let image = shared.map_or_else(|| KernelImage::load(BufReader::new(file)), Ok)?;
        self.attached.guest.set_image(Arc::new(image))?;
        self.unshared = digest.filter(|_| !is_shared);
        Ok(())
    }

    /// What was learned of its kernel, for `ProfileStore::keep_for`. Of a guest that was prepared for a worker.
    pub(crate) fn take_learned(&self) -> Vec<Vec<u8>> {
        self.store.as_ref().map(ProfileStore::take_learned).unwrap_or_default()
    }

    /// The guest itself.
    pub(crate) fn linux(&self) -> &LinuxGuest {
        &self.attached.guest
    }

    /// What some of the detectors find in it, and what its attach did.
    pub(crate) fn look(&self, is_wanted: impl Fn(&Detector) -> bool) -> Partial<Finding> {
        let mut all = Partial { items: self.disagreements(), ..Partial::default() };
        for detector in DETECTORS.iter().filter(|detector| is_wanted(detector)) {
            let findings = (detector.run)(self.linux(), &self.options);
            let found = all.absorb(findings);
            all.items.extend(found);
        }
        self.note_missing(&mut all);
        all
    }

    /// What views of its kernel show at one moment.
    pub(crate) fn observe<T>(&self, look: impl FnMut(&View<'_>) -> Partial<T>) -> Partial<T> {
        let mut found = self.linux().observe(&self.options, look).result;
        self.note_left(&mut found);
        found
    }

    /// Notes what a look could not see, whatever it saw: what is hidden may be there.
    pub(crate) fn note_missing<T>(&self, found: &mut Partial<T>) {
        if self.damaged {
            found.gap("memory", None, GapReason::Inconsistent("the dump is damaged"));
        }
        self.note_left(found);
    }

    /// A guest that migrated away before the end of a look left what was, or half of it.
    fn note_left<T>(&self, found: &mut Partial<T>) {
        if self.qemu.as_ref().is_some_and(|qemu| matches!(qemu.place(), Ok(Place::Left))) {
            found.gap("memory", None, GapReason::Inconsistent("the guest has migrated away"));
        }
    }

    /// Where the guest's memory and the trusted profile of its kernel disagree.
    pub(crate) fn disagreements(&self) -> Vec<Finding> {
        lynceus_scanners::profile_disagreements(&self.attached.disagreements)
    }
}

/// Where the host keeps modules: those of its own kernels, and of the guests' that were installed for it.
pub(crate) const HOSTS_MODULES: &str = "/lib/modules";

/// The folder with the modules of a kernel, among those of others; none where there is none.
pub(crate) fn modules_of(all: &Path, release: &str) -> Option<PathBuf> {
    // A guest's release may be any text.
    let is_name = !release.is_empty() && !release.contains(['/', '\0']) && !release.starts_with('.');
    Some(all.join(release)).filter(|folder| is_name && folder.is_dir())
}

fn digest_of(mut file: &File) -> Result<String> {
    file.seek(SeekFrom::Start(0))?;
    Ok(kernel_file::digest(&mut file)?)
}

/// Opens a regular file, and waits for nobody who may be behind a pipe of that name.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    let named = || path.display().to_string();
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).with_context(named)?;
    if !file.metadata().with_context(named)?.is_file() {
        bail!("{}: not a regular file", path.display());
    }
    Ok(file)
}

/// Opens a target, and says what its admin should know of it.
pub(crate) fn open(name: &str, allow_unrestricted: bool) -> Result<Target> {
    Ok(open_unread(name, allow_unrestricted)?.read()?)
}

/// A running VM's hypervisor, to be asked about it. Reads nothing that a guest wrote.
pub(crate) fn control(name: &str, allow_unrestricted: bool) -> Result<Arc<dyn Control>, ControlError> {
    let opened = open_unread(name, allow_unrestricted);
    opened.map_err(|error| ControlError::Unavailable(format!("{error:#}")))?.control()
}

fn open_unread(name: &str, allow_unrestricted: bool) -> Result<Unread> {
    let target = Unread::open(name, OpenOptions { allow_unrestricted })?;
    if !target.is_restricted() {
        eprintln!(
            "lynceus: {name}: the handle that reads it could read other domains too: this kernel cannot restrict it"
        );
    }
    Ok(target)
}

/// The profile store; without one every attach goes the long way, which is worth a word but no failure.
fn store(look: &LookArgs) -> Option<ProfileStore> {
    if look.no_cache {
        return None;
    }
    open_store(look).map_err(|error| eprintln!("lynceus: no profile store: {error:#}")).ok()
}

/// The profile store where the command line or the environment puts it.
pub(crate) fn open_store(look: &LookArgs) -> Result<ProfileStore> {
    let directory = look.profiles.clone().unwrap_or_else(ProfileStore::default_directory);
    Ok(ProfileStore::open(directory)?)
}
