//! Writing a profile as ISF.

use crate::kallsyms::KERNEL_MAP;
use crate::types::Record;
use crate::{Profile, Type, TypeId, Types};
use base64::Engine;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{self, Write};

/// Deepest nesting of pointers and arrays written out; what is below becomes `void`.
const MAX_DEPTH: usize = 16;

/// Names, sizes, signs and kinds that readers expect to find.
const BASE_TYPES: [(&str, u32, bool, &str); 17] = [
    ("void", 0, false, "void"),
    ("_Bool", 1, false, "bool"),
    ("char", 1, true, "char"),
    ("signed char", 1, true, "char"),
    ("unsigned char", 1, false, "char"),
    ("short", 2, true, "int"),
    ("short int", 2, true, "int"),
    ("unsigned short", 2, false, "int"),
    ("short unsigned int", 2, false, "int"),
    ("int", 4, true, "int"),
    ("unsigned int", 4, false, "int"),
    ("long", 8, true, "int"),
    ("long int", 8, true, "int"),
    ("long long int", 8, true, "int"),
    ("long unsigned int", 8, false, "int"),
    ("long long unsigned int", 8, false, "int"),
    ("pointer", 8, false, "int"),
];

/// Types of symbols that readers look objects up by; kallsyms does not tell them.
const SYMBOL_TYPES: [(&str, &str); 14] = [
    ("init_task", "task_struct"),
    ("modules", "list_head"),
    ("net_namespace_list", "list_head"),
    ("tty_drivers", "list_head"),
    ("bpf_kallsyms", "list_head"),
    ("ftrace_mod_maps", "list_head"),
    ("prog_idr", "idr"),
    ("mod_tree", "mod_tree_root"),
    ("init_pid_ns", "pid_namespace"),
    ("init_net", "net"),
    ("init_mm", "mm_struct"),
    ("socket_file_ops", "file_operations"),
    ("sockfs_dentry_operations", "dentry_operations"),
    ("keyboard_notifier_list", "atomic_notifier_head"),
];
/// The same for symbols that are pointers to such objects, or numbers.
const SYMBOL_POINTERS: [(&str, &str); 3] =
    [("module_kset", "kset"), ("ftrace_ops_list", "ftrace_ops"), ("prb", "printk_ringbuffer")];
/// The same for arrays: a symbol reaches to the next one.
const SYMBOL_ARRAYS: [(&str, &str); 1] = [("taint_flags", "taint_flag")];
const SYMBOL_NUMBERS: [&str; 4] = ["vmemmap_base", "page_offset_base", "phys_base", "cap_last_cap"];

/// Enumerations whose names readers ask for, with the prefix of the names; their numbers never change:
/// `bpf_prog_type` (`include/uapi/linux/bpf.h`), `mod_mem_type` (`include/linux/module.h`, from 6.4), to 7.2.
const ENUMS: [(&str, &str, &str); 2] = [
    (
        "bpf_prog_type",
        "BPF_PROG_TYPE_",
        "UNSPEC SOCKET_FILTER KPROBE SCHED_CLS SCHED_ACT TRACEPOINT XDP PERF_EVENT CGROUP_SKB CGROUP_SOCK LWT_IN LWT_OUT \
        LWT_XMIT SOCK_OPS SK_SKB CGROUP_DEVICE SK_MSG RAW_TRACEPOINT CGROUP_SOCK_ADDR LWT_SEG6LOCAL LIRC_MODE2 \
        SK_REUSEPORT FLOW_DISSECTOR CGROUP_SYSCTL RAW_TRACEPOINT_WRITABLE CGROUP_SOCKOPT TRACING STRUCT_OPS EXT LSM \
        SK_LOOKUP SYSCALL NETFILTER",
    ),
    ("mod_mem_type", "MOD_", "TEXT DATA RODATA RO_AFTER_INIT INIT_TEXT INIT_DATA INIT_RODATA"),
];
/// Members that hold one of them: structure, member, enumeration.
const ENUM_MEMBERS: [(&str, &str, &str); 1] = [("bpf_prog", "type", "bpf_prog_type")];

/// Writes `profile` as ISF JSON.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let records = Records::new(&profile.types);
    write!(out, "{{\"metadata\":{},\n\"base_types\":{}", metadata(profile), base_types())?;
    let types = records.names.iter().zip(&profile.types.records);
    object(out, "user_types", types.map(|(name, record)| (name.as_str(), records.user_type(record))))?;
    // Other enumerations are known by their values alone; members that hold one are integers of its size.
    object(out, "enums", ENUMS.iter().map(|(name, prefix, names)| (*name, enumeration(prefix, names))))?;
    object(out, "symbols", symbols(profile).chain(phys_startup(profile)))?;
    writeln!(out, "}}")
}

