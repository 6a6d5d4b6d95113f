//! Everything that a worker gives up but system calls: namespaces, its user, capabilities, files, limits.
//!
//! *Trusts*: the host kernel. *Never*: takes a right that is refused for one that was given up: what a host cannot give is said.

use super::{Limits, Put, raw};
use anyhow::{Context, Result, ensure};
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The first of the numbers that belong to nobody: systemd's documentation leaves them to nobody from here to 2^31. A worker's
/// own is this and its process number, so that no two workers have the same.
const OWN_USERS: u32 = 0x7000_0000;
/// Room for what a worker waits on; nothing new can be opened anyway.
const MAX_DESCRIPTORS: u64 = 64;
/// From this on Landlock keeps signals and abstract sockets as well.
const SCOPED: i32 = 6;

/// A network without interfaces, and nobody's System V objects.
pub(super) fn namespaces() -> Result<Put> {
    match raw::leave_namespaces() {
        Ok(()) => Ok(Put::Holds("a network without interfaces, no IPC objects".to_owned())),
        Err(why) => Ok(Put::Missing(format!("it shares the host's network and IPC: {why}"))),
    }
}

/// A user and a group that own nothing.
pub(super) fn user() -> Result<Put> {
    let bounded = empty_bounding_set();
    let own = OWN_USERS | rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    let (uid, gid) = (Uid::from_raw(own), Gid::from_raw(own));
    let changed = rustix::thread::set_thread_groups(&[])
        .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid));
    match changed.and(bounded) {
        Ok(()) => Ok(Put::Holds(format!("user and group {own}, which own nothing"))),
        Err(Errno::PERM) => {
            Ok(Put::Missing("it keeps its user or its bounding set: not all of root's rights".to_owned()))
        }
        // In a container that has few numbers.
        Err(why) => Ok(Put::Missing(format!("it keeps its user: {why}"))),
    }
}

/// While there is the right to: what is not in this set cannot come back by executing anything.
fn empty_bounding_set() -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // The kernel has fewer.
            Err(Errno::INVAL) => break,
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

/// None, for good; and nobody else may look at the process.
pub(super) fn capabilities() -> Result<Put> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    // EINVAL: a kernel without ambient capabilities has none to clear.
    match rustix::thread::clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(why) => return Err(why).context("the ambient set"),
    }
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let left = rustix::thread::capabilities(None)?;
    ensure!(left == sets, "some are left: {left:?}");
    Ok(Put::Holds("none, no_new_privs".to_owned()))
}

/// Every right that Landlock of this kernel knows, given to nothing.
pub(super) fn landlock() -> Result<Put> {
    let newest = ABI::V9;
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?;
    let status = ruleset.restrict_self()?;
    let LandlockStatus::Available { effective_abi, .. } = status.landlock else {
        return Ok(Put::Missing(
            "this kernel has none, or it is not switched on (lsm=landlock,…)".to_owned(),
        ));
    };
    ensure!(status.ruleset != RulesetStatus::NotEnforced, "it was not enforced");
    let abi = effective_abi as i32;
    if abi < SCOPED {
        return Ok(Put::Missing(format!(
            "ABI {abi}: signals and abstract sockets are kept from {SCOPED} on"
        )));
    }
    Ok(Put::Holds(format!("ABI {abi}: no file, no port, no abstract socket, no signal")))
}

/// After all descriptors are open: none can be opened from here on.
pub(super) fn limits(limits: &Limits) -> Result<Put> {
    let own_user = rustix::process::getuid().as_raw() >= OWN_USERS;
    let all = [
        (Resource::Data, limits.memory_bytes),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Sigpending, 16),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::Nproc, limits.threads.into()),
    ];
    for (resource, most) in all {
        // This one counts all threads of a user: of another's it would count what is not ours.
        if resource == Resource::Nproc && !own_user {
            continue;
        }
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .with_context(|| format!("{resource:?}"))?;
    }
    let memory = format!("{} MiB of memory, no file grows", limits.memory_bytes >> 20);
    Ok(match own_user {
        true => Put::Holds(format!("{memory}, {} threads", limits.threads)),
        false => Put::Missing(format!("{memory}, but threads cannot be limited without a user of its own")),
    })
}
