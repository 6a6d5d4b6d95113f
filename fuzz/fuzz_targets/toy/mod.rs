//! A kernel that never was: types from `kernel.types`, a few symbols, RAM that the fuzzer writes.
//!
//! Input: five bytes a write: what, where (in words), and a word's worth of value. So that pointers lead somewhere.

pub mod looks;

use lynceus_introspect::backend::fake::Fake;
use lynceus_introspect::linux::{Kernel, Layouts, LinuxGuest};
use lynceus_introspect::paging::{Mode, Root};
use lynceus_introspect::{Gpa, Gva};
use lynceus_profiles::{Identity, Profile, SymbolsBuilder, btf};
use std::sync::{Arc, OnceLock};

/// Where RAM is mapped.
const BASE: u64 = 0xffff_8880_0000_0000;
/// Objects lie below, the page tables above.
const OBJECTS: usize = 256 << 10;
const RAM: usize = 2 << 20;

const SYMBOLS: [&str; 48] = [
    "init_task",
    "modules",
    "mod_tree",
    "module_kset",
    "init_pid_ns",
    "runqueues",
    "__per_cpu_offset",
    "nr_cpu_ids",
    "task_struct_cachep",
    "page_offset_base",
    "vmemmap_base",
    "net_namespace_list",
    "nl_table",
    "ping_table",
    "prb",
    "prog_idr",
    "map_idr",
    "link_idr",
    "raw_v4_hashinfo",
    "raw_v6_hashinfo",
    "tcp_hashinfo",
    "unix_socket_table",
    "timekeeper_data",
    "tk_core",
    "gate_vma",
    "vsyscall_mode",
    "special_mapping_name",
    "super_blocks",
    "sys_call_table",
    "idt_table",
    "_stext",
    "_etext",
    "kprobe_table",
    "ftrace_ops_list",
    "ftrace_list_end",
    "tty_drivers",
    "bpf_kallsyms",
    "init_cred",
    "init_groups",
    "init_user_ns",
    "keyboard_notifier_list",
    "reboot_notifier_list",
    "netdev_chain",
    "modprobe_path",
    "__bpf_call_base",
    "d_hash_shift",
    "_text",
    "_end",
];
/// A symbol's object starts that far after the one before.
const SYMBOL_BYTES: u64 = 512;

/// The guest whose RAM `input` describes.
pub fn guest(input: &[u8]) -> LinuxGuest {
    let mut ram = vec![0; RAM];
    let mut put =
        |at: u64, value: u64| ram[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
    let (top, index) = (RAM as u64 - 0x3000, |level: u32| (BASE >> (12 + 9 * level) & 511) * 8);
    put(top + index(3), top + 0x1000 + 0x63);
    put(top + 0x1000 + index(2), top + 0x2000 + 0x63);
    put(top + 0x2000 + index(1), 0xe3);
    for symbol in ["page_offset_base", "vmemmap_base"] {
        let place = SYMBOLS.iter().position(|name| *name == symbol).expect("listed above") as u64;
        put(place * SYMBOL_BYTES, BASE);
    }
    for write in input.chunks_exact(5) {
        let word = |at: usize| u64::from(u16::from_le_bytes([write[at], write[at + 1]]));
        let (at, value) = (word(1) * 8 % OBJECTS as u64, word(3));
        let value = match write[0] % 8 {
            // A pointer to a word, to an odd byte, to what a tagged pointer means, to nowhere.
            0..=2 => BASE + value * 8 % OBJECTS as u64,
            3 => BASE + value,
            4 => (BASE + (value & !255)) | value & 0x1e,
            5 => value,
            6 => value << 48 | value,
            _ => u64::MAX - value,
        };
        put(at, value);
    }
    let kernel = Kernel {
        profile: profile(),
        slide: 0,
        text: Gpa(0),
        root: Root { table: Gpa(top), mode: Mode::FourLevel },
        layouts: layouts().clone(),
    };
    LinuxGuest::new(Arc::new(Fake::flat(ram).frozen()), kernel)
}

/// Somewhere among the objects.
pub fn object(word: u16) -> Gva {
    Gva(BASE + u64::from(word) * 8 % OBJECTS as u64)
}

fn layouts() -> &'static Layouts {
    static LAYOUTS: OnceLock<Layouts> = OnceLock::new();
    LAYOUTS.get_or_init(|| {
        let layouts = Layouts::resolve(&profile());
        assert_eq!(layouts.unavailable(), Vec::<String>::new(), "kernel.types lacks what these need");
        layouts
    })
}

