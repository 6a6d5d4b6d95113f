//! Paths as the kernel's `d_path` prints them: from a mount and a dentry, across mount points, up to a root.
//!
//! *Trusts*: nothing. Parents and mounts may run in circles, names may have no end; both are bounded.
//! *Never*: escapes anything. A name is returned as the guest wrote it, with U+FFFD where it is not UTF-8.
//!
//! Layouts: `include/linux/dcache.h`, `fs/mount.h`, `include/linux/mount.h`; algorithm `fs/d_path.c` (Linux 5.10 to 7.2).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod cache;
mod text;

pub(crate) use cache::PathCache;

use super::record::{Record, Span};
use super::{Resolved, View};
use crate::{GapReason, Gva};
use lynceus_profiles::{Field, FieldKind, Profile, ProfileError};
use text::{Brent, Text};

/// Longest name of one directory entry (`NAME_MAX`).
const MAX_NAME_BYTES: u32 = 255;

/// Where the walk from a dentry upwards ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// At the root asked for.
    Root,
    /// At the top of a mount namespace, without meeting the root asked for.
    Namespace,
    /// At the top of a mount that belongs to no namespace: unmounted, or not yet mounted.
    Detached,
    /// At a directory that its mount does not contain.
    Escaped,
}

/// A directory: a mount (`struct vfsmount`) and a dentry in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PathAt {
    /// Address of the `struct vfsmount`.
    pub mount: Gva,
    /// Address of the `struct dentry`.
    pub dentry: Gva,
}

/// Members of dentries, mounts and what names pseudo files.
#[derive(Clone, Debug)]
pub struct PathLayout {
    dentry: Span,
    hash: Field,
    parent: Field,
    name_len: Field,
    name: Field,
    inline_name: Field,
    inode: Field,
    operations: Field,
    super_block: Field,
    fs_data: Field,
    dname: Field,
    pub(crate) mount_embedded: Field,
    mount: Span,
    mount_parent: Field,
    mount_point: Field,
    mount_root: Field,
    mount_ns: Field,
    inode_number: Field,
    inode_private: Field,
    fs_type: Field,
    fs_name: Field,
    ns_operations: Field,
    ns_name: Field,
    /// Since 6.9 the inode of a namespace file leads to the namespace; before, its dentry names the kind.
    ns_by_inode: bool,
}

impl PathLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let dentry = |path| profile.field("dentry", path);
        let mount = |path| profile.field("mount", path);
        let hash = dentry("d_hash.pprev")?;
        let inline_name = dentry("d_shortname.string").or_else(|_| dentry("d_iname"))?;
        let (parent, name_len, name) = (dentry("d_parent")?, dentry("d_name.len")?, dentry("d_name.name")?);
        let (inode, operations, super_block) = (dentry("d_inode")?, dentry("d_op")?, dentry("d_sb")?);
        let (mount_parent, mount_point) = (mount("mnt_parent")?, mount("mnt_mountpoint")?);
        let mount_root = mount("mnt.mnt_root")?;
        Ok(PathLayout {
            dentry: Span::of(&[hash, parent, name_len, name, inline_name, inode, operations, super_block]),
            hash,
            parent,
            name_len,
            name,
            inline_name,
            inode,
            operations,
            super_block,
            fs_data: dentry("d_fsdata")?,
            dname: profile.field("dentry_operations", "d_dname")?,
            mount_embedded: mount("mnt")?,
            mount: Span::of(&[mount_parent, mount_point, mount_root]),
            mount_parent,
            mount_point,
            mount_root,
            mount_ns: mount("mnt_ns")?,
            inode_number: profile.field("inode", "i_ino")?,
            inode_private: profile.field("inode", "i_private")?,
            fs_type: profile.field("super_block", "s_type")?,
            fs_name: profile.field("file_system_type", "name")?,
            ns_operations: profile.field("ns_common", "ops")?,
            ns_name: profile.field("proc_ns_operations", "name")?,
            ns_by_inode: profile.field("ns_common", "stashed")?.kind == FieldKind::Pointer,
        })
    }
}

impl<'a> View<'a> {
    /// The path of a file (`struct path`'s two members) as `/proc/PID/fd` and `/proc/PID/maps` show it to a reader at the
    /// root of the file's mount namespace: `" (deleted)"` where unlinked, `socket:[N]` and the like for files without
    /// a place in a tree.
    ///
    /// Like the kernel, it does not mark a path whose mount is detached: see [`View::path_below`] for that.
    pub fn path(&self, mount: Gva, dentry: Gva) -> Result<String, GapReason> {
        let at = PathAt { mount, dentry };
        if let Some(known) = self.path_cache().path(at) {
            return Ok(known);
        }
        let text = self.build_path(at)?;
        self.path_cache().keep(at, &text);
        Ok(text)
    }

