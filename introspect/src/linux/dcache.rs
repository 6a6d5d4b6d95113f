//! The directory cache: which names the kernel knows in a directory, and what a file is apart from its name.
//!
//! *Trusts*: nothing. A directory's children are walked with a bound and a cycle check.
//! *Never*: takes a name that is not cached for one that is not there. Only a file system that lives in memory has all its names
//! here ([`FileInfo::in_memory_only`]); of any other a *negative* entry alone says that a name is free.
//!
//! Layouts: `struct dentry` (`include/linux/dcache.h`; children on a list to 6.7, on an `hlist` from 6.8), `struct inode`
//! (`include/linux/fs.h`), Linux 5.10 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::record::Span;
use super::{Resolved, View};
use crate::{AccessError, GapReason, Gva};
use lynceus_profiles::{Field, Profile};

/// Longest name of a file system.
const MAX_FS_NAME_BYTES: usize = 32;
/// Longest name of a directory entry (`NAME_MAX`).
const MAX_NAME_BYTES: u32 = 255;
/// File systems whose files are nowhere but in the caches.
const MEMORY_ONLY: &[&str] = &["tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs"];

/// Members of directory entries and inodes.
#[derive(Clone, Debug)]
pub struct DcacheLayout {
    entry: Span,
    hash: Field,
    parent: Field,
    name_len: Field,
    name: Field,
    inode: Field,
    children: Children,
    file_dentry: Field,
    /// The first of an inode's entries, and the next of each.
    aliases: (Field, Field),
    facts: Span,
    number: Field,
    mode: Field,
    uid: Field,
    links: Field,
    size: Field,
    super_block: Field,
    fs_type: Field,
    fs_name: Field,
}

/// How a directory holds its children: its own member, and that of each child.
#[derive(Clone, Copy, Debug)]
enum Children {
    List(Field, Field),
    Chain(Field, Field),
}

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Address of the `struct dentry`.
    pub at: Gva,
    /// The directory that it is in.
    pub parent: Gva,
    /// Its `struct inode`; null where the kernel knows that there is no such file.
    pub inode: Gva,
    /// Whether a lookup finds it: one that was unlinked or replaced is no longer found.
    pub hashed: bool,
}

/// What a file is, whatever it is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Address of its `struct inode`.
    pub inode: Gva,
    /// Its number.
    pub number: u64,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its names; none: it was deleted, or never had one.
    pub links: u32,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The kind of its file system.
    pub fs: String,
}

impl FileInfo {
    /// Whether its file system is nowhere but in the caches, so that a name which is not cached does not exist.
    pub fn in_memory_only(&self) -> bool {
        MEMORY_ONLY.contains(&self.fs.as_str())
    }
}

impl DcacheLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let dentry = |path| profile.field("dentry", path);
        let inode_of = |path| profile.field("inode", path);
        let (hash, parent, inode) = (dentry("d_hash.pprev")?, dentry("d_parent")?, dentry("d_inode")?);
        let (name_len, name) = (dentry("d_name.len")?, dentry("d_name.name")?);
        let children = match dentry("d_children") {
            Ok(head) => Children::Chain(head, dentry("d_sib")?),
            Err(_) => Children::List(dentry("d_subdirs")?, dentry("d_child")?),
        };
        let (mode, uid, links) = (inode_of("i_mode")?, inode_of("i_uid")?, inode_of("i_nlink")?);
        let (size, super_block) = (inode_of("i_size")?, inode_of("i_sb")?);
        Ok(DcacheLayout {
            entry: Span::of(&[hash, parent, name_len, name, inode]),
            hash,
            parent,
            name_len,
            name,
            inode,
            children,
            file_dentry: profile.field("file", "f_path.dentry")?,
            // In a union of its own until 7.0.
            aliases: (inode_of("i_dentry")?, dentry("d_u.d_alias").or_else(|_| dentry("d_alias"))?),
            facts: Span::of(&[mode, uid, links, size, super_block]),
            number: inode_of("i_ino")?,
            mode,
            uid,
            links,
            size,
            super_block,
            fs_type: profile.field("super_block", "s_type")?,
            fs_name: profile.field("file_system_type", "name")?,
        })
    }
}

impl<'a> View<'a> {
    /// The directory entry that a file (`struct file`) was opened by.
    pub fn entry_of_file(&self, file: Gva) -> Result<Entry, GapReason> {
        let layout = self.dcache_layout()?;
        Ok(self.entry(layout, Gva(self.integer(file, layout.file_dentry)?))?)
    }

