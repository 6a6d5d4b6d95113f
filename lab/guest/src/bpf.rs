//! `bpf(2)`: one program and one map to find, programs that attack, and the kernel's own list of all.
//!
//! Layouts: `union bpf_attr`, `struct bpf_prog_info`, `struct bpf_map_info` of include/uapi/linux/bpf.h (5.10 to 7.x;
//! the fields used here have not moved).

use std::ffi::CStr;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys;

const MAP_CREATE: i32 = 0;
const MAP_UPDATE_ELEM: i32 = 2;
const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const PROG_GET_NEXT_ID: i32 = 11;
const MAP_GET_NEXT_ID: i32 = 12;
const PROG_GET_FD_BY_ID: i32 = 13;
const MAP_GET_FD_BY_ID: i32 = 14;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const RAW_TRACEPOINT_OPEN: i32 = 17;
const LINK_CREATE: i32 = 28;

/// `enum bpf_prog_type`.
const SOCKET_FILTER: u32 = 1;
const XDP: u32 = 6;
const PERF_EVENT: u32 = 7;
const RAW_TRACEPOINT: u32 = 17;
/// `BPF_XDP` of `enum bpf_attach_type`.
const AT_XDP: u32 = 37;

/// `PERF_EVENT_IOC_SET_BPF`.
const SET_BPF: libc::c_ulong = 0x4004_2408;
/// `PERF_TYPE_SOFTWARE` with `PERF_COUNT_SW_CPU_CLOCK` (0), and the size of the first `struct perf_event_attr`.
const SOFTWARE: u32 = 1;
const FIRST_ATTR_BYTES: u32 = 64;

/// `r0 = 2; exit`: passes every packet on (`XDP_PASS`).
const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// Writes eight bytes to address 0 of whoever runs, which fails and harms nobody:
/// `*(u64 *)(r10 - 8) = 0; r1 = 0; r2 = r10 - 8; r3 = 8; bpf_probe_write_user(); r0 = 0; exit`.
const WRITE_USER: [[u8; 8]; 8] = [
    [0x7a, 0x0a, 0xf8, 0xff, 0, 0, 0, 0],
    [0xb7, 0x01, 0, 0, 0, 0, 0, 0],
    [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],
    [0x07, 0x02, 0, 0, 0xf8, 0xff, 0xff, 0xff],
    [0xb7, 0x03, 0, 0, 8, 0, 0, 0],
    [0x85, 0, 0, 0, 36, 0, 0, 0],
    [0xb7, 0, 0, 0, 0, 0, 0, 0],
    [0x95, 0, 0, 0, 0, 0, 0, 0],
];

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
    array([2, 4, 8, 4], b"lab_map")
}

/// A map of this type, size of keys, size of values, and number of entries.
fn array(shape: [u32; 4], name: &[u8]) -> io::Result<OwnedFd> {
    let shape: Vec<u8> = shape.iter().flat_map(|value| value.to_ne_bytes()).collect();
    sys::own(Attr::new().with(0, &shape).with(28, name).call(MAP_CREATE)?)
}

/// An array of programs (`BPF_MAP_TYPE_PROG_ARRAY`) with one for packets in it, which nothing else holds.
pub(crate) fn in_array() -> io::Result<OwnedFd> {
    let array = array([3, 4, 4, 2], b"attack_jumps")?;
    let program = load(XDP, &PASS, b"attack_jumped")?;
    let (second, value) = (1u32, program.as_raw_fd());
    let attr = Attr::new()
        .with(0, &array.as_raw_fd().to_ne_bytes())
        .with(8, &(&raw const second as u64).to_ne_bytes())
        .with(16, &(&raw const value as u64).to_ne_bytes());
    { attr }.call(MAP_UPDATE_ELEM)?;
    Ok(array)
}

/// A socket filter `lab_filter` that refers to `map`.
pub(crate) fn load_filter(map: &OwnedFd) -> io::Result<OwnedFd> {
    load(SOCKET_FILTER, &filter(map.as_raw_fd()), b"lab_filter")
}

/// Has a program see all packets of the loopback device before anything else does, for as long as what is returned is open.
pub(crate) fn at_loopback() -> io::Result<OwnedFd> {
    let program = load(XDP, &PASS, b"attack_xdp")?;
    let loopback = 1u32;
    let attr = Attr::new()
        .with(0, &program.as_raw_fd().to_ne_bytes())
        .with(4, &loopback.to_ne_bytes())
        .with(8, &AT_XDP.to_ne_bytes());
    sys::own({ attr }.call(LINK_CREATE)?)
}

/// Has `object` live on under a name in a file system of type `bpf`.
pub(crate) fn pin(object: &OwnedFd, path: &CStr) -> io::Result<()> {
    let attr =
        Attr::new().with(0, &(path.as_ptr() as u64).to_ne_bytes()).with(8, &object.as_raw_fd().to_ne_bytes());
    { attr }.call(OBJ_PIN).map(drop)
}

/// Has a program run now and then while this process does; what is returned is a perf event, and nothing else holds the program.
pub(crate) fn at_clock() -> io::Result<OwnedFd> {
    let program = load(PERF_EVENT, &PASS, b"attack_perf")?;
    let hour_ns = 3_600_000_000_000u64;
    let mut attr = Attr::new()
        .with(0, &SOFTWARE.to_ne_bytes())
        .with(4, &FIRST_ATTR_BYTES.to_ne_bytes())
        .with(16, &hour_ns.to_ne_bytes());
    let (this, any_cpu, no_group) = (0, -1, -1);
    // SAFETY: the buffer outlives the call, and holds as many bytes as it says.
    let event = sys::check(unsafe {
        libc::syscall(libc::SYS_perf_event_open, attr.0.as_mut_ptr(), this, any_cpu, no_group, 0)
    })?;
    let event = sys::own(event as i32)?;
    // SAFETY: passes a number only.
    sys::check(unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) })?;
    Ok(event)
}

/// Has a program write to the memory of each process that begins another.
pub(crate) fn at_processes() -> io::Result<OwnedFd> {
    let program = load(RAW_TRACEPOINT, &WRITE_USER, b"attack_write")?;
    let attr = Attr::new()
        .with(0, &(c"task_newtask".as_ptr() as u64).to_ne_bytes())
        .with(8, &program.as_raw_fd().to_ne_bytes());
    sys::own({ attr }.call(RAW_TRACEPOINT_OPEN)?)
}

fn load(kind: u32, program: &[[u8; 8]], name: &[u8]) -> io::Result<OwnedFd> {
    let attr = Attr::new()
        .with(0, &kind.to_ne_bytes())
        .with(4, &(program.len() as u32).to_ne_bytes())
        .with(8, &(program.as_ptr() as u64).to_ne_bytes())
        .with(16, &(c"GPL".as_ptr() as u64).to_ne_bytes())
        .with(48, name);
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
