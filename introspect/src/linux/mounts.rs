//! Mounts of a mount namespace, as `/proc/PID/mountinfo` lists them.
//!
//! *Trusts*: nothing. *Never*: asks a file system for its own options (`size=`, `uid=`): those live in structures of
//! each file system and are left out; the generic ones are all there.
//!
//! Layouts: `fs/mount.h`, `include/linux/mount.h`, `fs/proc_namespace.c` (Linux 5.10 to 7.2).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::path::{PathAt, Reach};
use super::record::{Record, Span};
use super::{Resolved, View};
use crate::{AccessError, GapReason, Gva, Partial};
use lynceus_profiles::{Field, Profile};

/// `MNT_READONLY`.
const READ_ONLY: u64 = 0x40;
/// `MNT_CURSOR`: a reader's bookmark on the list, not a mount.
const CURSOR: u64 = 0x1000_0000;
/// `show_vfsmnt_opts`: `MNT_` flags in the order that `/proc` prints them.
const MOUNT_FLAGS: [(u64, &str); 7] = [
    (0x01, "nosuid"),
    (0x02, "nodev"),
    (0x04, "noexec"),
    (0x08, "noatime"),
    (0x10, "nodiratime"),
    (0x20, "relatime"),
    (0x80, "nosymfollow"),
];
/// `show_sb_opts`: `SB_` flags in the order that `/proc` prints them.
const SUPER_FLAGS: [(u64, &str); 4] =
    [(1 << 4, "sync"), (1 << 7, "dirsync"), (1 << 6, "mand"), (1 << 25, "lazytime")];

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Its id, unique while it is mounted.
    pub id: u32,
    /// Id of the mount it is mounted on (its own at the top).
    pub parent: u32,
    /// Device number: major in the bits from 20 up, minor below.
    pub device: u32,
    /// Which directory of the file system it shows.
    pub root: String,
    /// Where it is mounted, as seen from the root that the listing was made for.
    pub mountpoint: String,
    /// How `mountpoint` was reached; `/proc/PID/mountinfo` hides all but [`Reach::Root`].
    pub reach: Reach,
    /// File-system type, with its subtype (`fuse.sshfs`).
    pub fs_type: String,
    /// What is mounted: a device, or a name (`none` where it has none).
    pub source: String,
    /// Options of the mount: `rw,nosuid,…`.
    pub options: String,
    /// Generic options of the file system: `rw,sync,…`.
    pub super_options: String,
    /// Address of the `struct mount`.
    pub at: Gva,
}

/// Members of mounts, their namespaces and super blocks.
#[derive(Clone, Debug)]
pub struct MountsLayout {
    members: Members,
    id: Field,
    pub(super) embedded: Field,
    pub(super) parent: Field,
    pub(super) point: Field,
    pub(super) parent_dentry: Field,
    dev_name: Field,
    pub(super) root: Field,
    super_block: Field,
    flags: Field,
    mount: Span,
    device: Field,
    super_flags: Field,
    fs_type: Field,
    subtype: Field,
    fs_name: Field,
}

/// How a namespace holds its mounts.
#[derive(Clone, Copy, Debug)]
enum Members {
    /// A list of `mnt_list` nodes (to 6.7).
    List { head: Field, node: Field },
    /// A red-black tree of `mnt_node` nodes (from 6.8).
    Tree { root: Field, node: Field },
}

impl MountsLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let mount = |path| profile.field("mount", path);
        let (id, parent, dev_name) = (mount("mnt_id")?, mount("mnt_parent")?, mount("mnt_devname")?);
        let (root, super_block) = (mount("mnt.mnt_root")?, mount("mnt.mnt_sb")?);
        let flags = mount("mnt.mnt_flags")?;
        let members = match profile.field("mnt_namespace", "mounts.rb_node") {
            Ok(root) => Members::Tree { root, node: mount("mnt_node")? },
            Err(_) => {
                Members::List { head: profile.field("mnt_namespace", "list")?, node: mount("mnt_list")? }
            }
        };
        Ok(MountsLayout {
            members,
            id,
            embedded: mount("mnt")?,
            parent,
            point: mount("mnt_mountpoint")?,
            parent_dentry: profile.field("dentry", "d_parent")?,
            dev_name,
            root,
            super_block,
            flags,
            mount: Span::of(&[id, parent, dev_name, root, super_block, flags]),
            device: profile.field("super_block", "s_dev")?,
            super_flags: profile.field("super_block", "s_flags")?,
            fs_type: profile.field("super_block", "s_type")?,
            subtype: profile.field("super_block", "s_subtype")?,
            fs_name: profile.field("file_system_type", "name")?,
        })
    }

    /// Whether it is a reader's bookmark.
    fn is_cursor(&self, mount: &Record<'_, '_>) -> Result<bool, AccessError> {
        Ok(matches!(self.members, Members::List { .. }) && mount.integer(self.flags)? & CURSOR != 0)
    }

    /// The directory of its file system that a mount shows.
    fn shows(&self, mount: &Record<'_, '_>) -> Result<PathAt, AccessError> {
        Ok(PathAt { mount: mount.base().field(self.embedded.offset), dentry: mount.pointer(self.root)? })
    }
}

