//! From what the admin typed to a guest that can be looked at.

use crate::cli::LookArgs;
use crate::output::escape;
use anyhow::{Context, Result};
use lynceus_introspect::find::{self, Attached};
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::observe::Options;
use lynceus_introspect::target::{OpenOptions, Target};
use lynceus_profiles::store::ProfileStore;
use lynceus_scanners::Finding;
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
        Ok(Guest { name: name.to_owned(), backend: target.describe(), attached, options, damaged })
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