/// Writes `,"name":{key:value…}`, a line an entry.
fn object<'a>(
    out: &mut dyn Write,
    name: &str,
    entries: impl Iterator<Item = (&'a str, Value)>,
) -> io::Result<()> {
    write!(out, ",\n\"{name}\":{{")?;
    for (index, (key, value)) in entries.enumerate() {
        let comma = if index == 0 { "\n" } else { ",\n" };
        write!(out, "{comma}{}:{value}", json!(key))?;
    }
    write!(out, "}}")
}

fn metadata(profile: &Profile) -> Value {
    let id = profile.identity.build_id.map_or_else(String::new, |id| format!(" build-id {id}"));
    json!({
        "format": "6.2.0",
        "producer": { "name": "lynceus", "version": env!("CARGO_PKG_VERSION"), "datetime": "1970-01-01T00:00:00" },
        "linux": {
            "symbols": [{ "kind": "symtab", "name": format!("kallsyms{id}") }],
            "types": [{ "kind": "dwarf", "name": "BTF" }],
        },
    })
}

fn base_types() -> Value {
    let one = |(name, size, signed, kind): &(&str, u32, bool, &str)| {
        ((*name).to_owned(), json!({ "size": size, "signed": signed, "kind": kind, "endian": "little" }))
    };
    BASE_TYPES.iter().map(one).collect::<serde_json::Map<_, _>>().into()
}

fn enumeration(prefix: &str, names: &str) -> Value {
    let names = names.split_whitespace().enumerate();
    let constants: serde_json::Map<_, _> =
        names.map(|(value, name)| (format!("{prefix}{name}"), json!(value))).collect();
    json!({ "size": 4, "base": "unsigned int", "constants": constants })
}

/// Symbols by name. Static functions may share a name, an object's keys may not: the lowest address counts.
fn symbols(profile: &Profile) -> impl Iterator<Item = (&str, Value)> {
    let table = &profile.symbols;
    let mut last = "";
    table.by_name.iter().filter_map(move |index| {
        let found = table.at(index)?;
        let repeated = std::mem::replace(&mut last, found.name) == found.name;
        let is_new = !repeated && !found.name.is_empty();
        is_new.then(|| (found.name, symbol(profile, found.name, found.address, found.kind)))
    })
}

/// Where the kernel is linked to start in physical memory. The linker script has it (arch/x86/kernel/vmlinux.lds.S, 5.10 to 7.2)
/// and kallsyms does not; LibVMI reads no dump without it.
fn phys_startup(profile: &Profile) -> Option<(&'static str, Value)> {
    const NAME: &str = "phys_startup_64";
    let start = profile.symbols.address("startup_64")?.checked_sub(KERNEL_MAP)?;
    profile.symbols.address(NAME).is_none().then(|| (NAME, json!({ "address": start })))
}

