//! Numbers and layouts of Xen's and its Linux driver's interfaces: what is written nowhere else in this folder.
//!
//! Sources: Xen `xen/include/public/{xen,domctl,sysctl,memory,version}.h`, `public/io/xs_wire.h`, `public/arch-x86/xen.h`,
//! branches stable-4.14 to stable-4.21; Linux `include/uapi/xen/privcmd.h`, 6.1. All for a 64-bit x86 caller.

/// `__HYPERVISOR_memory_op`.
pub(super) const MEMORY_OP: u64 = 12;
/// `__HYPERVISOR_xen_version`.
pub(super) const XEN_VERSION: u64 = 17;
/// `__HYPERVISOR_sysctl`.
pub(super) const SYSCTL: u64 = 35;
/// `__HYPERVISOR_domctl`.
pub(super) const DOMCTL: u64 = 36;

/// `XENVER_extraversion`, up to 16 bytes.
pub(super) const XENVER_EXTRAVERSION: u64 = 1;
/// `XENMEM_maximum_gpfn`, with a `domid_t`.
pub(super) const MAXIMUM_GPFN: u64 = 14;
/// `XENMEM_get_pod_target`, with a `struct xen_pod_target`: `pod_entries` at 24, `domid` at 32, 40 bytes.
pub(super) const GET_POD_TARGET: u64 = 17;

/// `XEN_SYSCTL_getdomaininfolist`.
pub(super) const GETDOMAININFOLIST: u32 = 6;
/// `XEN_DOMCTL_pausedomain`.
pub(super) const PAUSEDOMAIN: u32 = 3;
/// `XEN_DOMCTL_unpausedomain`.
pub(super) const UNPAUSEDOMAIN: u32 = 4;
/// `XEN_DOMCTL_getdomaininfo`.
pub(super) const GETDOMAININFO: u32 = 5;
/// `XEN_DOMCTL_getvcpucontext`: `vcpu` at 0, `ctxt` at 8 of the union. Of a PV domain a `vcpu_guest_context_t`.
pub(super) const GETVCPUCONTEXT: u32 = 13;
/// `XEN_DOMCTL_gethvmcontext_partial`: `type` at 0, `instance` at 4, `bufsz` at 8, `buffer` at 16 of the union.
pub(super) const GETHVMCONTEXT_PARTIAL: u32 = 55;
/// `XEN_DOMCTL_getpageframeinfo3`, 1,024 frames at most.
pub(super) const GETPAGEFRAMEINFO3: u32 = 61;
pub(super) const MAX_FRAMES_ASKED: usize = 1024;
/// `XEN_DOMCTL_PFINFO_LTAB_MASK` and, of what it leaves, `PFINFO_XTAB` and `PFINFO_BROKEN`: no page.
pub(super) const PFINFO_MASK: u64 = 0xf000_0000;
pub(super) const PFINFO_NONE: [u64; 2] = [0xf000_0000, 0xd000_0000];

/// `struct xen_domctl`: command, interface version, domain, then a union of 128 bytes.
pub(super) const DOMCTL_BYTES: usize = 16 + 128;
pub(super) const DOMCTL_UNION: usize = 16;
/// `struct xen_sysctl`: command, interface version, then a union of 128 bytes.
pub(super) const SYSCTL_BYTES: usize = 8 + 128;
pub(super) const SYSCTL_UNION: usize = 8;

/// `DOMID_FIRST_RESERVED`: above it are no domains.
pub(super) const FIRST_RESERVED: u16 = 0x7ff0;

/// A Xen release's interface versions, and the length of its `struct xen_domctl_getdomaininfo`, whose members before
/// `gpaddr_bits` lie where they always did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Abi {
    /// `XEN_DOMCTL_INTERFACE_VERSION`.
    pub(super) domctl: u32,
    /// `XEN_SYSCTL_INTERFACE_VERSION`.
    pub(super) sysctl: u32,
    /// Bytes of an entry of the list of domains.
    pub(super) info_bytes: usize,
}

/// Releases that this was written for, the newest first. A wrong version is answered with `EACCES`, so that it can be probed.
pub(super) const ABIS: [Abi; 7] = [
    // 4.21
    Abi { domctl: 0x17, sysctl: 0x16, info_bytes: 112 },
    // 4.19, 4.20
    Abi { domctl: 0x17, sysctl: 0x15, info_bytes: 112 },
    // 4.18
    Abi { domctl: 0x16, sysctl: 0x15, info_bytes: 112 },
    // 4.17
    Abi { domctl: 0x15, sysctl: 0x15, info_bytes: 112 },
    // 4.16
    Abi { domctl: 0x14, sysctl: 0x14, info_bytes: 112 },
    // 4.15
    Abi { domctl: 0x13, sysctl: 0x13, info_bytes: 104 },
    // 4.14
    Abi { domctl: 0x12, sysctl: 0x13, info_bytes: 104 },
];

