//! `bpf(2)`: one program and one map to find, and the kernel's own list of both.
//!
//! Layouts: `union bpf_attr`, `struct bpf_prog_info`, `struct bpf_map_info` of include/uapi/linux/bpf.h (5.10 to 7.x;
//! the fields used here have not moved).

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys;

const MAP_CREATE: i32 = 0;
const PROG_LOAD: i32 = 5;
const PROG_GET_NEXT_ID: i32 = 11;
const MAP_GET_NEXT_ID: i32 = 12;
const PROG_GET_FD_BY_ID: i32 = 13;
const MAP_GET_FD_BY_ID: i32 = 14;
const OBJ_GET_INFO_BY_FD: i32 = 15;

/// `r1 = map; r0 = 65535; exit`: accepts every packet and keeps the map in use.
fn filter(map: i32) -> [[u8; 8]; 4] {
    let fd = map.to_le_bytes();
    [
        [0x18, 0x11, 0, 0, fd[0], fd[1], fd[2], fd[3]],
        [0; 8],
        [0xb7, 0x00, 0, 0, 0xff, 0xff, 0, 0],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ]
}

/// `union bpf_attr`, filled in by offset.
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Self {
        Attr([0; 128])
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn call(&mut self, command: i32) -> io::Result<i32> {
        // SAFETY: the buffer outlives the call; every address inside it is of a buffer that its maker keeps alive.
        let value = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), 72usize) };
        Ok(sys::check(value)? as i32)
    }

    fn word(&self, at: usize) -> u32 {
        word(&self.0, at)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// An array map `lab_map` of four 8-byte values.
pub(crate) fn create_map() -> io::Result<OwnedFd> {
    let sizes: Vec<u8> = [2u32, 4, 8, 4].iter().flat_map(|value| value.to_ne_bytes()).collect();
    sys::own(Attr::new().with(0, &sizes).with(28, b"lab_map").call(MAP_CREATE)?)
}

/// A socket filter `lab_filter` that refers to `map`.
pub(crate) fn load_filter(map: &OwnedFd) -> io::Result<OwnedFd> {
    let program = filter(map.as_raw_fd());
    let attr = Attr::new()
        .with(0, &1u32.to_ne_bytes()) // BPF_PROG_TYPE_SOCKET_FILTER
        .with(4, &(program.len() as u32).to_ne_bytes())
        .with(8, &(program.as_ptr() as u64).to_ne_bytes())
        .with(16, &(c"GPL".as_ptr() as u64).to_ne_bytes())
        .with(48, b"lab_filter");
    sys::own({ attr }.call(PROG_LOAD)?)
}

/// Attaches a loaded filter to a socket.
pub(crate) fn attach(socket: &impl AsRawFd, program: &OwnedFd) -> io::Result<()> {
    let fd = program.as_raw_fd();
    // SAFETY: passes the address and size of one live integer.
    sys::check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_BPF, (&raw const fd).cast(), 4)
    })?;
    Ok(())
}

/// Every program and map of the kernel: `prog ID TYPE TAG NAME` and `map ID TYPE KEY VALUE MAX NAME` lines.
/// TAG is hexadecimal, sizes are in bytes, a missing name is `-`.
pub(crate) fn list() -> String {
    let mut text = String::new();
    for info in infos(PROG_GET_NEXT_ID, PROG_GET_FD_BY_ID) {
        let tag: String = info[8..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "prog {} {} {tag} {}", word(&info, 4), word(&info, 0), name(&info[64..80]));
    }
    for info in infos(MAP_GET_NEXT_ID, MAP_GET_FD_BY_ID) {
        let (kind, id, key, value, max) =
            (word(&info, 0), word(&info, 4), word(&info, 8), word(&info, 12), word(&info, 16));
        let _ = writeln!(text, "map {id} {kind} {key} {value} {max} {}", name(&info[24..40]));
    }
    text
}

fn infos(next: i32, open: i32) -> Vec<[u8; 256]> {
    let mut found = Vec::new();
    let mut id = 0u32;
    loop {
        let mut attr = Attr::new().with(0, &id.to_ne_bytes());
        if attr.call(next).is_err() {
            return found;
        }
        id = attr.word(4);
        let fd = Attr::new().with(0, &id.to_ne_bytes()).call(open).and_then(sys::own);
        found.extend(fd.ok().and_then(|fd| info(&fd).ok()));
    }
}

fn info(fd: &OwnedFd) -> io::Result<[u8; 256]> {
    let mut bytes = [0u8; 256];
    Attr::new()
        .with(0, &fd.as_raw_fd().to_ne_bytes())
        .with(4, &(bytes.len() as u32).to_ne_bytes())
        .with(8, &(bytes.as_mut_ptr() as u64).to_ne_bytes())
        .call(OBJ_GET_INFO_BY_FD)?;
    Ok(bytes)
}

fn name(bytes: &[u8]) -> String {
    let text: Vec<u8> = bytes.iter().copied().take_while(|&byte| byte != 0).collect();
    if text.is_empty() { "-".into() } else { String::from_utf8_lossy(&text).into_owned() }
}
