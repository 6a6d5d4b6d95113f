//! What a process's `mm_struct` tells: its executable, arguments and environment, and the way into its memory.
//!
//! *Trusts*: nothing. Arguments and environment are the process's own memory: it may have rewritten them, and a page
//! that is swapped out is a gap, not an empty string.
//!
//! Layout: `struct mm_struct` (`include/linux/mm_types.h`); algorithm `get_mm_cmdline` (`fs/proc/base.c`), 5.10 to 7.2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::record::Span;
use super::{PathAt, Resolved, View};
use crate::{AddressSpace, GapReason, Gva};
use lynceus_profiles::{Field, Profile};

/// Most argument or environment bytes read; Linux allows up to 6 MiB, its default is 2 MiB.
const MAX_TEXT_BYTES: u64 = 2 << 20;
/// A title written over the arguments ends within a page.
const PAGE_BYTES: u64 = 4096;

/// Members of an `mm_struct`.
#[derive(Clone, Debug)]
pub struct MmLayout {
    span: Span,
    pgd: Field,
    exe_file: Field,
    arg_start: Field,
    arg_end: Field,
    env_start: Field,
    env_end: Field,
    start_brk: Field,
    brk: Field,
    start_stack: Field,
    file_mount: Field,
    file_dentry: Field,
}

/// A process's memory, as its `mm_struct` describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mm {
    /// Address of the `mm_struct`.
    pub at: Gva,
    /// Kernel address of its top page table.
    pub pgd: Gva,
    /// The `struct file` it was executed from; null where there is none.
    pub exe_file: Gva,
    /// First argument byte and the one after the last.
    pub args: (Gva, Gva),
    /// First environment byte and the one after the last.
    pub env: (Gva, Gva),
    /// The heap, from its start to its break.
    pub heap: (Gva, Gva),
    /// An address in the initial stack.
    pub start_stack: Gva,
}

impl MmLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let mm = |member| profile.field("mm_struct", member);
        let (pgd, exe_file, start_stack) = (mm("pgd")?, mm("exe_file")?, mm("start_stack")?);
        let (arg_start, arg_end) = (mm("arg_start")?, mm("arg_end")?);
        let (env_start, env_end) = (mm("env_start")?, mm("env_end")?);
        let (start_brk, brk) = (mm("start_brk")?, mm("brk")?);
        // The rest lies together; the page table and the executable are apart from it.
        let span = Span::of(&[arg_start, arg_end, env_start, env_end, start_brk, brk, start_stack]);
        let file = |path| profile.field("file", path);
        let (file_mount, file_dentry) = (file("f_path.mnt")?, file("f_path.dentry")?);
        Ok(MmLayout {
            span,
            pgd,
            exe_file,
            arg_start,
            arg_end,
            env_start,
            env_end,
            start_brk,
            brk,
            start_stack,
            file_mount,
            file_dentry,
        })
    }
}

impl<'a> View<'a> {
    /// The `mm_struct` at `at`.
    pub fn mm(&self, at: Gva) -> Result<Mm, GapReason> {
        let layout = self.mm_layout()?;
        let mm = self.record(at, layout.span)?;
        Ok(Mm {
            at,
            pgd: self.integer(at, layout.pgd).map(Gva)?,
            exe_file: self.integer(at, layout.exe_file).map(Gva)?,
            args: (mm.pointer(layout.arg_start)?, mm.pointer(layout.arg_end)?),
            env: (mm.pointer(layout.env_start)?, mm.pointer(layout.env_end)?),
            heap: (mm.pointer(layout.start_brk)?, mm.pointer(layout.brk)?),
            start_stack: mm.pointer(layout.start_stack)?,
        })
    }

    /// The memory of a process, through its own page tables.
    pub fn process_space(&self, mm: &Mm) -> Result<AddressSpace<'a>, GapReason> {
        Ok(self.user_space(self.space().translate(mm.pgd)?.gpa))
    }

    /// Path of the executable, as `/proc/PID/exe` shows it; `None` where the process has none.
    pub fn exe(&self, mm: &Mm) -> Result<Option<String>, GapReason> {
        if mm.exe_file.is_null() { Ok(None) } else { self.file_path(mm.exe_file).map(Some) }
    }

    /// Path of an open file (`struct file`).
    pub(crate) fn file_path(&self, file: Gva) -> Result<String, GapReason> {
        let PathAt { mount, dentry } = self.place_of_file(file)?;
        self.path(mount, dentry)
    }

    /// The mount and the directory entry that a file (`struct file`) was opened by.
    pub fn place_of_file(&self, file: Gva) -> Result<PathAt, GapReason> {
        let layout = self.mm_layout()?;
        let pointer = |field| self.integer(file, field).map(Gva);
        Ok(PathAt { mount: pointer(layout.file_mount)?, dentry: pointer(layout.file_dentry)? })
    }

    /// The arguments, as `/proc/PID/cmdline` shows them: a process that wrote a title over them shows the title.
    pub fn cmdline(&self, mm: &Mm) -> Result<Vec<String>, GapReason> {
        if mm.env.1.is_null() || mm.args.1 <= mm.args.0 {
            return Ok(Vec::new());
        }
        let space = self.process_space(mm)?;
        let args = user_bytes(&space, mm.args.0, mm.args.1)?;
        // The last argument's NUL was overwritten: a title, which may run on into the environment.
        if args.last().is_some_and(|last| *last != 0) {
            return title(&space, mm).map(|title| vec![title]);
        }
        Ok(strings(&args))
    }

    /// The environment, as `/proc/PID/environ` shows it: `NAME=value`, an entry each.
    pub fn environ(&self, mm: &Mm) -> Result<Vec<String>, GapReason> {
        if mm.env.1 <= mm.env.0 {
            return Ok(Vec::new());
        }
        Ok(strings(&user_bytes(&self.process_space(mm)?, mm.env.0, mm.env.1)?))
    }

    fn mm_layout(&self) -> Result<&'a MmLayout, GapReason> {
        Ok(self.kernel().layouts.mm.as_ref().map_err(Clone::clone)?)
    }
}

/// `get_mm_proctitle`: up to the first NUL, a page at most, and no further than the environment's end.
fn title(space: &AddressSpace<'_>, mm: &Mm) -> Result<String, GapReason> {
    let joined = mm.env.0 == mm.args.1 && mm.env.1 >= mm.env.0;
    let end = if joined { mm.env.1.0.min(mm.args.1.0.saturating_add(PAGE_BYTES)) } else { mm.args.1.0 };
    let end = end.min(mm.args.0.0.saturating_add(PAGE_BYTES));
    let text = user_bytes(space, mm.args.0, Gva(end))?;
    let length = memchr::memchr(0, &text).unwrap_or(text.len());
    Ok(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned())
}

/// Process memory from `start` to `end`.
fn user_bytes(space: &AddressSpace<'_>, start: Gva, end: Gva) -> Result<Vec<u8>, GapReason> {
    let length = end.0.saturating_sub(start.0);
    if start.is_kernel() || end.is_kernel() {
        return Err(GapReason::Inconsistent("arguments or environment in kernel memory"));
    }
    if length > MAX_TEXT_BYTES {
        return Err(GapReason::Limit(MAX_TEXT_BYTES));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    space.read(start, &mut bytes)?;
    Ok(bytes)
}

/// NUL-terminated strings, one after the other; the last one's terminator may be missing.
fn strings(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;
