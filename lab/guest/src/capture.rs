//! Captures the truth: what the guest's own kernel says about itself, at this moment.
//!
//! The answer is a sequence of records `FILE <path> <len>\n<bytes>`. Most are files of `/proc` under their own path; a
//! symbolic link's content is its target. Made up here, since no file has them:
//!
//! - `/notes`: a `NOTE <text>` line for everything that could not be planted;
//! - `/proc/PID/fdstat`: `FD DEV INODE MODE SIZE` lines (st_dev as major:minor in decimal, mode in octal);
//! - `/proc/PID/pages`, of a few processes: `VADDR PFN` lines in hexadecimal, a line for each page that is in memory;
//! - `/proc/PID/net/ifaddrs`: `NAME ADDRESS PREFIX` lines, of the first process of each network namespace;
//! - `/lab/bpf`: see [`crate::bpf::list`]; `/lab/clock`: `realtime`, `monotonic` and `boottime` in nanoseconds.
//!
//! PID 1 is the only process that runs meanwhile; its own state and descriptors are therefore no truth to test by.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use crate::{bpf, shared, sys};

const OF_THREAD: &[&str] = &["status", "stat", "comm"];
const OF_PROCESS: &[&str] = &["cmdline", "environ", "maps", "mountinfo", "cgroup", "limits", "uid_map"];
const LINKS: &[&str] = &["exe", "cwd", "root"];
/// Processes whose translations are captured, by name.
const PAGED: &[&str] = &["lab-rwx", "lab-maps", "lab-inner"];
const OF_NETWORK: &[&str] = &[
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "udplite",
    "unix",
    "raw",
    "raw6",
    "packet",
    "netlink",
    "icmp",
    "icmp6",
    "dev",
    "if_inet6",
    "fib_trie",
    "route",
    "ipv6_route",
    "arp",
];
const OF_INTERFACE: &[&str] = &["address", "ifindex", "mtu", "flags", "operstate", "type"];
const OF_SYSTEM: &[&str] = &[
    "/proc/modules",
    "/proc/version",
    "/proc/uptime",
    "/proc/stat",
    "/proc/cmdline",
    "/proc/filesystems",
    "/proc/iomem",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/tainted",
    "/proc/sys/kernel/ftrace_enabled",
    "/proc/sys/kernel/random/boot_id",
    "/sys/kernel/notes",
];

/// Everything, in one buffer (about 1 MB).
pub(crate) fn capture(notes: &[String]) -> Vec<u8> {
    let mut truth = Records(Vec::with_capacity(2 << 20));
    let notes: String = notes.iter().map(|note| format!("NOTE {note}\n")).collect();
    truth.put("/notes", notes.as_bytes());
    truth.put("/lab/clock", clocks().as_bytes());
    for path in OF_SYSTEM {
        truth.file(path);
    }
    let mut networks = HashSet::new();
    for pid in numbers("/proc") {
        process(&mut truth, pid);
        if let Ok(network) = fs::read_link(format!("/proc/{pid}/ns/net"))
            && networks.insert(network)
        {
            network_of(&mut truth, pid);
        }
    }
    for module in names("/sys/module") {
        for file in ["refcnt", "coresize", "initstate"] {
            truth.file(&format!("/sys/module/{module}/{file}"));
        }
    }
    truth.put("/lab/bpf", bpf::list().as_bytes());
    truth.put("/dev/kmsg", &kernel_log());
    truth.0
}

/// The records so far.
struct Records(Vec<u8>);

impl Records {
    fn put(&mut self, path: &str, bytes: &[u8]) {
        self.0.extend_from_slice(format!("FILE {path} {}\n", bytes.len()).as_bytes());
        self.0.extend_from_slice(bytes);
    }

    /// A file's content; nothing if it cannot be read.
    fn file(&mut self, path: &str) {
        if let Ok(bytes) = fs::read(path) {
            self.put(path, &bytes);
        }
    }

    fn link(&mut self, path: &str) {
        if let Ok(target) = fs::read_link(path) {
            self.put(path, target.as_os_str().as_bytes());
        }
    }
}

fn process(truth: &mut Records, pid: u32) {
    let base = format!("/proc/{pid}");
    for name in OF_THREAD.iter().chain(OF_PROCESS) {
        truth.file(&format!("{base}/{name}"));
    }
    for name in LINKS {
        truth.link(&format!("{base}/{name}"));
    }
    for name in names(&format!("{base}/ns")) {
        truth.link(&format!("{base}/ns/{name}"));
    }
    let mut stats = String::new();
    for fd in numbers(&format!("{base}/fd")) {
        truth.link(&format!("{base}/fd/{fd}"));
        truth.file(&format!("{base}/fdinfo/{fd}"));
        if let Ok(meta) = fs::metadata(format!("{base}/fd/{fd}")) {
            let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
            let _ = writeln!(stats, "{fd} {major}:{minor} {} {:o} {}", meta.ino(), meta.mode(), meta.size());
        }
    }
    truth.put(&format!("{base}/fdstat"), stats.as_bytes());
    let comm = fs::read_to_string(format!("{base}/comm")).unwrap_or_default();
    if PAGED.contains(&comm.trim_end()) {
        truth.put(&format!("{base}/pages"), pages(&base).as_bytes());
    }
    for tid in numbers(&format!("{base}/task")).into_iter().filter(|&tid| tid != pid) {
        for name in OF_THREAD {
            truth.file(&format!("{base}/task/{tid}/{name}"));
        }
    }
}