/// `XEN_DOMINF_` flags.
pub(super) const DYING: u32 = 1;
pub(super) const HVM: u32 = 1 << 1;
pub(super) const SHUTDOWN: u32 = 1 << 2;
pub(super) const PAUSED: u32 = 1 << 3;

/// Members of `struct xen_domctl_getdomaininfo`.
pub(super) mod info {
    pub(crate) const DOMAIN: usize = 0;
    pub(crate) const FLAGS: usize = 4;
    pub(crate) const TOT_PAGES: usize = 8;
    pub(crate) const MAX_PAGES: usize = 16;
    pub(crate) const SHARED_INFO_FRAME: usize = 48;
    pub(crate) const NR_ONLINE_VCPUS: usize = 64;
    pub(crate) const MAX_VCPU_ID: usize = 68;
    pub(crate) const HANDLE: usize = 76;
}

/// `HVM_SAVE_CODE(CPU)`, and members of its `struct hvm_hw_cpu` (`public/arch-x86/hvm/save.h`).
pub(super) mod hvm_cpu {
    pub(crate) const CODE: u32 = 2;
    pub(crate) const BYTES: usize = 1032;
    pub(crate) const CR0: usize = 656;
    pub(crate) const CR3: usize = 672;
    pub(crate) const CR4: usize = 680;
    pub(crate) const IDTR_BASE: usize = 872;
    pub(crate) const SYSENTER_EIP: usize = 936;
    pub(crate) const MSR_LSTAR: usize = 960;
    pub(crate) const MSR_CSTAR: usize = 976;
}

/// Members of `struct vcpu_guest_context` (`public/arch-x86/xen.h`), of a 64-bit PV guest.
pub(super) mod pv_context {
    pub(crate) const BYTES: usize = 5168;
    /// 256 of `struct trap_info`: vector at 0, address at 8.
    pub(crate) const TRAPS: usize = 720;
    pub(crate) const TRAP_BYTES: usize = 16;
    pub(crate) const TRAP_COUNT: usize = 256;
    pub(crate) const EVENT_EIP: usize = 5112;
    pub(crate) const FAILSAFE_EIP: usize = 5120;
    pub(crate) const SYSCALL_EIP: usize = 5128;
}

/// `struct shared_info`, `arch` (`struct arch_shared_info`): `max_pfn`, `p2m_cr3`, `p2m_vaddr` of a PV guest.
pub(super) const MAX_PFN: usize = 3088;
pub(super) const P2M_CR3: usize = 3112;
pub(super) const P2M_VADDR: usize = 3120;
/// The two top bits of an entry of the p2m: invalid, foreign, identity (`INVALID_P2M_ENTRY`, `FOREIGN_FRAME_BIT`,
/// `IDENTITY_FRAME_BIT`, Linux `arch/x86/include/asm/xen/page.h`).
pub(super) const P2M_NOT_OURS: u64 = 3 << 62;

/// `IOCTL_PRIVCMD_HYPERCALL`: number and five arguments.
pub(super) const IOCTL_HYPERCALL: libc::c_ulong = 0x0030_5000;
/// `IOCTL_PRIVCMD_MMAPBATCH_V2`.
pub(super) const IOCTL_MMAPBATCH_V2: libc::c_ulong = 0x0020_5004;
/// `IOCTL_PRIVCMD_RESTRICT`, with a `domid_t`.
pub(super) const IOCTL_RESTRICT: libc::c_ulong = 0x0002_5006;

/// `struct privcmd_hypercall`.
#[repr(C)]
pub(super) struct Hypercall {
    pub(super) op: u64,
    pub(super) args: [u64; 5],
}

/// `struct privcmd_mmapbatch_v2`.
#[repr(C)]
pub(super) struct MmapBatch {
    pub(super) num: u32,
    pub(super) dom: u16,
    pub(super) padding: u16,
    pub(super) addr: u64,
    pub(super) frames: *const u64,
    pub(super) errors: *mut i32,
}

const _: () = assert!(size_of::<Hypercall>() == 48 && size_of::<MmapBatch>() == 32);