    /// What the inode at `inode` is.
    pub fn file_info(&self, inode: Gva) -> Result<FileInfo, GapReason> {
        let layout = self.dcache_layout()?;
        let facts = self.record(inode, layout.facts)?;
        let fs_type = Gva(self.integer(facts.pointer(layout.super_block)?, layout.fs_type)?);
        let fs = self.string(Gva(self.integer(fs_type, layout.fs_name)?), MAX_FS_NAME_BYTES)?;
        Ok(FileInfo {
            inode,
            number: self.integer(inode, layout.number)?,
            mode: facts.u32(layout.mode)?,
            uid: facts.u32(layout.uid)?,
            links: facts.u32(layout.links)?,
            size_bytes: facts.integer(layout.size)?,
            fs,
        })
    }

    /// The bytes of the name of the entry at `entry`.
    pub fn entry_name(&self, entry: Gva) -> Result<Vec<u8>, GapReason> {
        let layout = self.dcache_layout()?;
        let record = self.record(entry, layout.entry)?;
        let length = record.u32(layout.name_len)?;
        if length > MAX_NAME_BYTES {
            return Err(GapReason::Inconsistent("a directory entry's name is longer than 255 bytes"));
        }
        let mut name = vec![0; usize::try_from(length).unwrap_or(0)];
        self.space().read(record.pointer(layout.name)?, &mut name)?;
        Ok(name)
    }

    /// Every cached entry called `name` in the directory whose entry is at `directory`: one that a lookup finds at most, and
    /// those of files of that name that are gone.
    pub fn entries_named(&self, directory: Gva, name: &[u8]) -> Result<Vec<Entry>, GapReason> {
        let layout = self.dcache_layout()?;
        let mut found = Vec::new();
        for at in self.children(layout, directory)? {
            let same_length = self.integer(at, layout.name_len)? == name.len() as u64;
            if same_length && self.entry_name(at)? == name {
                found.push(self.entry(layout, at)?);
            }
        }
        Ok(found)
    }

    /// Every cached entry in the directory whose entry is at `directory` that a lookup finds a file by.
    pub(super) fn entries_in(&self, directory: Gva) -> Result<Vec<Entry>, GapReason> {
        let layout = self.dcache_layout()?;
        let mut found = Vec::new();
        for at in self.children(layout, directory)? {
            let entry = self.entry(layout, at)?;
            found.extend((entry.hashed && !entry.inode.is_null()).then_some(entry));
        }
        Ok(found)
    }

    /// Where the entries in a directory are.
    fn children(&self, layout: &DcacheLayout, directory: Gva) -> Result<Vec<Gva>, GapReason> {
        let (nodes, link) = match layout.children {
            Children::List(head, link) => (self.list("directory", directory.field(head.offset)), link),
            Children::Chain(head, link) => {
                let first = Gva(self.integer(directory, head)?);
                (self.chain("directory", first, 0), link)
            }
        };
        if let Some(gap) = nodes.gaps.into_iter().next() {
            return Err(gap.reason);
        }
        Ok(nodes.items.into_iter().map(|node| Gva(node.0.wrapping_sub(link.offset.into()))).collect())
    }

    /// The entry that a lookup of `name` in that directory finds in the cache.
    pub fn lookup(&self, directory: Gva, name: &[u8]) -> Result<Option<Entry>, GapReason> {
        Ok(self.entries_named(directory, name)?.into_iter().find(|entry| entry.hashed))
    }