/// Which page frame each present page of a process is in (Documentation/admin-guide/mm/pagemap.rst).
fn pages(base: &str) -> String {
    let mut text = String::new();
    let Ok(pagemap) = File::open(format!("{base}/pagemap")) else { return text };
    for line in fs::read_to_string(format!("{base}/maps")).unwrap_or_default().lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let ends = range.map(|(start, end)| (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)));
        let Some((Ok(start), Ok(end))) = ends else { continue };
        for page in start >> 12..end >> 12 {
            let mut entry = [0; 8];
            let is_read = pagemap.read_exact_at(&mut entry, page * 8).is_ok();
            if let Some(frame) = is_read.then(|| shared::frame(entry)).flatten() {
                let _ = writeln!(text, "{:x} {frame:x}", page << 12);
            }
        }
    }
    text
}

/// Sockets and interfaces of the network namespace that `pid` is the first process of.
fn network_of(truth: &mut Records, pid: u32) {
    for name in OF_NETWORK {
        truth.file(&format!("/proc/{pid}/net/{name}"));
    }
    let class = format!("/proc/{pid}/root/sys/class/net");
    for interface in names(&class) {
        for name in OF_INTERFACE {
            truth.file(&format!("{class}/{interface}/{name}"));
        }
    }
    let spaces = (File::open("/proc/self/ns/net"), File::open(format!("/proc/{pid}/ns/net")));
    if let (Ok(own), Ok(other)) = spaces
        && sys::setns(&other, libc::CLONE_NEWNET).is_ok()
    {
        truth.put(&format!("/proc/{pid}/net/ifaddrs"), addresses().as_bytes());
        let _ = sys::setns(&own, libc::CLONE_NEWNET);
    }
}

/// `NAME ADDRESS PREFIX` of every address in this network namespace.
fn addresses() -> String {
    let mut text = String::new();
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs fills a linked list that is read here before freeifaddrs, and nowhere after. Each address is
    // as large as its family says.
    unsafe {
        if libc::getifaddrs(&mut list) != 0 {
            return text;
        }
        let mut at = list;
        while let Some(entry) = at.as_ref() {
            at = entry.ifa_next;
            let name = std::ffi::CStr::from_ptr(entry.ifa_name).to_string_lossy();
            if let (Some(address), Some(mask)) = (ip(entry.ifa_addr), ip(entry.ifa_netmask)) {
                let bits = match mask {
                    std::net::IpAddr::V4(mask) => mask.to_bits().count_ones(),
                    std::net::IpAddr::V6(mask) => mask.to_bits().count_ones(),
                };
                let _ = writeln!(text, "{name} {address} {bits}");
            }
        }
        libc::freeifaddrs(list);
    }
    text
}

/// The IP address in a socket address, if it is one.
///
/// # Safety
/// `address` is null or points to a socket address as large as its family says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<std::net::IpAddr> {
    // SAFETY: the caller's promise.
    unsafe {
        match i32::from(address.as_ref()?.sa_family) {
            libc::AF_INET => {
                let raw = (*address.cast::<libc::sockaddr_in>()).sin_addr.s_addr;
                Some(std::net::Ipv4Addr::from(raw.to_ne_bytes()).into())
            }
            libc::AF_INET6 => Some(
                std::net::Ipv6Addr::from((*address.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr).into(),
            ),
            _ => None,
        }
    }
}

fn clocks() -> String {
    let mut text = String::new();
    for (name, clock) in [
        ("realtime", libc::CLOCK_REALTIME),
        ("monotonic", libc::CLOCK_MONOTONIC),
        ("boottime", libc::CLOCK_BOOTTIME),
    ] {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` outlives the call.
        unsafe { libc::clock_gettime(clock, &mut now) };
        let _ = writeln!(text, "{name} {}", i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec));
    }
    text
}

/// Every record of the kernel's log, in the form of /dev/kmsg.
fn kernel_log() -> Vec<u8> {
    let mut log = Vec::new();
    let Ok(mut file) = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg") else {
        return log;
    };
    let mut record = [0; 8192];
    loop {
        match file.read(&mut record) {
            Ok(len @ 1..) => log.extend_from_slice(record.get(..len).unwrap_or_default()),
            // A record was overwritten before it was read: go on with the next.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            _ => return log,
        }
    }
}

/// Names in a directory, sorted.
fn names(path: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Numeric names in a directory, in order.
fn numbers(path: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = names(path).iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}
