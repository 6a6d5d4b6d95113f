//! The page cache: every file that the kernel holds pages of, whoever opened it, deleted or not.
//!
//! *Does*: walks the super blocks and their inodes, and finds where in RAM each page of a file lies.
//! *Trusts*: nothing. Lists and trees are bounded, a page's frame must be RAM when it is read.
//! *Never*: takes a file whose pages are not all there for a whole one: [`CachedFile::is_whole`] tells.
//!
//! Layouts: `super_blocks` and `struct super_block` (`include/linux/fs.h`), `struct inode`, `struct address_space`,
//! `struct dentry` (`d_u.d_alias`), Linux 5.10 to 7.2. A folio of several pages fills as many slots of the tree: one entry and its
//! siblings (`lib/xarray.c`), or before 5.11 the same entry again and again.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::record::Span;
use super::{FileKind, Resolved, View};
use crate::addr::PAGE_BYTES;
use crate::{AccessError, GapReason, Gpa, Gva, Partial};
use lynceus_profiles::{Field, Profile};

/// Longest name of a file system.
const MAX_FS_NAME_BYTES: usize = 32;

/// Members of super blocks, inodes and mappings.
#[derive(Clone, Debug)]
pub struct PageCacheLayout {
    /// Link-time addresses of `super_blocks` and `vmemmap_base`.
    blocks: u64,
    map: u64,
    block_list: Field,
    inodes: Field,
    fs_type: Field,
    fs_name: Field,
    device: Field,
    inode: Span,
    in_block: Field,
    mapping: Field,
    file_mapping: Field,
    size: Field,
    number: Field,
    mode: Field,
    uid: Option<Field>,
    links: Field,
    aliases: Field,
    alias: Field,
    pages: Field,
    page_bytes: u32,
}

/// A file that the kernel holds pages of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CachedFile {
    /// Address of its `struct inode`.
    pub inode: Gva,
    /// Its inode number.
    pub number: u64,
    /// Device number of its file system, major in the bits from 20 up.
    pub device: u32,
    /// The kind of its file system: `ext4`, `tmpfs`.
    pub fs: String,
    /// Its path within its file system; `None` where the kernel has forgotten its name.
    pub path: Option<String>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its owner, as the kernel numbers users outside of all user namespaces.
    pub uid: Option<u32>,
    /// Its names on disk; none: it was deleted, or never had one (`memfd`).
    pub links: u64,
    /// Runs of its pages, in ascending order: the first one's number in the file, where it lies in RAM, how many follow.
    pub pages: Vec<(u64, Gpa, u64)>,
}

impl CachedFile {
    /// Pages of it that are in memory.
    pub fn resident_pages(&self) -> u64 {
        self.pages.iter().fold(0, |sum, (_, _, count)| sum.saturating_add(*count))
    }

    /// Whether all of it is in memory.
    pub fn is_whole(&self) -> bool {
        let mut next = 0u64;
        for (first, _, count) in &self.pages {
            if *first != next {
                return false;
            }
            next = first.saturating_add(*count);
        }
        next.saturating_mul(PAGE_BYTES) >= self.size_bytes
    }
}

impl PageCacheLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let inode = |member| profile.field("inode", member);
        let (mapping, size, number) = (inode("i_mapping")?, inode("i_size")?, inode("i_ino")?);
        let (mode, links, aliases) = (inode("i_mode")?, inode("i_nlink")?, inode("i_dentry.first")?);
        // kuid_t is a structure around its number.
        let uid = inode("i_uid").ok();
        let members = [mapping, size, number, mode, links, aliases];
        Ok(PageCacheLayout {
            blocks: profile.symbol("super_blocks")?,
            map: profile.symbol("vmemmap_base")?,
            block_list: profile.field("super_block", "s_list")?,
            inodes: profile.field("super_block", "s_inodes")?,
            fs_type: profile.field("super_block", "s_type")?,
            fs_name: profile.field("file_system_type", "name")?,
            device: profile.field("super_block", "s_dev")?,
            inode: Span::of(&members.into_iter().chain(uid).collect::<Vec<_>>()),
            in_block: inode("i_sb_list")?,
            mapping,
            file_mapping: profile.field("file", "f_mapping")?,
            size,
            number,
            mode,
            uid,
            links,
            aliases,
            alias: profile.field("dentry", "d_u.d_alias").or_else(|_| profile.field("dentry", "d_alias"))?,
            pages: profile.field("address_space", "i_pages")?,
            page_bytes: profile.size_of("page")?,
        })
    }
}

