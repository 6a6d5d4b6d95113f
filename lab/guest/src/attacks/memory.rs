//! Code where no file has any. None of it is ever run.

use std::fs;
use std::io;

use crate::actors::Held;
use crate::sys;

const PAGE: usize = 4096;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const EXECUTE: i32 = libc::PROT_READ | libc::PROT_EXEC;
/// `push 60; pop rax; xor edi, edi; syscall`: ends the process.
const EXIT: &[u8] = b"\x6a\x3c\x58\x31\xff\x0f\x05";

/// Code in memory that may be written and run at the same time.
pub(super) fn writable() -> io::Result<Held> {
    let at = sys::map_anonymous(PAGE, WRITE | libc::PROT_EXEC, libc::MAP_PRIVATE)?;
    sys::poke(at, EXIT);
    Ok(Box::new(()))
}

/// Code that was written first and made executable then.
pub(super) fn written_first() -> io::Result<Held> {
    let at = sys::map_anonymous(2 * PAGE, WRITE, libc::MAP_PRIVATE)?;
    sys::poke(at + PAGE, EXIT);
    sys::protect(at, 2 * PAGE, EXECUTE)?;
    Ok(Box::new(()))
}

/// A whole program, as a loader that leaves no file behind puts it there.
pub(super) fn program() -> io::Result<Held> {
    let bytes = fs::read("/init")?;
    let at = sys::map_anonymous(bytes.len().next_multiple_of(PAGE), WRITE, libc::MAP_PRIVATE)?;
    sys::poke(at, &bytes);
    sys::protect(at, bytes.len().next_multiple_of(PAGE), EXECUTE)?;
    Ok(Box::new(()))
}

/// A jump over the start of a function, as hooks are made.
pub(super) fn patched_code() -> io::Result<Held> {
    write_over(never_called as *const () as usize, b"\xe9\x00\x10\x00\x00")
}

/// One instruction's first byte, as a debugger that was killed leaves it.
pub(super) fn breakpoint() -> io::Result<Held> {
    write_over(never_called as *const () as usize, b"\xcc")
}

/// Pages of this program's code that nobody runs.
pub(super) fn replaced_code() -> io::Result<Held> {
    let at = (&raw const lynceus_spare_code) as usize;
    write_over(at, &[0x91; 16 * PAGE])
}

core::arch::global_asm!(
    ".pushsection .text",
    ".balign 4096",
    ".global lynceus_spare_code",
    "lynceus_spare_code:",
    ".fill 65536, 1, 0x90",
    ".popsection",
);

unsafe extern "C" {
    safe static lynceus_spare_code: [u8; 16 * PAGE];
}

/// A function to be written over.
#[inline(never)]
extern "C" fn never_called() {
    std::hint::black_box(PAGE);
}

/// Writes over code: the kernel makes copies of the pages for this process alone. (From 6.12 on it may refuse to do that through
/// `/proc/self/mem`.)
fn write_over(at: usize, bytes: &[u8]) -> io::Result<Held> {
    let start = at & !(PAGE - 1);
    let len = (at + bytes.len() - start).next_multiple_of(PAGE);
    // What runs now may lie in the same page.
    sys::protect(start, len, WRITE | libc::PROT_EXEC)?;
    sys::poke(at, bytes);
    sys::protect(start, len, EXECUTE)?;
    Ok(Box::new(()))
}

/// The stack itself, all of it.
pub(super) fn stack() -> io::Result<Held> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.ends_with("[stack]"));
    let range = line.and_then(|line| line.split(' ').next()?.split_once('-'));
    let (start, end) = range.ok_or_else(|| io::Error::other("no stack in maps"))?;
    let number = |text| usize::from_str_radix(text, 16).map_err(io::Error::other);
    let (start, end) = (number(start)?, number(end)?);
    sys::protect(start, end - start, WRITE | libc::PROT_EXEC)?;
    Ok(Box::new(()))
}
