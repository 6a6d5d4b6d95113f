//! What the lock-down cannot do without `unsafe`: closing descriptors that nobody here owns, leaving namespaces, and the handler that
//! tells which system call the filter stopped.
//!
//! *Trusts*: that the process has one thread and owns no descriptor that is being closed: its caller says so.
#![allow(unsafe_code)]

use std::io;

/// What the handler writes before the number.
pub(super) const STOPPED: &str = "lynceus: stopped by the worker's filter: system call ";
/// `SYS_SECCOMP`, the reason of a SIGSYS that a filter sent (`asm-generic/siginfo.h`).
const SYS_SECCOMP: libc::c_int = 1;

/// Closes all descriptors of a range.
pub(super) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no memory is touched. The caller's promise: nobody in this process owns one of them.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A new network namespace and a new IPC namespace for this process.
pub(super) fn leave_namespaces() -> io::Result<()> {
    // SAFETY: takes flags only; descriptors stay shared as they were.
    match unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWIPC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Blocks of more than this are mapped by themselves, and gone when they are freed. Without a word the C library raises this limit to the largest
/// block that was ever freed, up to 32 MiB, and keeps the room of those below it.
const LARGE_BLOCK_BYTES: libc::c_int = 256 << 10;

/// Keeps little of what was freed. What it does keep it gives back when it is told to ([`give_memory_back`]) and never by itself: for a thread's heap the C
/// library (`check_may_shrink_heap` of glibc) would open a file in /proc to know how, which ends the worker. And without a number of arenas of its own the C library opens a file in /sys to count processors, once
/// enough threads allocate.
pub(crate) fn small_heap(threads: u32) {
    let arenas = libc::c_int::try_from(threads).unwrap_or(libc::c_int::MAX).saturating_add(1);
    // SAFETY: changes parameters of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

/// Gives pages of freed memory back to the kernel, wherever in the heap they are.
pub(crate) fn give_memory_back() {
    // SAFETY: takes its own locks, and frees what nobody uses.
    unsafe { libc::malloc_trim(0) };
}

/// From here on a system call that a filter answers with SIGSYS is written to standard error, and ends the process.
pub(super) fn report_violations() -> io::Result<()> {
    // SAFETY: `sigaction` is plain data, for which zeros are valid: no other signal is blocked in the handler but its own.
    let done = unsafe {
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = on_sigsys as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSYS, &raw const ours, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The beginning of `siginfo_t` as it is for SIGSYS on x86-64 (`asm-generic/siginfo.h`).
#[repr(C)]
struct SigSys {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    padding: libc::c_int,
    call_address: u64,
    syscall: libc::c_int,
    arch: libc::c_uint,
}

/// Only system calls and the stack: async-signal-safe.
extern "C" fn on_sigsys(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t (SA_SIGINFO), of whose 128 bytes these are the first 32.
    let (code, call) = unsafe { ((*info.cast::<SigSys>()).code, (*info.cast::<SigSys>()).syscall) };
    if code == SYS_SECCOMP {
        let mut line = [0u8; 96];
        let mut len = 0;
        let mut digits = [0u8; 10];
        let number = decimal(call.unsigned_abs(), &mut digits);
        for byte in STOPPED.bytes().chain(number.iter().copied()).chain([b'\n']) {
            if let Some(place) = line.get_mut(len) {
                *place = byte;
                len += 1;
            }
        }
        // SAFETY: `len` bytes of this frame, to standard error, at once so that no other thread writes in between.
        unsafe { libc::write(2, line.as_ptr().cast(), len) };
    }
    // SIGSYS is blocked in its own handler: the kernel cannot deliver this one, and kills.
    // SAFETY: a call without arguments, which is on no list and would do nothing.
    unsafe { libc::syscall(libc::SYS_getppid) };
    // Without a filter (somebody else sent the signal).
    // SAFETY: ends the process.
    unsafe { libc::_exit(128 + libc::SIGSYS) };
}

/// A number in decimal, in the end of `digits`.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut first = digits.len();
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        first = index;
        if number == 0 {
            break;
        }
    }
    digits.get(first..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_decimal() {
        for number in [0, 7, 10, 59, 435, u32::MAX] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string().as_bytes());
        }
    }
}
