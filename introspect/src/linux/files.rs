//! Open files of a process, from its descriptor table.
//!
//! *Trusts*: nothing. `max_fds` is clamped, and a table that turns out unreadable is given up early.
//! *Never*: takes a descriptor that is reserved but not yet filled (a blocked `accept`) for a gap: `/proc` hides it too.
//!
//! Layouts: `include/linux/fdtable.h`, `include/linux/fs.h` (Linux 5.10 to 7.2).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::record::Span;
use super::{Resolved, Task, View};
use crate::{GapReason, Gva, Partial};
use lynceus_profiles::{Field, Profile};
use std::collections::BTreeSet;

/// Most descriptors looked at: the kernel's default `nr_open`.
const MAX_FDS: u32 = 1 << 20;
/// Unreadable files after which a table is given up.
const MAX_FAILURES: u32 = 256;
const WORD_BITS: u32 = 64;

/// One open file descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenFile {
    /// Descriptor number.
    pub fd: u32,
    /// Where it leads, as `/proc/PID/fd/N` links show it from the root of the mount namespace.
    pub path: String,
    /// `O_` flags of `open(2)` as `/proc/PID/fdinfo` shows them (`O_CLOEXEC` belongs to the descriptor and is left out).
    pub flags: u32,
    /// File offset in bytes.
    pub position: u64,
    /// What it is.
    pub kind: FileKind,
    /// Inode number.
    pub inode: u64,
    /// Device number of the file system (`st_dev`), major in the bits from 20 up.
    pub device: u32,
    /// Address of the `struct file`: the same for descriptors that share it.
    pub file: Gva,
    /// Address of the `struct inode`.
    pub inode_at: Gva,
    /// The file's private data; for a socket its `struct socket`.
    pub private: Gva,
}

/// What a file is: the type bits of its inode's mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A pipe or FIFO.
    Pipe,
    /// A socket.
    Socket,
    /// A symbolic link (opened with `O_PATH`).
    Link,
    /// No type: an anonymous inode (eventfd, epoll, …).
    Anonymous,
}

/// Members of descriptor tables, files and inodes.
#[derive(Clone, Debug)]
pub struct FilesLayout {
    table: Field,
    fdtable: Span,
    max_fds: Field,
    files: Field,
    open_fds: Field,
    file: FileLayout,
    references: References,
}

/// Who counts a file's users.
#[derive(Clone, Copy, Debug)]
enum References {
    /// `f_ref`, since 6.13: one less than there are; below zero the file is being released.
    LessOne(Field),
    /// `f_count`.
    All(Field),
}

/// Members of `struct file` and `struct inode`.
#[derive(Clone, Copy, Debug)]
struct FileLayout {
    file: Span,
    mount: Field,
    dentry: Field,
    inode: Field,
    flags: Field,
    position: Field,
    private: Field,
    inode_span: Span,
    mode: Field,
    number: Field,
    super_block: Field,
    device: Field,
}

impl FilesLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let max_fds = profile.field("fdtable", "max_fds")?;
        let files = profile.field("fdtable", "fd")?;
        let open_fds = profile.field("fdtable", "open_fds")?;
        let references = match profile.field("file", "f_ref.refcnt.counter") {
            Ok(field) => References::LessOne(field),
            Err(_) => References::All(profile.field("file", "f_count.counter")?),
        };
        Ok(FilesLayout {
            references,
            table: profile.field("files_struct", "fdt")?,
            fdtable: Span::of(&[max_fds, files, open_fds]),
            max_fds,
            files,
            open_fds,
            file: FileLayout::resolve(profile)?,
        })
    }
}

impl FileLayout {
    fn resolve(profile: &Profile) -> Resolved<Self> {
        let file = |path| profile.field("file", path);
        let inode_field = |path| profile.field("inode", path);
        let (mount, dentry, inode) = (file("f_path.mnt")?, file("f_path.dentry")?, file("f_inode")?);
        let (flags, position, private) = (file("f_flags")?, file("f_pos")?, file("private_data")?);
        let (mode, number) = (inode_field("i_mode")?, inode_field("i_ino")?);
        let super_block = inode_field("i_sb")?;
        Ok(FileLayout {
            file: Span::of(&[mount, dentry, inode, flags, position, private]),
            mount,
            dentry,
            inode,
            flags,
            position,
            private,
            inode_span: Span::of(&[mode, number, super_block]),
            mode,
            number,
            super_block,
            device: profile.field("super_block", "s_dev")?,
        })
    }
}

impl FileKind {
    /// From the mode of an inode (`S_IFMT`).
    pub fn of_mode(mode: u64) -> FileKind {
        match mode & 0o170_000 {
            0o100_000 => FileKind::Regular,
            0o040_000 => FileKind::Directory,
            0o020_000 => FileKind::Character,
            0o060_000 => FileKind::Block,
            0o010_000 => FileKind::Pipe,
            0o140_000 => FileKind::Socket,
            0o120_000 => FileKind::Link,
            _ => FileKind::Anonymous,
        }
    }
}