impl View<'_> {
    /// Every regular file with pages in memory.
    pub fn cached_files(&self) -> Partial<CachedFile> {
        let what = "page cache";
        let layout = match &self.kernel().layouts.page_cache {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let [blocks, map] = [layout.blocks, layout.map].map(|address| self.kernel().slid(address));
        let mut found = Partial::default();
        let Some(map) = found.ok(what, map, self.pointer(map)) else { return found };
        let blocks = self.list("super blocks", blocks);
        for node in found.absorb(blocks) {
            let block = Gva(node.0.wrapping_sub(layout.block_list.offset.into()));
            let read = self.cached_of(layout, block, map, &mut found);
            found.ok("super block", block, read);
        }
        found
    }

    /// Where the pages of the file at `inode` (`struct inode`) that are in memory lie, as in [`CachedFile::pages`].
    pub fn file_pages(&self, inode: Gva) -> Partial<(u64, Gpa, u64)> {
        self.mapping_pages(inode, |layout| layout.mapping)
    }

    /// The same for an open or mapped file (`struct file`): of a file that another lies over, those of the one below.
    pub fn mapped_file_pages(&self, file: Gva) -> Partial<(u64, Gpa, u64)> {
        self.mapping_pages(file, |layout| layout.file_mapping)
    }

    fn mapping_pages(
        &self,
        owner: Gva,
        member: impl Fn(&PageCacheLayout) -> Field,
    ) -> Partial<(u64, Gpa, u64)> {
        let what = "page cache";
        let read = || -> Result<Partial<(u64, Gpa, u64)>, GapReason> {
            let layout = self.kernel().layouts.page_cache.as_ref().map_err(Clone::clone)?;
            let map = self.pointer(self.kernel().slid(layout.map))?;
            let mapping = Gva(self.integer(owner, member(layout))?);
            let mut found = Partial::default();
            if !mapping.is_null() {
                let entries = self.xarray_runs("pages of a file", mapping.field(layout.pages.offset));
                found.items = runs(found.absorb(entries), map, layout.page_bytes.into());
            }
            Ok(found)
        };
        read().unwrap_or_else(|why| Partial::unavailable(what, why))
    }

    /// The start of a file, `most_bytes` at most, as far as its pages are in memory without a hole.
    pub fn file_start(&self, inode: Gva, size_bytes: u64, most_bytes: u64) -> Partial<u8> {
        let mut start = Partial::default();
        let (pages, mut next) = (self.file_pages(inode), 0u64);
        let end = size_bytes.min(most_bytes);
        for (first, at, count) in start.absorb(pages) {
            let from = first.saturating_mul(PAGE_BYTES);
            if from != next || next >= end {
                break;
            }
            let len = count.saturating_mul(PAGE_BYTES).min(end.saturating_sub(from));
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            if let Err(why) = self.space().memory().read(at, &mut bytes) {
                start.gap("page cache", inode, AccessError::Memory { at: inode, why });
                break;
            }
            start.items.append(&mut bytes);
            next = from.saturating_add(len);
        }
        start
    }

    fn cached_of(
        &self,
        layout: &PageCacheLayout,
        block: Gva,
        map: Gva,
        found: &mut Partial<CachedFile>,
    ) -> Result<(), GapReason> {
        let fs_type = Gva(self.integer(block, layout.fs_type)?);
        let fs = self.string(Gva(self.integer(fs_type, layout.fs_name)?), MAX_FS_NAME_BYTES)?;
        let device = u32::try_from(self.integer(block, layout.device)?).unwrap_or(0);
        // Each inode is read on the way to the next: there are thousands, and to wait for one is to wait for memory.
        self.ring("inodes", block.field(layout.inodes.offset), found, |found, node| {
            let inode = Gva(node.0.wrapping_sub(layout.in_block.offset.into()));
            let file = self.cached_file(layout, inode, map, found);
            if let Some(Some(file)) = found.ok("inode", inode, file) {
                found.items.push(CachedFile { device, fs: fs.clone(), ..file });
            }
        });
        Ok(())
    }

    fn cached_file(
        &self,
        layout: &PageCacheLayout,
        inode: Gva,
        map: Gva,
        found: &mut Partial<CachedFile>,
    ) -> Result<Option<CachedFile>, GapReason> {
        // Most inodes are no files, and of those nothing else is read.
        if FileKind::of_mode(self.integer(inode, layout.mode)?) != FileKind::Regular {
            return Ok(None);
        }
        let record = self.record(inode, layout.inode)?;
        let mapping = record.pointer(layout.mapping)?;
        if mapping.is_null() {
            return Ok(None);
        }
        let entries = self.xarray_runs("pages of a file", mapping.field(layout.pages.offset));
        let pages = runs(found.absorb(entries), map, layout.page_bytes.into());
        if pages.is_empty() {
            return Ok(None);
        }
        let alias = record.pointer(layout.aliases)?;
        let dentry = Gva(alias.0.wrapping_sub(layout.alias.offset.into()));
        let path = if alias.is_null() { None } else { self.path_within_fs(dentry).ok() };
        Ok(Some(CachedFile {
            inode,
            number: record.integer(layout.number)?,
            device: 0,
            fs: String::new(),
            path,
            size_bytes: record.integer(layout.size)?,
            uid: layout.uid.and_then(|uid| u32::try_from(record.integer(uid).ok()? & 0xffff_ffff).ok()),
            links: record.integer(layout.links)?,
            pages,
        }))
    }
}

