//! From what the admin typed to a guest that can be looked at.

use crate::cli::LookArgs;
use crate::output::escape;
use anyhow::{Context, Result, bail};
use lynceus_introspect::find::{self, Attached};
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::observe::Options;
use lynceus_introspect::target::{OpenOptions, Target};
use lynceus_profiles::kernel_file::KernelImage;
use lynceus_profiles::store::ProfileStore;
use lynceus_scanners::Finding;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An attached guest, and how to look at it.
pub(crate) struct Guest {
    /// What the admin called it.
    pub(crate) name: String,
    /// How its memory is reached.
    pub(crate) backend: String,
    /// The guest, and how it was found.
    pub(crate) attached: Attached,
    pub(crate) options: Options,
    /// The file that its kernel was booted from, as the host tells.
    booted_from: Option<PathBuf>,
    store: Option<ProfileStore>,
    /// The dump is damaged: not all of the guest's memory is there.
    pub(crate) damaged: bool,
}

impl Guest {
    /// Finds the target, and its kernel. What cannot be stored for the next time is said on standard error.
    pub(crate) fn attach(name: &str, look: &LookArgs) -> Result<Guest> {
        let target = open(name, look.allow_unrestricted)?;
        let store = store(look);
        target.warnings().iter().for_each(|warning| eprintln!("lynceus: {name}: {}", escape(warning)));
        let found = find::attach_target(&target, store.as_ref());
        let attached = found.with_context(|| format!("{name} ({})", target.describe()))?;
        if let Some(error) = &attached.store_error {
            eprintln!("lynceus: the profile could not be kept: {error}");
        }
        let max_pause = Duration::from_millis(look.pause_ms);
        let options = Options { tries: look.tries.max(1), max_pause, ..Options::default() };
        let damaged = !target.warnings().is_empty();
        let booted_from = target.kernel_file();
        Ok(Guest {
            name: name.to_owned(),
            backend: target.describe(),
            attached,
            options,
            booted_from,
            store,
            damaged,
        })
    }

    /// Finds the kernel's own file, to compare its memory with: the one given, the one that was imported, the one that the VM
    /// was started with. Tells which it is; none is no failure, one that was given and is another's is.
    pub(crate) fn find_image(&mut self, given: Option<&Path>) -> Result<Option<String>> {
        if let Some(path) = given {
            self.set_image(open_regular(path)?).with_context(|| path.display().to_string())?;
            return Ok(Some(path.display().to_string()));
        }
        let identity = &self.linux().kernel().profile.identity;
        if let Some(file) = self.store.as_ref().and_then(|store| store.kernel(identity)) {
            match self.set_image(file) {
                Ok(()) => return Ok(Some("the imported kernel".to_owned())),
                Err(error) => eprintln!("lynceus: the imported kernel cannot be used: {error:#}"),
            }
        }
        let Some(path) = self.booted_from.clone() else { return Ok(None) };
        match open_regular(&path).and_then(|file| self.set_image(file)) {
            Ok(()) => Ok(Some("the file that the VM was started with".to_owned())),
            Err(error) => {
                eprintln!("lynceus: {}: the VM's -kernel cannot be used: {error:#}", self.name);
                Ok(None)
            }
        }
    }

    fn set_image(&mut self, file: File) -> Result<()> {
        let image = KernelImage::load(BufReader::new(file))?;
        Ok(self.attached.guest.set_image(Arc::new(image))?)
    }

    /// The guest itself.
    pub(crate) fn linux(&self) -> &LinuxGuest {
        &self.attached.guest
    }

    /// Where the guest's memory and the trusted profile of its kernel disagree.
    pub(crate) fn disagreements(&self) -> Vec<Finding> {
        lynceus_scanners::profile_disagreements(&self.attached.disagreements)
    }
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
    let target = Target::open_with(name, OpenOptions { allow_unrestricted })?;
    if let Target::Xen(domain) = &target
        && !domain.is_restricted()
    {
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