    /// The path of `at` as seen from `root` (`None`: from the top of its mount namespace), and where the walk ended.
    /// Neither deleted nor pseudo files are treated specially.
    pub fn path_below(&self, at: PathAt, root: Option<PathAt>) -> Result<(String, Reach), GapReason> {
        let layout = self.path_layout()?;
        let mut walk = Walk::new(self, layout, at)?;
        let reach = walk.up(root)?;
        Ok((walk.finish(reach, ""), reach))
    }

    /// The path of `dentry` within its own file system, whatever is mounted where: `dentry_path` in the kernel.
    pub fn path_within_fs(&self, dentry: Gva) -> Result<String, GapReason> {
        let layout = self.path_layout()?;
        let (mut text, mut at, mut guard) = (Text::default(), dentry, Brent::default());
        let mut folder = None;
        let path = loop {
            if let Some(known) = self.path_cache().folder(at).filter(|_| !text.is_empty()) {
                break text.behind(known)?;
            }
            let entry = self.record(at, layout.dentry)?;
            let parent = entry.pointer(layout.parent)?;
            let name = dentry_name(self, layout, &entry);
            // A file that is in no directory (`memfd`) is its own parent, as a root is, and has a name.
            let is_root = !text.is_empty() || !name.as_ref().is_ok_and(|name| name != b"/");
            if parent == at && is_root {
                let suffix = if text.is_empty() { "/" } else { "" };
                break text.finish(suffix);
            }
            text.prepend(&name?)?;
            if parent == at {
                break text.finish("");
            }
            folder = folder.or(Some((parent, text.len())));
            at = parent;
            guard.step((at.0, 0))?;
        };
        if let Some((folder, own_bytes)) = folder {
            self.path_cache().keep_folder(folder, &path, own_bytes);
        }
        Ok(path)
    }

    /// What an inode's file system keeps at it (`inode.i_private`).
    pub(super) fn inode_private(&self, inode: Gva) -> Result<Gva, GapReason> {
        Ok(Gva(self.integer(inode, self.path_layout()?.inode_private)?))
    }

    fn path_layout(&self) -> Result<&'a PathLayout, ProfileError> {
        self.kernel().layouts.path.as_ref().map_err(Clone::clone)
    }

    fn build_path(&self, at: PathAt) -> Result<String, GapReason> {
        let layout = self.path_layout()?;
        let mut walk = Walk::new(self, layout, at)?;
        let is_root = walk.entry.pointer(layout.parent)? == at.dentry;
        let operations = walk.entry.pointer(layout.operations)?;
        if !operations.is_null() && (!is_root || walk.mount.root != at.dentry) {
            let named_by = self.integer(operations, layout.dname)?;
            if named_by != 0 {
                return pseudo_name(self, layout, &walk.entry);
            }
        }
        let unlinked = walk.entry.integer(layout.hash)? == 0 && !is_root;
        let reach = walk.up(None)?;
        Ok(walk.finish(reach, if unlinked { " (deleted)" } else { "" }))
    }
}

/// The three members of a mount that the way up needs.
#[derive(Clone, Copy)]
struct MountEdge {
    parent: Gva,
    point: Gva,
    root: Gva,
}

/// A walk from a dentry towards a root: `__prepend_path` of `fs/d_path.c`.
struct Walk<'v, 'a> {
    view: &'v View<'a>,
    layout: &'v PathLayout,
    mount_at: Gva,
    mount: MountEdge,
    dentry: Gva,
    entry: Record<'v, 'a>,
    text: Text,
    guard: Brent,
}

impl<'v, 'a> Walk<'v, 'a> {
    fn new(view: &'v View<'a>, layout: &'v PathLayout, at: PathAt) -> Result<Self, GapReason> {
        let mount_at = container(at.mount, layout.mount_embedded)?;
        Ok(Walk {
            view,
            layout,
            mount_at,
            mount: mount_edge(view, layout, mount_at)?,
            dentry: at.dentry,
            entry: view.record(at.dentry, layout.dentry)?,
            text: Text::default(),
            guard: Brent::default(),
        })
    }

    fn up(&mut self, root: Option<PathAt>) -> Result<Reach, GapReason> {
        let layout = self.layout;
        loop {
            let here =
                PathAt { mount: self.mount_at.field(layout.mount_embedded.offset), dentry: self.dentry };
            if root == Some(here) {
                return Ok(Reach::Root);
            }
            if self.dentry == self.mount.root {
                if self.mount.parent == self.mount_at {
                    return self.top();
                }
                let point = self.mount.point;
                self.mount_at = self.mount.parent;
                self.mount = mount_edge(self.view, layout, self.mount_at)?;
                self.enter(point)?;
                continue;
            }
            let parent = self.entry.pointer(layout.parent)?;
            if parent == self.dentry {
                return self.escaped();
            }
            self.text.prepend(&dentry_name(self.view, layout, &self.entry)?)?;
            self.enter(parent)?;
        }
    }