/// Runs of neighbouring pages, in RAM as in the file.
fn runs(entries: Vec<(u64, Gva, u64)>, map: Gva, page_bytes: u64) -> Vec<(u64, Gpa, u64)> {
    let mut sorted = entries;
    sorted.sort_by_key(|(index, ..)| *index);
    let mut runs: Vec<(u64, Gpa, u64)> = Vec::new();
    let mut head: Option<(Gva, u64)> = None;
    for (index, page, count) in sorted {
        // The same entry again is the next page of the same folio.
        let inside = match head {
            Some((known, first)) if known == page => index.saturating_sub(first),
            _ => {
                head = Some((page, index));
                0
            }
        };
        let Some(frame) = page.0.checked_sub(map.0).and_then(|distance| distance.checked_div(page_bytes))
        else {
            continue;
        };
        let at = Gpa(frame.saturating_add(inside).saturating_mul(PAGE_BYTES));
        match runs.last_mut() {
            Some((first, start, pages))
                if first.saturating_add(*pages) == index
                    && start.0.saturating_add(pages.saturating_mul(PAGE_BYTES)) == at.0 =>
            {
                *pages = pages.saturating_add(count);
            }
            _ => runs.push((index, at, count)),
        }
    }
    runs
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn pages_join_where_they_are_neighbours_in_ram() {
        let map = Gva(0xffff_ea00_0000_0000);
        let page = |frame: u64| Gva(map.0 + frame * 64);
        // Two single pages, a folio of four, and one whose entry is there for each of its pages.
        let entries = [
            (0, page(100), 1),
            (1, page(101), 1),
            (4, page(200), 4),
            (8, page(300), 1),
            (9, page(300), 1),
            (10, page(300), 1),
            (11, Gva(5), 1),
        ];
        let at = |frame: u64| Gpa(frame * PAGE_BYTES);
        assert_eq!(runs(entries.to_vec(), map, 64), [(0, at(100), 2), (4, at(200), 4), (8, at(300), 3)]);
    }

    #[test]
    fn a_file_is_whole_when_every_page_up_to_its_size_is_there() {
        let file = |size_bytes, pages: &[(u64, u64)]| CachedFile {
            inode: Gva(0),
            number: 1,
            device: 0,
            fs: String::new(),
            path: None,
            size_bytes,
            uid: None,
            links: 1,
            pages: pages.iter().map(|(first, count)| (*first, Gpa(0), *count)).collect(),
        };
        assert!(file(8192, &[(0, 2)]).is_whole() && file(8193, &[(0, 2), (2, 1)]).is_whole());
        assert!(!file(8193, &[(0, 2)]).is_whole() && !file(8192, &[(1, 2)]).is_whole());
        assert!(!file(12288, &[(0, 1), (2, 1)]).is_whole());
    }
}
