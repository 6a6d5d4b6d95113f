//! What `bpftool` calls types of programs, maps and links.
//!
//! Numbers: `enum bpf_prog_type`, `bpf_map_type`, `bpf_link_type` of `include/uapi/linux/bpf.h` (Linux 7.2).

use super::{BpfLink, BpfMap, BpfProgram};

impl BpfProgram {
    /// What `bpftool` calls its type.
    pub fn type_name(&self) -> &'static str {
        name(&PROGRAM_TYPES, self.program_type)
    }
}

impl BpfMap {
    /// What `bpftool` calls its type.
    pub fn type_name(&self) -> &'static str {
        name(&MAP_TYPES, self.map_type)
    }
}

impl BpfLink {
    /// What `bpftool` calls its type.
    pub fn type_name(&self) -> &'static str {
        name(&LINK_TYPES, self.link_type)
    }
}

fn name(names: &[&'static str], number: u32) -> &'static str {
    usize::try_from(number).ok().and_then(|number| names.get(number)).copied().unwrap_or("unknown")
}

const PROGRAM_TYPES: [&str; 33] = [
    "unspec",
    "socket_filter",
    "kprobe",
    "sched_cls",
    "sched_act",
    "tracepoint",
    "xdp",
    "perf_event",
    "cgroup_skb",
    "cgroup_sock",
    "lwt_in",
    "lwt_out",
    "lwt_xmit",
    "sock_ops",
    "sk_skb",
    "cgroup_device",
    "sk_msg",
    "raw_tracepoint",
    "cgroup_sock_addr",
    "lwt_seg6local",
    "lirc_mode2",
    "sk_reuseport",
    "flow_dissector",
    "cgroup_sysctl",
    "raw_tracepoint_writable",
    "cgroup_sockopt",
    "tracing",
    "struct_ops",
    "ext",
    "lsm",
    "sk_lookup",
    "syscall",
    "netfilter",
];

const MAP_TYPES: [&str; 36] = [
    "unspec",
    "hash",
    "array",
    "prog_array",
    "perf_event_array",
    "percpu_hash",
    "percpu_array",
    "stack_trace",
    "cgroup_array",
    "lru_hash",
    "lru_percpu_hash",
    "lpm_trie",
    "array_of_maps",
    "hash_of_maps",
    "devmap",
    "sockmap",
    "cpumap",
    "xskmap",
    "sockhash",
    "cgroup_storage",
    "reuseport_sockarray",
    "percpu_cgroup_storage",
    "queue",
    "stack",
    "sk_storage",
    "devmap_hash",
    "struct_ops",
    "ringbuf",
    "inode_storage",
    "task_storage",
    "bloom_filter",
    "user_ringbuf",
    "cgrp_storage",
    "arena",
    "insn_array",
    "rhash",
];

const LINK_TYPES: [&str; 16] = [
    "unspec",
    "raw_tracepoint",
    "tracing",
    "cgroup",
    "iter",
    "netns",
    "xdp",
    "perf_event",
    "kprobe_multi",
    "struct_ops",
    "netfilter",
    "tcx",
    "uprobe_multi",
    "netkit",
    "sockmap",
    "tracing_multi",
];
