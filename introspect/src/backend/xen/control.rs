//! What is asked of Xen itself: its version, its domains, pausing.
//!
//! *Trusts*: Xen. *Never*: guesses an interface version: the table of releases is probed, and a release that is in none of it
//! is an error that says so.

use super::abi::{self, ABIS, Abi, info};
use super::privcmd::Hypervisor;
use std::io;

/// A domain, as Xen knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Info {
    pub(super) id: u16,
    pub(super) flags: u32,
    pub(super) pages: u64,
    pub(super) max_pages: u64,
    pub(super) shared_info_frame: u64,
    pub(super) vcpus: u32,
    pub(super) max_vcpu: u32,
    pub(super) uuid: [u8; 16],
}

impl Info {
    /// A domain that Xen may not be asked about: taken for PVH or HVM, for others cannot be looked into then.
    pub(super) fn unknown(id: u16) -> Info {
        Info {
            id,
            flags: abi::HVM,
            pages: 0,
            max_pages: 0,
            shared_info_frame: 0,
            vcpus: 0,
            max_vcpu: 0,
            uuid: [0; 16],
        }
    }

    pub(super) fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    fn read(bytes: &[u8]) -> Option<Info> {
        let long = |at: usize| bytes.get(at..)?.first_chunk().map(|part| u64::from_le_bytes(*part));
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|part| u32::from_le_bytes(*part));
        Some(Info {
            id: u16::try_from(word(info::DOMAIN)? & 0xffff).ok()?,
            flags: word(info::FLAGS)?,
            pages: long(info::TOT_PAGES)?,
            max_pages: long(info::MAX_PAGES)?,
            shared_info_frame: long(info::SHARED_INFO_FRAME)?,
            vcpus: word(info::NR_ONLINE_VCPUS)?,
            max_vcpu: word(info::MAX_VCPU_ID)?,
            uuid: *bytes.get(info::HANDLE..)?.first_chunk()?,
        })
    }
}

/// Xen's release: `4.17.6-pre`.
pub(super) fn release(xen: &dyn Hypervisor) -> io::Result<String> {
    let version = xen.call(abi::XEN_VERSION, Some(0), &mut [0; 8], None)?;
    let mut extra = [0u8; 16];
    xen.call(abi::XEN_VERSION, Some(abi::XENVER_EXTRAVERSION), &mut extra, None)?;
    let extra = extra.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(format!("{}.{}{}", version >> 16, version & 0xffff, String::from_utf8_lossy(extra)))
}

/// The interface versions of the Xen that runs here. `None` where this domain may not ask: under a mandatory policy, or in a
/// domain without privilege; mapping may be allowed nevertheless.
pub(super) fn probe(xen: &dyn Hypervisor) -> io::Result<Option<Abi>> {
    let mut last = None;
    for abi in ABIS {
        match list_from(xen, abi, 0, 1).and_then(|_| info_of(xen, abi, 0)) {
            Ok(_) => return Ok(Some(abi)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EACCES) => last = Some(error),
                Some(libc::EPERM | libc::ESRCH) => return Ok(None),
                _ => return Err(error),
            },
        }
    }
    Err(last.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOSYS)))
}

/// All domains, dom0 too.
pub(super) fn list(xen: &dyn Hypervisor, abi: Abi) -> io::Result<Vec<Info>> {
    /// Domains asked for at once.
    const COUNT: usize = 128;
    let mut all: Vec<Info> = Vec::new();
    let mut first = 0;
    loop {
        let some = list_from(xen, abi, first, COUNT)?;
        let full = some.len() == COUNT;
        let next = some.last().map(|last| last.id.saturating_add(1));
        all.extend(some);
        match next {
            Some(next) if full && next > first && next < abi::FIRST_RESERVED => first = next,
            _ => return Ok(all),
        }
    }
}

fn list_from(xen: &dyn Hypervisor, abi: Abi, first: u16, count: usize) -> io::Result<Vec<Info>> {
    let mut sysctl = [0; abi::SYSCTL_BYTES];
    put(&mut sysctl, 0, &abi::GETDOMAININFOLIST.to_le_bytes());
    put(&mut sysctl, 4, &abi.sysctl.to_le_bytes());
    // struct xen_sysctl_getdomaininfolist: first_domain at 0, max_domains at 4, buffer at 8, num_domains at 16.
    put(&mut sysctl, abi::SYSCTL_UNION, &first.to_le_bytes());
    put(&mut sysctl, abi::SYSCTL_UNION + 4, &(count as u32).to_le_bytes());
    let mut infos = vec![0; abi.info_bytes * count];
    xen.call(abi::SYSCTL, None, &mut sysctl, Some((abi::SYSCTL_UNION + 8, &mut infos)))?;
    let found = sysctl.get(abi::SYSCTL_UNION + 16..).and_then(|rest| rest.first_chunk()).copied();
    let found = found.map_or(0, u32::from_le_bytes) as usize;
    Ok(infos.chunks_exact(abi.info_bytes).take(found).filter_map(Info::read).collect())
}

