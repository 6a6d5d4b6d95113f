//! A task's root and working directory.
//!
//! *Trusts*: nothing; what the two lead to is walked by [`View::path`], which is bounded.
//! Layout: `struct fs_struct` (`include/linux/fs_struct.h`), Linux 5.10 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{PathAt, Resolved, Task, View};
use crate::{AccessError, GapReason};
use lynceus_profiles::{Field, Profile};

/// Members of `fs_struct`: mount and dentry of each directory.
#[derive(Clone, Debug)]
pub struct FsLayout {
    root: (Field, Field),
    cwd: (Field, Field),
}

impl FsLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let fs = |path| profile.field("fs_struct", path);
        Ok(FsLayout { root: (fs("root.mnt")?, fs("root.dentry")?), cwd: (fs("pwd.mnt")?, fs("pwd.dentry")?) })
    }
}

impl View<'_> {
    /// The root directory of a task, where its absolute paths begin; `None` for one that has none left (a zombie).
    pub fn root_of(&self, task: &Task) -> Result<Option<PathAt>, GapReason> {
        let layout = self.kernel().layouts.fs.as_ref().map_err(Clone::clone)?;
        Ok(self.directory(task, layout.root)?)
    }

    /// The working directory of a task; `None` for one that has none left (a zombie).
    pub fn cwd_of(&self, task: &Task) -> Result<Option<PathAt>, GapReason> {
        let layout = self.kernel().layouts.fs.as_ref().map_err(Clone::clone)?;
        Ok(self.directory(task, layout.cwd)?)
    }

    fn directory(&self, task: &Task, (mount, dentry): (Field, Field)) -> Result<Option<PathAt>, AccessError> {
        if task.fs.is_null() {
            return Ok(None);
        }
        let pointer = |field| self.integer(task.fs, field).map(crate::Gva);
        Ok(Some(PathAt { mount: pointer(mount)?, dentry: pointer(dentry)? }))
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::Gva;
    use crate::linux::testing::{Bench, gva, pointer};

    fn task(fs: Gva) -> Task {
        Task {
            at: gva(0),
            pid: 1,
            tgid: 1,
            ppid: 0,
            comm: String::new(),
            state: 'S',
            kthread: false,
            start_boottime_ns: 0,
            mm: Gva(0),
            files: Gva(0),
            fs,
        }
    }

    #[test]
    fn root_and_working_directory_are_told_apart() {
        let mut bench = Bench::new();
        let layout = FsLayout { root: (pointer(8), pointer(16)), cwd: (pointer(24), pointer(32)) };
        bench.layouts().fs = Ok(layout);
        bench.link(0x1008, 0x10).link(0x1010, 0x20).link(0x1018, 0x30).link(0x1020, 0x40);
        bench.look(|view| {
            let at = |mount, dentry| Ok(Some(PathAt { mount: gva(mount), dentry: gva(dentry) }));
            assert_eq!(view.root_of(&task(gva(0x1000))), at(0x10, 0x20));
            assert_eq!(view.cwd_of(&task(gva(0x1000))), at(0x30, 0x40));
            assert_eq!(view.root_of(&task(Gva(0))), Ok(None));
            assert!(matches!(view.cwd_of(&task(Gva(8))), Err(GapReason::Access(_))));
        });
    }
}
