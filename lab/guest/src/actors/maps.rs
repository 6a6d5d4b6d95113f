//! Actors with remarkable address spaces.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use super::{Held, or_report};
use crate::sys;

const PAGE: usize = 4096;
const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_WRITE;
const EXEC: i32 = libc::PROT_EXEC;
const PRIVATE: i32 = libc::MAP_PRIVATE;
const SHARED: i32 = libc::MAP_SHARED;

/// Searched for in memory by the tests of the scanners.
const MARKER: &[u8] = b"LYNCEUS-LAB-RWX-MARKER-7f3a9c51";

/// Anonymous memory that can be written and run, holding a marker.
pub(super) fn rwx() -> io::Result<Held> {
    let at = sys::map_anonymous(4 * PAGE, READ | WRITE | EXEC, PRIVATE)?;
    sys::poke(at, MARKER);
    sys::poke(at + 2 * PAGE, MARKER);
    Ok(Box::new(()))
}

/// Files private and shared, guards, names, huge pages, and 300 small mappings (a maple tree of depth 2 or more).
pub(super) fn many() -> io::Result<Held> {
    let path = "/run/lab-mapped";
    fs::write(path, vec![b'm'; 8 * PAGE])?;
    let file = File::options().read(true).write(true).open(path)?;
    let fd = file.as_raw_fd();
    or_report("private file", sys::map(fd, 8 * PAGE, READ, PRIVATE).map(touch));
    or_report("shared file", sys::map(fd, 4 * PAGE, READ | WRITE, SHARED).map(touch));
    or_report("guard", sys::map_anonymous(16 * PAGE, libc::PROT_NONE, PRIVATE));
    or_report("shared memory", sys::map_anonymous(3 * PAGE, READ | WRITE, SHARED).map(touch));
    or_report(
        "huge pages",
        sys::map_anonymous(2 << 20, READ | WRITE, PRIVATE | libc::MAP_HUGETLB).map(touch),
    );
    or_report("locked", locked());
    or_report("named memory (PR_SET_VMA)", named());
    let gone =
        File::options().read(true).write(true).create(true).truncate(true).open("/run/lab-unmapped")?;
    gone.set_len(PAGE as u64)?;
    or_report("deleted file", sys::map(gone.as_raw_fd(), PAGE, READ | WRITE, SHARED).map(touch));
    fs::remove_file("/run/lab-unmapped")?;
    small_maps(300)?;
    Ok(Box::new(file))
}

/// Faults the first page in.
fn touch(at: usize) {
    // SAFETY: the caller just mapped at least a page, readable, at this address.
    unsafe { std::ptr::read_volatile(at as *const u8) };
}

fn locked() -> io::Result<()> {
    let at = sys::map_anonymous(2 * PAGE, READ | WRITE, PRIVATE)?;
    // SAFETY: a mapping of this length was just made.
    sys::check(unsafe { libc::mlock(at as *const libc::c_void, 2 * PAGE) })?;
    Ok(())
}

/// Only kernels with CONFIG_ANON_VMA_NAME can do this.
fn named() -> io::Result<()> {
    /// `PR_SET_VMA` and `PR_SET_VMA_ANON_NAME`, include/uapi/linux/prctl.h since 5.17.
    const PR_SET_VMA: i32 = 0x5356_4d41;
    let at = sys::map_anonymous(2 * PAGE, READ | WRITE, PRIVATE)?;
    // SAFETY: a mapping just made and a static name.
    sys::check(unsafe { libc::prctl(PR_SET_VMA, 0usize, at, 2 * PAGE, c"lab arena".as_ptr()) })?;
    Ok(())
}

/// `count` neighbours of one page whose rights alternate, so that none merge.
fn small_maps(count: usize) -> io::Result<()> {
    let at = sys::map_anonymous(count * PAGE, READ, PRIVATE)?;
    for page in (0..count).step_by(2) {
        sys::protect(at + page * PAGE, PAGE, READ | WRITE)?;
        sys::poke(at + page * PAGE, format!("small map {page}").as_bytes());
    }
    Ok(())
}