fn symbol(profile: &Profile, name: &str, address: u64, kind: u8) -> Value {
    let mut value = serde_json::Map::from_iter([("address".to_owned(), json!(address))]);
    let record = |ty: &str| {
        let is_union = profile.types.record(ty).is_some_and(|record| record.is_union);
        json!({ "kind": if is_union { "union" } else { "struct" }, "name": ty })
    };
    let known =
        |table: &[(&str, &'static str)]| table.iter().find(|entry| entry.0 == name).map(|entry| entry.1);
    let ty = if name == "linux_banner" {
        let banner = format!("{}\n\0", profile.identity.banner);
        let text = base64::engine::general_purpose::STANDARD.encode(&banner);
        value.insert("constant_data".to_owned(), text.into());
        Some(json!({ "kind": "array", "count": banner.len(), "subtype": base("char") }))
    } else if let Some(ty) = known(&SYMBOL_TYPES).filter(|ty| profile.types.record(ty).is_some()) {
        Some(record(ty))
    } else if let Some(ty) = known(&SYMBOL_POINTERS).filter(|ty| profile.types.record(ty).is_some()) {
        Some(json!({ "kind": "pointer", "subtype": record(ty) }))
    } else if let Some(ty) = known(&SYMBOL_ARRAYS) {
        array_len(profile, address, ty)
            .map(|count| json!({ "kind": "array", "count": count, "subtype": record(ty) }))
    } else if SYMBOL_NUMBERS.contains(&name) {
        Some(base("long unsigned int"))
    } else {
        matches!(kind, b't' | b'T').then(|| json!({ "kind": "function" }))
    };
    if let Some(ty) = ty {
        value.insert("type".to_owned(), ty);
    }
    value.into()
}

/// How many `ty` fit between `address` and the next symbol.
fn array_len(profile: &Profile, address: u64, ty: &str) -> Option<u64> {
    let bytes = profile.types.record(ty)?.bytes;
    let next = profile.symbols.next_after(address)?;
    next.checked_sub(address)?.checked_div(bytes.into()).filter(|count| (1..64).contains(count))
}

fn base(name: &str) -> Value {
    json!({ "kind": "base", "name": name })
}

/// The structures and unions under names that are unique.
struct Records<'a> {
    types: &'a Types,
    names: Vec<String>,
}

impl<'a> Records<'a> {
    fn new(types: &'a Types) -> Self {
        let mut seen = HashSet::new();
        // Of those that share a name, the one that a search by name finds keeps it.
        let first: HashSet<u32> =
            types.by_name.iter().copied().filter(|index| seen.insert(types.name_of(*index))).collect();
        let name = |index: u32| match types.name_of(index) {
            "" => format!("unnamed_{index}"),
            name if first.contains(&index) => name.to_owned(),
            name => format!("{name}__{index}"),
        };
        Records { types, names: (0..types.records.len() as u32).map(name).collect() }
    }

    fn user_type(&self, record: &Record) -> Value {
        let mut fields = serde_json::Map::new();
        for (index, member) in self.types.members_in(record).iter().enumerate() {
            let Some(bytes) = self.types.bytes_of(member.ty) else { continue };
            let name = self.types.text(member.name);
            // A bit field lies in a unit of its own type.
            let unit = if member.bit_size > 0 { bytes.max(1).saturating_mul(8) } else { 8 };
            let first = member.bit_offset.checked_rem(unit).unwrap_or(0);
            let offset = member.bit_offset.saturating_sub(first) / 8;
            let holder = (self.types.text(record.name), self.types.text(member.name));
            let ty = match ENUM_MEMBERS.iter().find(|entry| (entry.0, entry.1) == holder) {
                Some((_, _, name)) => json!({ "kind": "enum", "name": name }),
                None => self.descriptor(member.ty, 0),
            };
            let ty = match member.bit_size {
                0 => ty,
                width => {
                    json!({ "kind": "bitfield", "bit_position": first, "bit_length": width, "type": ty })
                }
            };
            let (name, anonymous) = match name {
                "" => (format!("unnamed_field_{index}"), true),
                name => (name.to_owned(), false),
            };
            let field = match anonymous {
                true => json!({ "offset": offset, "type": ty, "anonymous": true }),
                false => json!({ "offset": offset, "type": ty }),
            };
            fields.insert(name, field);
        }
        json!({ "kind": if record.is_union { "union" } else { "struct" }, "size": record.bytes, "fields": fields })
    }

    fn descriptor(&self, id: TypeId, depth: usize) -> Value {
        let below = depth.saturating_add(1);
        match self.types.resolve(id).filter(|_| depth < MAX_DEPTH) {
            Some(Type::Integer { bytes, signed, .. }) => base(integer_name(bytes, signed)),
            Some(Type::Pointer { target }) => {
                json!({ "kind": "pointer", "subtype": self.descriptor(target, below) })
            }
            Some(Type::Array { element, count }) => {
                json!({ "kind": "array", "count": count, "subtype": self.descriptor(element, below) })
            }
            Some(Type::Composite { record }) => {
                let is_union = self.types.records.get(record as usize).is_some_and(|record| record.is_union);
                let name = self.names.get(record as usize).map_or("void", String::as_str);
                json!({ "kind": if is_union { "union" } else { "struct" }, "name": name })
            }
            Some(Type::Alias(_) | Type::Opaque) | None => base("void"),
        }
    }
}

fn integer_name(bytes: u32, signed: bool) -> &'static str {
    match (bytes, signed) {
        (1, true) => "char",
        (1, false) => "unsigned char",
        (2, true) => "short",
        (2, false) => "unsigned short",
        (4, true) => "int",
        (4, false) => "unsigned int",
        (8, true) => "long",
        _ => "long unsigned int",
    }
}
