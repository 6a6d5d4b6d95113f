//! What lies under a mount: places in a tree that no path leads to any more, because something else is mounted over them.
//!
//! *Trusts*: nothing; the way up is bounded. *Never*: calls what the root of a namespace covers covered: so every system leaves
//! the file system that it was started from, and since 7.0 that lies over another one itself.
//!
//! Layouts: `struct mount` (`fs/mount.h`), `struct dentry` (`include/linux/dcache.h`), Linux 5.10 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Mount, PathAt, View};
use crate::{GapReason, Gva};
use std::collections::HashMap;

/// Most directories and mounts on the way to a root.
const MAX_STEPS: u32 = 8 << 10;

impl View<'_> {
    /// The directory or file that a mount is mounted on, and so covers. At the top of a namespace it is its own.
    pub fn mounted_on(&self, mount: &Mount) -> Result<PathAt, GapReason> {
        let layout = self.mounts_layout()?;
        let parent = Gva(self.integer(mount.at, layout.parent)?);
        let dentry = Gva(self.integer(mount.at, layout.point)?);
        Ok(PathAt { mount: parent.field(layout.embedded.offset), dentry })
    }

    /// Which of the mounts, by what they are mounted on, stands between a file and whoever looks for it by its path.
    pub fn covering<'m>(
        &self,
        file: PathAt,
        mounts: &'m HashMap<PathAt, Mount>,
    ) -> Result<Option<&'m Mount>, GapReason> {
        let layout = self.mounts_layout()?;
        let (mut here, mut came_from, mut found) = (file, None, None);
        for _ in 0..MAX_STEPS {
            let embedded = u64::from(layout.embedded.offset);
            let mount = here.mount.checked_sub(embedded);
            let mount = mount.ok_or(GapReason::Inconsistent("a pointer near zero"))?;
            let root = Gva(self.integer(mount, layout.root)?);
            let above = Gva(self.integer(mount, layout.parent)?);
            if here.dentry == root && above == mount {
                return Ok(None);
            }
            found = found.or(mounts.get(&here).filter(|over| Some(over.at) != came_from));
            if found.is_some() && here.dentry != root {
                return Ok(found);
            }
            if here.dentry == root {
                came_from = Some(mount);
                let dentry = Gva(self.integer(mount, layout.point)?);
                here = PathAt { mount: above.field(layout.embedded.offset), dentry };
                continue;
            }
            let parent = Gva(self.integer(here.dentry, layout.parent_dentry)?);
            if parent == here.dentry {
                // In no directory, or moved out of what its mount shows.
                return Ok(None);
            }
            here.dentry = parent;
        }
        Err(GapReason::Limit(u64::from(MAX_STEPS)))
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::super::mounts::MountsLayout;
    use super::*;
    use crate::linux::Reach;
    use crate::linux::testing::{Bench, gva};

    /// Mounts at 0x1000 and 0x2000, the second on the dentry 0x4000 of the first, whose root is 0x3000. The file is 0x5000.
    fn bench() -> Bench {
        let mut bench = Bench::new();
        bench.layouts().mounts = Ok(MountsLayout::for_tests());
        let layout = MountsLayout::for_tests();
        let (parent, point, root) =
            (u64::from(layout.parent.offset), u64::from(layout.point.offset), u64::from(layout.root.offset));
        bench.link(0x1000 + parent, 0x1000).link(0x1000 + point, 0x3000).link(0x1000 + root, 0x3000);
        bench.link(0x2000 + parent, 0x1000).link(0x2000 + point, 0x4000).link(0x2000 + root, 0x6000);
        let up = u64::from(layout.parent_dentry.offset);
        for (dentry, above) in
            [(0x3000, 0x3000), (0x4000, 0x3000), (0x5000, 0x4000), (0x6000, 0x6000), (0x7000, 0x6000)]
        {
            bench.link(dentry + up, above);
        }
        bench
    }

    fn mount(at: u64) -> Mount {
        let text = String::new;
        Mount {
            id: 2,
            parent: 1,
            device: 0,
            root: text(),
            mountpoint: text(),
            reach: Reach::Root,
            fs_type: text(),
            source: text(),
            options: text(),
            super_options: text(),
            at: gva(at),
        }
    }

    fn over(view: &View<'_>) -> HashMap<PathAt, Mount> {
        let over = mount(0x2000);
        HashMap::from([(view.mounted_on(&over).expect("its place"), over)])
    }

    fn at(mount: u64, dentry: u64) -> PathAt {
        let embedded = u64::from(MountsLayout::for_tests().embedded.offset);
        PathAt { mount: gva(mount + embedded), dentry: gva(dentry) }
    }

    #[test]
    fn what_was_there_before_the_mount_is_covered_and_what_is_in_it_is_not() {
        bench().look(|view| {
            let mounts = over(view);
            let covering = |file| view.covering(file, &mounts).expect("a way").map(|mount| mount.at);
            assert_eq!(covering(at(0x1000, 0x5000)), Some(gva(0x2000)));
            assert_eq!(covering(at(0x1000, 0x4000)), Some(gva(0x2000)));
            assert_eq!(covering(at(0x2000, 0x7000)), None);
            assert_eq!(covering(at(0x1000, 0x3000)), None);
        });
    }

    #[test]
    fn a_way_up_without_end_is_refused() {
        let mut bench = bench();
        let up = u64::from(MountsLayout::for_tests().parent_dentry.offset);
        bench.link(0x7000 + up, 0x7100).link(0x7100 + up, 0x7000);
        let none = HashMap::new();
        bench.look(|view| {
            let way = view.covering(at(0x2000, 0x7000), &none);
            assert!(matches!(way, Err(GapReason::Limit(_))), "{way:?}");
            let nowhere = view.covering(PathAt { mount: Gva(8), dentry: gva(0x7000) }, &none);
            assert!(nowhere.is_err());
        });
    }
}