fn profile() -> Arc<Profile> {
    static PROFILE: OnceLock<Arc<Profile>> = OnceLock::new();
    PROFILE
        .get_or_init(|| {
            let types = btf::parse(&blob(include_str!("kernel.types"))).expect("our own BTF");
            let mut symbols = SymbolsBuilder::default();
            for (index, name) in SYMBOLS.iter().enumerate() {
                symbols.push(name, BASE + index as u64 * SYMBOL_BYTES, b'd');
            }
            Arc::new(Profile { identity: Identity::default(), symbols: symbols.build(), types })
        })
        .clone()
}

/// A structure under construction: its members by name, in order.
#[derive(Default)]
struct Record {
    members: Vec<(String, Member)>,
}

enum Member {
    Leaf { ty: u32, bytes: u32 },
    Nested(Record),
}

impl Record {
    fn add(&mut self, path: &str, ty: u32, bytes: u32) {
        let Some((first, rest)) = path.split_once('.') else {
            // A member that others lie inside of is there already.
            if !self.members.iter().any(|(name, _)| name == path) {
                self.members.push((path.to_owned(), Member::Leaf { ty, bytes }));
            }
            return;
        };
        let place = self.members.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
            self.members.push((first.to_owned(), Member::Nested(Record::default())));
            self.members.len() - 1
        });
        let member = &mut self.members[place].1;
        if let Member::Leaf { .. } = member {
            *member = Member::Nested(Record::default());
        }
        if let Member::Nested(record) = member {
            record.add(rest, ty, bytes);
        }
    }
}

/// A BTF blob under construction (`Documentation/bpf/btf.rst`).
struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    last: u32,
}

impl Btf {
    fn ty(&mut self, name: &str, kind: u32, vlen: u32, size_or_type: u32, rest: &[u32]) -> u32 {
        let name = self.string(name);
        for word in [name, kind << 24 | vlen, size_or_type].iter().chain(rest) {
            self.types.extend(word.to_le_bytes());
        }
        self.last += 1;
        self.last
    }
    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text.bytes().chain([0]));
        at
    }
    fn int(&mut self, bytes: u32) -> u32 {
        self.ty("n", 1, 0, bytes, &[bytes * 8])
    }
    /// Members aligned to 8 bytes, one after the other.
    fn record(&mut self, name: &str, record: Record) -> (u32, u32) {
        let (mut offset, mut members) = (0, Vec::new());
        let count = record.members.len() as u32;
        for (name, member) in record.members {
            let (ty, bytes) = match member {
                Member::Leaf { ty, bytes } => (ty, bytes),
                Member::Nested(record) => self.record("", record),
            };
            let name = self.string(&name);
            members.extend([name, ty, offset * 8]);
            offset += bytes.next_multiple_of(8);
        }
        (self.ty(name, 4, count, offset.max(8), &members), offset.max(8))
    }
}

fn blob(text: &str) -> Vec<u8> {
    let mut btf = Btf { types: Vec::new(), strings: vec![0], last: 0 };
    let mut open: Option<(String, Record)> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if !line.starts_with(' ') {
            if let Some((name, record)) = open.replace((line.to_owned(), Record::default())) {
                btf.record(&name, record);
            }
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u32>().expect("a number");
        let (ty, bytes) = match words[1] {
            "int" => (btf.int(number(2)), number(2)),
            "pointer" => (btf.ty("", 2, 0, 0, &[]), 8),
            "array" => {
                let element = match number(3) {
                    bytes @ (1 | 2 | 4 | 8) => btf.int(bytes),
                    bytes => btf.ty("", 4, 0, bytes, &[]),
                };
                (btf.ty("", 3, 0, 0, &[element, element, number(2)]), number(2) * number(3))
            }
            _ => (btf.ty("", 4, 0, number(2), &[]), number(2)),
        };
        open.as_mut().expect("a structure's name comes first").1.add(words[0], ty, bytes);
    }
    if let Some((name, record)) = open {
        btf.record(&name, record);
    }
    let (types, strings) = (btf.types.len() as u32, btf.strings.len() as u32);
    let mut out = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, types, types, strings] {
        out.extend(word.to_le_bytes());
    }
    out.extend(btf.types);
    out.extend(btf.strings);
    out
}