    /// A directory can be moved out of what a mount shows, but not to another file system: then one of the two is no such thing.
    fn escaped(&self) -> Result<Reach, GapReason> {
        let root = self.view.record(self.mount.root, self.layout.dentry)?;
        if root.pointer(self.layout.super_block)? != self.entry.pointer(self.layout.super_block)? {
            return Err(GapReason::Inconsistent("a directory is not in the file system of its mount"));
        }
        Ok(Reach::Escaped)
    }

    fn enter(&mut self, dentry: Gva) -> Result<(), GapReason> {
        self.guard.step((self.mount_at.0, dentry.0))?;
        self.dentry = dentry;
        // The root of a mount is only compared, never read: its name is the mount point's.
        if dentry != self.mount.root {
            self.entry = self.view.record(dentry, self.layout.dentry)?;
        }
        Ok(())
    }

    /// `is_mounted` and `is_anon_ns` of `fs/mount.h`: an error pointer is what unmounting leaves.
    fn top(&self) -> Result<Reach, GapReason> {
        let namespace = self.view.integer(self.mount_at, self.layout.mount_ns)?;
        let is_error = namespace > u64::MAX - 4096;
        Ok(if namespace == 0 || is_error { Reach::Detached } else { Reach::Namespace })
    }

    fn finish(self, reach: Reach, suffix: &str) -> String {
        let text = if reach == Reach::Escaped { Text::default() } else { self.text };
        let slash = if text.is_empty() { "/" } else { "" };
        text.finish(slash) + suffix
    }
}

/// What `d_dname` prints: `fs/pipe.c`, `net/socket.c`, `fs/nsfs.c`, `fs/anon_inodes.c`, `fs/pidfs.c`, and for the rest
/// (memfd, shared memory) `simple_dname` of `fs/d_path.c`.
fn pseudo_name(view: &View<'_>, layout: &PathLayout, entry: &Record<'_, '_>) -> Result<String, GapReason> {
    let name = || dentry_name(view, layout, entry).map(|name| String::from_utf8_lossy(&name).into_owned());
    let inode = entry.pointer(layout.inode)?;
    let number = || view.integer(inode, layout.inode_number);
    let fs_type = Gva(view.integer(entry.pointer(layout.super_block)?, layout.fs_type)?);
    let fs_name = Gva(view.integer(fs_type, layout.fs_name)?);
    Ok(match view.string(fs_name, 32)?.as_str() {
        "sockfs" => format!("socket:[{}]", number()?),
        "pipefs" => format!("pipe:[{}]", number()?),
        "anon_inodefs" => format!("anon_inode:{}", name()?),
        "pidfs" => "anon_inode:[pidfd]".to_owned(),
        "nsfs" => format!("{}:[{}]", namespace_kind(view, layout, entry.base(), inode)?, number()?),
        _ => format!("/{} (deleted)", name()?),
    })
}

fn namespace_kind(
    view: &View<'_>,
    layout: &PathLayout,
    dentry: Gva,
    inode: Gva,
) -> Result<String, GapReason> {
    let operations = if layout.ns_by_inode {
        let namespace = view.inode_private(inode)?;
        view.integer(namespace, layout.ns_operations)?
    } else {
        view.integer(dentry, layout.fs_data)?
    };
    let name = view.integer(Gva(operations), layout.ns_name)?;
    Ok(view.string(Gva(name), 32)?)
}

fn mount_edge(view: &View<'_>, layout: &PathLayout, mount: Gva) -> Result<MountEdge, GapReason> {
    let record = view.record(mount, layout.mount)?;
    Ok(MountEdge {
        parent: record.pointer(layout.mount_parent)?,
        point: record.pointer(layout.mount_point)?,
        root: record.pointer(layout.mount_root)?,
    })
}

fn dentry_name(view: &View<'_>, layout: &PathLayout, entry: &Record<'_, '_>) -> Result<Vec<u8>, GapReason> {
    let length = entry.u32(layout.name_len)?;
    if length > MAX_NAME_BYTES {
        return Err(GapReason::Inconsistent("a directory entry's name is longer than 255 bytes"));
    }
    let at = entry.pointer(layout.name)?;
    let length = usize::try_from(length).unwrap_or(0);
    let mut name = vec![0; length];
    let inline = entry.base().field(layout.inline_name.offset);
    match entry.slice_at(layout.inline_name, length) {
        Some(copied) if at == inline => name.copy_from_slice(copied),
        _ => view.space().read(at, &mut name)?,
    }
    Ok(name)
}

/// The object that embeds `member` at `at`: `container_of`.
fn container(at: Gva, member: Field) -> Result<Gva, GapReason> {
    at.checked_sub(u64::from(member.offset)).ok_or(GapReason::Inconsistent("a pointer near zero"))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;