#[cfg(test)]
impl MountsLayout {
    /// One for walks that need no more than where mounts lie.
    pub(super) fn for_tests() -> Self {
        use super::testing::pointer;
        MountsLayout {
            members: Members::List { head: pointer(0), node: pointer(0) },
            id: pointer(0),
            embedded: pointer(16),
            parent: pointer(0),
            point: pointer(8),
            parent_dentry: pointer(24),
            dev_name: pointer(0),
            root: pointer(16),
            super_block: pointer(24),
            flags: pointer(32),
            mount: Span::default(),
            device: pointer(0),
            super_flags: pointer(0),
            fs_type: pointer(0),
            subtype: pointer(0),
            fs_name: pointer(0),
        }
    }
}

impl<'a> View<'a> {
    pub(super) fn mounts_layout(&self) -> Result<&'a MountsLayout, GapReason> {
        Ok(self.kernel().layouts.mounts.as_ref().map_err(Clone::clone)?)
    }

    /// The mounts of the `struct mnt_namespace` at `namespace`, with mount points as seen from `root`
    /// (a task's root directory; `None`: the top of the namespace).
    pub fn mounts(&self, namespace: Gva, root: Option<PathAt>) -> Partial<Mount> {
        self.each_mount(namespace, |layout, mount| self.mount(layout, mount, root).map(Some))
    }

    /// The directories that mounts of one type of file system show, without where they are mounted: a path costs more than all else of a mount.
    pub(super) fn mounted(&self, namespace: Gva, fs_type: &str) -> Partial<PathAt> {
        self.each_mount(namespace, |layout, mount| {
            let is_meant = self.fs_type(layout, mount.pointer(layout.super_block)?)? == fs_type;
            Ok(if is_meant { Some(layout.shows(mount)?) } else { None })
        })
    }

    /// What is read of each `struct mount` of a namespace, but readers' bookmarks among them.
    fn each_mount<T>(
        &self,
        namespace: Gva,
        read: impl Fn(&MountsLayout, &Record<'_, '_>) -> Result<Option<T>, GapReason>,
    ) -> Partial<T> {
        let layout = match self.mounts_layout() {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("mounts", missing),
        };
        let mut found = Partial::default();
        let (nodes, node) = match layout.members {
            Members::List { head, node } => (self.list("mounts", namespace.field(head.offset)), node),
            Members::Tree { root, node } => (self.rb_tree("mounts", namespace.field(root.offset)), node),
        };
        for at in found.absorb(nodes) {
            let at = Gva(at.0.wrapping_sub(u64::from(node.offset)));
            let mount = self
                .record(at, layout.mount)
                .map_err(GapReason::from)
                .and_then(|mount| if layout.is_cursor(&mount)? { Ok(None) } else { read(layout, &mount) });
            let mount = found.ok("mount", at, mount);
            found.items.extend(mount.flatten());
        }
        found
    }

    fn mount(
        &self,
        layout: &MountsLayout,
        mount: &Record<'_, '_>,
        root: Option<PathAt>,
    ) -> Result<Mount, GapReason> {
        let (flags, super_block) = (mount.integer(layout.flags)?, mount.pointer(layout.super_block)?);
        let shown = layout.shows(mount)?;
        let (mountpoint, reach) = self.path_below(shown, root)?;
        let super_flags = self.integer(super_block, layout.super_flags)?;
        Ok(Mount {
            id: mount.u32(layout.id)?,
            parent: (self.integer(mount.pointer(layout.parent)?, layout.id)? & 0xffff_ffff) as u32,
            device: (self.integer(super_block, layout.device)? & 0xffff_ffff) as u32,
            root: self.path_within_fs(shown.dentry)?,
            mountpoint,
            reach,
            fs_type: self.fs_type(layout, super_block)?,
            source: self.source(mount.pointer(layout.dev_name)?)?,
            options: options(flags & READ_ONLY != 0, flags, &MOUNT_FLAGS),
            super_options: options(super_flags & 1 != 0, super_flags, &SUPER_FLAGS),
            at: mount.base(),
        })
    }

    fn fs_type(&self, layout: &MountsLayout, super_block: Gva) -> Result<String, AccessError> {
        let fs_type = Gva(self.integer(super_block, layout.fs_type)?);
        let name = self.string(Gva(self.integer(fs_type, layout.fs_name)?), 64)?;
        let subtype = Gva(self.integer(super_block, layout.subtype)?);
        if subtype.is_null() {
            return Ok(name);
        }
        Ok(format!("{name}.{}", self.string(subtype, 64)?))
    }

    fn source(&self, name: Gva) -> Result<String, AccessError> {
        if name.is_null() { Ok("none".to_owned()) } else { self.string(name, 4096) }
    }
}

fn options(read_only: bool, flags: u64, names: &[(u64, &str)]) -> String {
    let mut text = if read_only { "ro" } else { "rw" }.to_owned();
    for (flag, name) in names {
        if flags & flag != 0 {
            text.push(',');
            text.push_str(name);
        }
    }
    text
}