impl<'a> View<'a> {
    /// Whether nobody uses a file (`struct file`) any more, so that it is being released, which may take as long as whoever does
    /// that is given no processor.
    pub fn is_released(&self, file: Gva) -> Result<bool, GapReason> {
        let layout = self.kernel().layouts.files.as_ref().map_err(Clone::clone)?;
        Ok(match layout.references {
            References::LessOne(field) => self.integer(file, field)?.cast_signed() < 0,
            References::All(field) => self.integer(file, field)?.cast_signed() <= 0,
        })
    }

    /// The open files of the descriptor table at `files` (`task_struct.files`); none where it is null, as in a zombie.
    pub fn files(&self, files: Gva) -> Partial<OpenFile> {
        self.descriptors(files, |layout, fd, file| self.open_file(layout, fd, file).map(Some))
    }

    /// The descriptor tables of a process: one of its threads may have one of its own.
    pub(crate) fn descriptor_tables(&self, process: &Task) -> Partial<Gva> {
        let mut found = Partial::default();
        let threads = self.threads(process);
        let threads = found.absorb(threads);
        let tables = BTreeSet::from_iter(threads.iter().chain([process]).map(|thread| thread.files));
        found.items.extend(tables);
        found
    }

    /// Descriptor and private data of the sockets among the open files.
    pub(crate) fn socket_files(&self, files: Gva) -> Partial<(u32, Gva)> {
        self.descriptors(files, |layout, fd, at| {
            let file = self.record(at, layout.file)?;
            let mode = self.integer(file.pointer(layout.inode)?, layout.mode)?;
            let is_socket = FileKind::of_mode(mode) == FileKind::Socket;
            let private = file.pointer(layout.private)?;
            Ok((is_socket && !private.is_null()).then_some((fd, private)))
        })
    }

    /// The array of a descriptor table's files, and how many slots it has.
    pub(crate) fn descriptor_array(&self, files: Gva) -> Result<(Gva, u64), GapReason> {
        let layout = self.kernel().layouts.files.as_ref().map_err(Clone::clone)?;
        let table = self.record(Gva(self.integer(files, layout.table)?), layout.fdtable)?;
        let claimed = table.u32(layout.max_fds)?;
        if claimed > MAX_FDS {
            return Err(GapReason::Limit(u64::from(MAX_FDS)));
        }
        Ok((table.pointer(layout.files)?, u64::from(claimed)))
    }

    /// What `read` makes of each descriptor's `struct file`.
    fn descriptors<T>(
        &self,
        files: Gva,
        read: impl Fn(&FileLayout, u32, Gva) -> Result<Option<T>, GapReason>,
    ) -> Partial<T> {
        let layout = match &self.kernel().layouts.files {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("open files", missing.clone()),
        };
        let mut found = Partial::default();
        if !files.is_null() {
            let walked = self.walk_fds(layout, files, &mut found, |fd, slot| {
                let file = self.pointer(slot)?;
                if file.is_null() { Ok(None) } else { read(&layout.file, fd, file) }
            });
            found.ok("descriptor table", files, walked);
        }
        found
    }

    fn walk_fds<T>(
        &self,
        layout: &FilesLayout,
        files: Gva,
        found: &mut Partial<T>,
        read: impl Fn(u32, Gva) -> Result<Option<T>, GapReason>,
    ) -> Result<(), GapReason> {
        let table = self.record(Gva(self.integer(files, layout.table)?), layout.fdtable)?;
        let claimed = table.u32(layout.max_fds)?;
        if claimed > MAX_FDS {
            found.gap("descriptor table size", table.base(), GapReason::Limit(u64::from(MAX_FDS)));
        }
        let max_fds = claimed.min(MAX_FDS);
        let (array, bitmap) = (table.pointer(layout.files)?, table.pointer(layout.open_fds)?);
        let mut failures = 0u32;
        for word in 0..max_fds.div_ceil(WORD_BITS) {
            let first = word.saturating_mul(WORD_BITS);
            let mut open = self.u64(bitmap.field(word.saturating_mul(8)))?;
            while open != 0 {
                let fd = first.saturating_add(open.trailing_zeros());
                open &= open.wrapping_sub(1);
                if fd >= max_fds {
                    break;
                }
                let slot = array.field(fd.saturating_mul(8));
                match found.ok("open file", slot, read(fd, slot)) {
                    Some(file) => found.items.extend(file),
                    None => failures = failures.saturating_add(1),
                }
                if failures >= MAX_FAILURES {
                    return Err(GapReason::Limit(u64::from(MAX_FAILURES)));
                }
            }
        }
        Ok(())
    }

    fn open_file(&self, layout: &FileLayout, fd: u32, at: Gva) -> Result<OpenFile, GapReason> {
        let file = self.record(at, layout.file)?;
        let inode_at = file.pointer(layout.inode)?;
        let inode = self.record(inode_at, layout.inode_span)?;
        let super_block = inode.pointer(layout.super_block)?;
        Ok(OpenFile {
            fd,
            path: self.path(file.pointer(layout.mount)?, file.pointer(layout.dentry)?)?,
            flags: file.u32(layout.flags)?,
            position: file.integer(layout.position)?,
            kind: FileKind::of_mode(inode.integer(layout.mode)?),
            inode: inode.integer(layout.number)?,
            device: (self.integer(super_block, layout.device)? & u64::from(u32::MAX)) as u32,
            file: at,
            inode_at,
            private: file.pointer(layout.private)?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;