    /// Whether a lookup finds the file at `inode` by any of the names that are cached of it.
    pub fn is_found_by_name(&self, inode: Gva) -> Result<bool, GapReason> {
        let layout = self.dcache_layout()?;
        let (first, next) = layout.aliases;
        let entries = self.chain("names of a file", Gva(self.integer(inode, first)?), 0);
        if let Some(gap) = entries.gaps.into_iter().next() {
            return Err(gap.reason);
        }
        for node in entries.items {
            if self.entry(layout, Gva(node.0.wrapping_sub(next.offset.into())))?.hashed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn entry(&self, layout: &DcacheLayout, at: Gva) -> Result<Entry, AccessError> {
        let entry = self.record(at, layout.entry)?;
        Ok(Entry {
            at,
            parent: entry.pointer(layout.parent)?,
            inode: entry.pointer(layout.inode)?,
            hashed: entry.integer(layout.hash)? != 0,
        })
    }

    fn dcache_layout(&self) -> Result<&'a DcacheLayout, GapReason> {
        Ok(self.kernel().layouts.dcache.as_ref().map_err(Clone::clone)?)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::linux::testing::{Bench, gva, number, pointer};

    const DIRECTORY: u64 = 0x1000;

    fn layout(children: Children) -> DcacheLayout {
        let (hash, parent, name_len, name, inode) =
            (pointer(8), pointer(16), number(24, 4), pointer(32), pointer(40));
        let facts = [number(0, 2), number(4, 4), number(8, 4), number(16, 8), pointer(24)];
        DcacheLayout {
            entry: Span::of(&[hash, parent, name_len, name, inode]),
            hash,
            parent,
            name_len,
            name,
            inode,
            children,
            file_dentry: pointer(0),
            aliases: (pointer(0), pointer(96)),
            facts: Span::of(&facts),
            number: number(32, 8),
            mode: facts[0],
            uid: facts[1],
            links: facts[2],
            size: facts[3],
            super_block: facts[4],
            fs_type: pointer(0),
            fs_name: pointer(0),
        }
    }

    /// Children at 0x2000, 0x2100, …: name, whether a lookup finds it, its inode. Their links lie at 64, the directory's at 80.
    fn bench(children: &[(&str, bool, u64)], chain: bool) -> Bench {
        let mut bench = Bench::new();
        let ends = (pointer(80), pointer(64));
        bench.layouts().dcache =
            Ok(layout(if chain { Children::Chain(ends.0, ends.1) } else { Children::List(ends.0, ends.1) }));
        let link = |index: usize| 0x2040 + 0x100 * index as u64;
        let mut before = DIRECTORY + 80;
        for (index, (name, hashed, inode)) in children.iter().enumerate() {
            let at = 0x2000 + 0x100 * index as u64;
            bench.u64(at + 8, u64::from(*hashed)).link(at + 16, DIRECTORY).u32(at + 24, name.len() as u32);
            bench.link(at + 32, at + 0x80).u64(at + 40, *inode).bytes(at + 0x80, name.as_bytes());
            bench.link(before, link(index)).link(link(index) + 8, before);
            before = link(index);
        }
        if !chain {
            bench.link(before, DIRECTORY + 80).link(DIRECTORY + 88, before);
        }
        bench
    }

    #[test]
    fn a_replaced_file_is_told_from_the_one_that_is_there() {
        for chain in [false, true] {
            let bench =
                bench(&[("sshd", false, 1), ("sshc", true, 2), ("sshd", true, 3), ("ssh", true, 0)], chain);
            bench.look(|view| {
                let all = view.entries_named(gva(DIRECTORY), b"sshd").expect("its entries");
                assert_eq!(all.iter().map(|entry| entry.inode.0).collect::<Vec<_>>(), [1, 3]);
                let there = view.lookup(gva(DIRECTORY), b"sshd").expect("a look").expect("a file");
                assert_eq!((there.inode, there.parent), (Gva(3), gva(DIRECTORY)));
                let files = view.entries_in(gva(DIRECTORY)).expect("its files");
                assert_eq!(files.iter().map(|entry| entry.inode.0).collect::<Vec<_>>(), [2, 3]);
                let free = view.lookup(gva(DIRECTORY), b"ssh").expect("a look").expect("a negative entry");
                assert!(free.inode.is_null());
                assert_eq!(view.lookup(gva(DIRECTORY), b"none"), Ok(None));
            });
        }
    }

    #[test]
    fn a_file_is_found_by_any_of_its_names() {
        let names = |hashed: [bool; 2]| {
            let mut bench = bench(&[("a", hashed[0], 1), ("b", hashed[1], 1)], true);
            bench.link(0x3000, 0x2060).link(0x2060, 0x2160);
            bench.look(|view| view.is_found_by_name(gva(0x3000)))
        };
        assert_eq!(names([false, true]), Ok(true));
        assert_eq!(names([false, false]), Ok(false));
        let mut circle = bench(&[("a", false, 1), ("b", false, 1)], true);
        circle.link(0x3000, 0x2060).link(0x2060, 0x2160).link(0x2160, 0x2060);
        assert_eq!(circle.look(|view| view.is_found_by_name(gva(0x3000))), Err(GapReason::Cycle));
    }

    #[test]
    fn children_that_run_in_a_circle_are_refused() {
        let mut chain = bench(&[("a", true, 1), ("b", true, 2)], true);
        chain.link(0x2140, 0x2040);
        assert_eq!(chain.look(|view| view.lookup(gva(DIRECTORY), b"c")), Err(GapReason::Cycle));
        let mut list = bench(&[("a", true, 1), ("b", true, 2)], false);
        list.link(0x2140, 0x2140);
        assert!(list.look(|view| view.lookup(gva(DIRECTORY), b"c")).is_err());
    }

    #[test]
    fn an_absurd_name_is_refused() {
        let mut bench = bench(&[("a", true, 1)], true);
        bench.u32(0x2000 + 24, 1 << 30);
        assert!(matches!(bench.look(|view| view.entry_name(gva(0x2000))), Err(GapReason::Inconsistent(_))));
    }
}
