//! Credentials: user and group ids, and capabilities.
//!
//! Layout: `struct cred` (`include/linux/cred.h`). A capability set is 64 bits, as two words through 6.2 and one later.

use super::record::Span;
use super::{Resolved, Task, View};
use crate::{GapReason, Gva};
use lynceus_profiles::{Field, Profile};

/// A task's objective credentials (`task_struct.real_cred`), as `/proc/PID/status` shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Creds {
    /// Address of the `struct cred`.
    pub at: Gva,
    /// Real, effective, saved and file-system user id.
    pub uids: [u32; 4],
    /// Real, effective, saved and file-system group id.
    pub gids: [u32; 4],
    /// Inheritable, permitted, effective, bounding and ambient capabilities.
    pub caps: [u64; 5],
    /// Its user namespace.
    pub user_ns: Gva,
    /// Address of its list of groups (`struct group_info`), which those share that did not set their own.
    pub groups: Gva,
}

/// Members of credentials.
#[derive(Clone, Debug)]
pub struct CredsLayout {
    real_cred: Field,
    uids: [Field; 4],
    gids: [Field; 4],
    caps: [Field; 5],
    user_ns: Field,
    groups: Field,
    span: Span,
}

impl CredsLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let cred = |member| profile.field("cred", member);
        let uids = [cred("uid")?, cred("euid")?, cred("suid")?, cred("fsuid")?];
        let gids = [cred("gid")?, cred("egid")?, cred("sgid")?, cred("fsgid")?];
        let caps = [
            cred("cap_inheritable")?,
            cred("cap_permitted")?,
            cred("cap_effective")?,
            cred("cap_bset")?,
            cred("cap_ambient")?,
        ];
        let (user_ns, groups) = (cred("user_ns")?, cred("group_info")?);
        let all: Vec<Field> =
            uids.iter().chain(&gids).chain(&caps).chain([&user_ns, &groups]).copied().collect();
        let real_cred = profile.field("task_struct", "real_cred")?;
        Ok(CredsLayout { real_cred, uids, gids, caps, user_ns, groups, span: Span::of(&all) })
    }
}

impl View<'_> {
    /// The credentials of a task.
    pub fn creds(&self, task: &Task) -> Result<Creds, GapReason> {
        let layout = self.kernel().layouts.creds.as_ref().map_err(Clone::clone)?;
        let at = Gva(self.integer(task.at, layout.real_cred)?);
        let cred = self.record(at, layout.span)?;
        let (user_ns, groups) = (cred.pointer(layout.user_ns)?, cred.pointer(layout.groups)?);
        let mut creds = Creds { at, uids: [0; 4], gids: [0; 4], caps: [0; 5], user_ns, groups };
        // kuid_t, kgid_t and kernel_cap_t are structures around their number: the first bytes are it.
        for (to, field) in
            creds.uids.iter_mut().zip(layout.uids).chain(creds.gids.iter_mut().zip(layout.gids))
        {
            *to = cred.integer(field)? as u32;
        }
        for (to, field) in creds.caps.iter_mut().zip(layout.caps) {
            *to = cred.integer(field)?;
        }
        Ok(creds)
    }
}