/// One domain; `ESRCH` if there is none of that number.
pub(super) fn info_of(xen: &dyn Hypervisor, abi: Abi, domain: u16) -> io::Result<Info> {
    let mut domctl = domctl(abi, abi::GETDOMAININFO, domain);
    xen.call(abi::DOMCTL, None, &mut domctl, None)?;
    let info = domctl.get(abi::DOMCTL_UNION..).and_then(Info::read);
    // Before 4.17 the next domain is told where there is none.
    info.filter(|info| info.id == domain).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// Stops or starts a domain's virtual CPUs. Xen counts: each pause wants its unpause.
pub(super) fn pause(xen: &dyn Hypervisor, abi: Abi, domain: u16, stop: bool) -> io::Result<()> {
    let command = if stop { abi::PAUSEDOMAIN } else { abi::UNPAUSEDOMAIN };
    xen.call(abi::DOMCTL, None, &mut domctl(abi, command, domain), None).map(drop)
}

/// Which of these guest frames hold a page. At most [`abi::MAX_FRAMES_ASKED`] of them.
pub(super) fn populated(
    xen: &dyn Hypervisor,
    abi: Abi,
    domain: u16,
    frames: &[u64],
) -> io::Result<Vec<bool>> {
    let mut domctl = domctl(abi, abi::GETPAGEFRAMEINFO3, domain);
    // struct xen_domctl_getpageframeinfo3: num at 0, array at 8.
    put(&mut domctl, abi::DOMCTL_UNION, &(frames.len() as u64).to_le_bytes());
    let mut array: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
    xen.call(abi::DOMCTL, None, &mut domctl, Some((abi::DOMCTL_UNION + 8, &mut array)))?;
    let kind = |part: &[u8]| part.first_chunk().map_or(u64::MAX, |part| u64::from_le_bytes(*part));
    Ok(array
        .chunks_exact(8)
        .map(|part| !abi::PFINFO_NONE.contains(&(kind(part) & abi::PFINFO_MASK)))
        .collect())
}

/// A PVH or HVM domain's saved state of one kind and instance.
pub(super) fn hvm_context(
    xen: &dyn Hypervisor,
    abi: Abi,
    domain: u16,
    kind: u32,
    instance: u32,
    record: &mut [u8],
) -> io::Result<()> {
    let mut domctl = domctl(abi, abi::GETHVMCONTEXT_PARTIAL, domain);
    put(&mut domctl, abi::DOMCTL_UNION, &kind.to_le_bytes());
    put(&mut domctl, abi::DOMCTL_UNION + 4, &instance.to_le_bytes());
    put(&mut domctl, abi::DOMCTL_UNION + 8, &(record.len() as u64).to_le_bytes());
    xen.call(abi::DOMCTL, None, &mut domctl, Some((abi::DOMCTL_UNION + 16, record))).map(drop)
}

/// A PV domain's processor.
pub(super) fn vcpu_context(
    xen: &dyn Hypervisor,
    abi: Abi,
    domain: u16,
    number: u32,
    context: &mut [u8],
) -> io::Result<()> {
    let mut domctl = domctl(abi, abi::GETVCPUCONTEXT, domain);
    put(&mut domctl, abi::DOMCTL_UNION, &number.to_le_bytes());
    xen.call(abi::DOMCTL, None, &mut domctl, Some((abi::DOMCTL_UNION + 8, context))).map(drop)
}

/// The highest guest frame that an HVM or PVH domain may have.
pub(super) fn maximum_gpfn(xen: &dyn Hypervisor, domain: u16) -> io::Result<u64> {
    let mut arg = [0; 8];
    put(&mut arg, 0, &domain.to_le_bytes());
    xen.call(abi::MEMORY_OP, Some(abi::MAXIMUM_GPFN), &mut arg, None)
}

/// Frames that exist only once they are touched (populate on demand): touching them from here uses up what the guest has left.
pub(super) fn on_demand(xen: &dyn Hypervisor, domain: u16) -> io::Result<u64> {
    let mut arg = [0; 40];
    put(&mut arg, 32, &domain.to_le_bytes());
    xen.call(abi::MEMORY_OP, Some(abi::GET_POD_TARGET), &mut arg, None)?;
    Ok(arg.get(24..).and_then(|rest| rest.first_chunk()).map_or(0, |part| u64::from_le_bytes(*part)))
}

/// A domain control structure without its union.
pub(super) fn domctl(abi: Abi, command: u32, domain: u16) -> [u8; abi::DOMCTL_BYTES] {
    let mut domctl = [0; abi::DOMCTL_BYTES];
    put(&mut domctl, 0, &command.to_le_bytes());
    put(&mut domctl, 4, &abi.domctl.to_le_bytes());
    put(&mut domctl, 8, &domain.to_le_bytes());
    domctl
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())) {
        place.copy_from_slice(value);
    }
}
