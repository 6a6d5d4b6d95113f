//! Domains of the Xen hypervisor that this service domain looks after: PV, PVH and HVM.
//!
//! *Does*: lists them ([`list`]), maps their frames read-only ([`Xen`]), pauses them for a moment. Two handles: one asks Xen
//! (which domains, which frames, pause); the other is restricted to its one domain before the first byte of it is read,
//! and can do nothing but map it.
//! *Trusts*: Xen, the host kernel, the toolstack's part of XenStore. Nothing that the guest wrote.
//! *Never*: maps writable, sweeps frames that do not exist, keeps a destroyed domain's memory mapped once it is known to be gone.
//!
//! Needs dom0, or a domain that may map the others.
#![warn(clippy::indexing_slicing)]

mod abi;
mod control;
mod frames;
mod pause;
mod privcmd;
mod registers;
mod store;
#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests;
mod windows;

use crate::addr::PAGE_BYTES;
use crate::{Gfn, Gpa, GpaRange, GuestMemory, ReadError};
use abi::Abi;
use control::Info;
use frames::Frames;
use privcmd::{Hypervisor, Privcmd};
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::XenStore;
use windows::{Missing, Part, WINDOW_FRAMES, Windows};

/// Longest a guest stays paused, whatever becomes of this process.
const LEASE: Duration = Duration::from_secs(5);

/// A domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Domain {
    /// Its number, which changes when it reboots.
    pub id: u16,
    /// Its name, by the toolstack; `Domain-N` where it has none.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What it is.
    pub kind: DomainKind,
    /// RAM it has now, in bytes.
    pub memory_bytes: u64,
    /// Online virtual CPUs.
    pub vcpus: u32,
    /// What it does.
    pub state: DomainState,
    /// Its network interfaces.
    pub vifs: Vec<Vif>,
}

/// Kinds of domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainKind {
    /// Paravirtual: its page tables hold machine frames.
    Pv,
    /// With hardware support: PVH or HVM.
    Hvm,
}

/// What a domain does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainState {
    /// It runs, or waits for something to do.
    Running,
    /// Its admin, or a look, paused it.
    Paused,
    /// It shut down and is not yet gone.
    Shutdown,
    /// It is being destroyed.
    Dying,
}

/// A virtual network interface, as the toolstack set it up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vif {
    /// Its number in the domain; `vifID.N` is its other end in the host.
    pub number: u32,
    /// Its MAC address, as the toolstack wants it.
    pub mac: String,
    /// What the toolstack calls its other end instead, if anything.
    pub name: Option<String>,
    /// The addresses that the toolstack gives it: `ip=` of the domain's configuration.
    pub addresses: Vec<IpAddr>,
}

/// Some addresses with spaces between them, each perhaps with the length of a prefix (xl-network-configuration(5)). What is none is left out.
fn addresses(text: &str) -> Vec<IpAddr> {
    let address = |part: &str| part.split('/').next()?.parse().ok();
    text.split_whitespace().filter_map(address).collect()
}

/// Why a domain cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[error("domain {domain}: {why}")]
pub struct XenError {
    /// Its number.
    pub domain: u16,
    /// The reason.
    pub why: Why,
}

/// The reason.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// Xen, the kernel or XenStore refused.
    #[error("{what}: {why} (looking into domains takes root in dom0, or a domain that may map them)")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        why: io::Error,
    },
    /// No such domain, or it is being destroyed.
    #[error("there is no such domain, or it is being destroyed")]
    Gone,
    /// This domain itself.
    #[error("that is the domain that looks")]
    Ourselves,
    /// Some of its RAM exists only once it is touched.
    #[error(
        "{frames} frames are populated on demand: to touch them would use up memory that the guest needs. Wait until its balloon driver has given them back, or start it with memory = maxmem"
    )]
    OnDemand {
        /// How many.
        frames: u64,
    },
    /// The kernel of a PV domain says where its frames are, and does not.
    #[error("its list of frames (p2m) cannot be used: {what}")]
    P2m {
        /// What is wrong.
        what: &'static str,
    },
    /// The handle that reads guest bytes could not be confined.
    #[error(
        "this kernel cannot restrict a privcmd handle to one domain ({0}): whoever took over the reading process could map every domain. Allow it with --allow-unrestricted"
    )]
    Unrestricted(io::Error),
    /// A PV domain needs Xen's own answers.
    #[error("a PV domain can be looked into only from a domain that may use domctl")]
    NeedsControl,
}

impl XenError {
    fn of(domain: u16, why: Why) -> XenError {
        XenError { domain, why }
    }
}

/// Whether this host runs under Xen and has the devices to look into domains.
pub fn is_here() -> bool {
    std::path::Path::new("/dev/xen/privcmd").exists()
}

/// Xen's release, `4.17.6`.
pub fn release() -> io::Result<String> {
    control::release(&Privcmd::open()?)
}

/// The domains of this host but dom0 and the one that looks, by number. Where Xen may not be asked, those that XenStore names.
pub fn list() -> io::Result<Vec<Domain>> {
    let xen = Privcmd::open()?;
    let mut store = XenStore::connect().ok();
    let own = own_id(store.as_mut());
    let infos = match control::probe(&xen)? {
        Some(abi) => control::list(&xen, abi)?,
        None => named(store.as_mut())?,
    };
    let infos = infos.into_iter().filter(|info| info.id != 0 && Some(info.id) != own);
    Ok(infos.map(|info| describe(&info, store.as_mut())).collect())
}

/// Tells when domains come and go.
pub struct Changes(XenStore);

impl Changes {
    /// Asks XenStore to tell.
    pub fn open() -> io::Result<Changes> {
        let mut store = XenStore::connect_patiently()?;
        store.watch("@introduceDomain")?;
        store.watch("@releaseDomain")?;
        Ok(Changes(store))
    }

    /// Waits until one has come or gone, or might have: the first time at once.
    pub fn wait(&mut self) -> io::Result<()> {
        self.0.wait()
    }
}

/// Domains as XenStore knows them: their numbers, and nothing else.
fn named(store: Option<&mut XenStore>) -> io::Result<Vec<Info>> {
    let Some(store) = store else { return Err(io::Error::from_raw_os_error(libc::EPERM)) };
    let ids = store.list("/local/domain")?;
    Ok(ids.iter().filter_map(|id| id.parse().ok()).map(Info::unknown).collect())
}

/// The file that the toolstack booted a domain from, where it says so: of a guest that boots from its own disk it does not.
pub fn kernel_file(id: u16) -> Option<PathBuf> {
    let mut store = XenStore::connect().ok()?;
    let about = store.read(&format!("/local/domain/{id}/vm")).ok()??;
    let path = store.read(&format!("{about}/image/kernel")).ok()??;
    Some(PathBuf::from(path)).filter(|path| path.is_absolute())
}

fn own_id(store: Option<&mut XenStore>) -> Option<u16> {
    store?.read("domid").ok()??.trim().parse().ok()
}

fn describe(info: &Info, store: Option<&mut XenStore>) -> Domain {
    let (mut name, mut vifs) = (None, Vec::new());
    if let Some(store) = store {
        let base = format!("/local/domain/{}", info.id);
        name = store.read(&format!("{base}/name")).ok().flatten().filter(|name| !name.is_empty());
        let numbers = store.list(&format!("{base}/device/vif")).unwrap_or_default();
        for number in numbers.iter().filter_map(|number| number.parse().ok()) {
            // The host's end holds what the toolstack wants; the guest may write its own.
            let backend = store.read(&format!("{base}/device/vif/{number}/backend")).ok().flatten();
            let mut of_backend = |node: &str| {
                let value = store.read(&format!("{}/{node}", backend.as_deref()?)).ok().flatten();
                value.filter(|value| !value.is_empty())
            };
            let (mac, name) = (of_backend("mac").unwrap_or_default(), of_backend("vifname"));
            vifs.push(Vif { number, mac, name, addresses: addresses(&of_backend("ip").unwrap_or_default()) });
        }
    }
    Domain {
        id: info.id,
        name: name.unwrap_or_else(|| format!("Domain-{}", info.id)),
        uuid: uuid(&info.uuid),
        kind: if info.is(abi::HVM) { DomainKind::Hvm } else { DomainKind::Pv },
        memory_bytes: info.pages.saturating_mul(PAGE_BYTES),
        vcpus: info.vcpus,
        state: state(info),
        vifs,
    }
}

fn state(info: &Info) -> DomainState {
    if info.is(abi::DYING) {
        DomainState::Dying
    } else if info.is(abi::SHUTDOWN) {
        DomainState::Shutdown
    } else if info.is(abi::PAUSED) {
        DomainState::Paused
    } else {
        DomainState::Running
    }
}

fn uuid(bytes: &[u8; 16]) -> String {
    bytes.iter().enumerate().fold(String::new(), |mut text, (index, byte)| {
        let dash = if [4, 6, 8, 10].contains(&index) { "-" } else { "" };
        let _ = write!(text, "{dash}{byte:02x}");
        text
    })
}

/// A domain that is looked into.
pub struct Xen {
    domain: Domain,
    /// Asks Xen; `None` where that is not allowed.
    control: Option<(Arc<Privcmd>, Abi)>,
    /// Whether `reader` maps this one domain and can do nothing else.
    restricted: bool,
    reader: Box<dyn Hypervisor>,
    /// Of a PV domain whose own list of frames was not read yet.
    unread: Option<Info>,
    frames: Frames,
    windows: Windows,
}

impl std::fmt::Debug for Xen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Xen").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl Xen {
    /// Opens a domain and finds out where its RAM is.
    ///
    /// Where the kernel cannot restrict a handle to one domain this is refused, unless `allow_unrestricted`.
    pub fn open(domain: u16, allow_unrestricted: bool) -> Result<Xen, XenError> {
        let mut xen = Xen::open_unread(domain, allow_unrestricted)?;
        xen.learn()?;
        Ok(xen)
    }

    /// Opens a domain and reads no byte of it. All rights are needed here and none for reading, so that a worker can open and then
    /// lock itself down. There is no memory until [`Xen::learn`] was called.
    pub fn open_unread(domain: u16, allow_unrestricted: bool) -> Result<Xen, XenError> {
        let host = |what| move |why: io::Error| XenError::of(domain, Why::Host { what, why });
        let control = Privcmd::open().map_err(host("/dev/xen/privcmd"))?;
        let abi = control::probe(&control).map_err(host("interface version of Xen"))?;
        let mut store = XenStore::connect().ok();
        if domain == 0 || own_id(store.as_mut()) == Some(domain) {
            return Err(XenError::of(domain, Why::Ourselves));
        }
        let info = match abi {
            Some(abi) => Some(info_of(&control, abi, domain)?),
            None => None,
        };
        // Before the first byte of the guest.
        let reader = Privcmd::open().map_err(host("/dev/xen/privcmd"))?;
        let restricted = judge(reader.restrict(domain), allow_unrestricted);
        let restricted = restricted.map_err(|why| XenError::of(domain, why))?;
        let frames = match (&info, abi) {
            (Some(info), Some(abi)) if info.is(abi::HVM) => Some(Frames::of_hvm(&control, abi, info)?),
            // The guest's own list is the guest's to write.
            (Some(_), _) => None,
            (None, _) => Some(Frames::by_trying(&reader, domain)?),
        };
        let domain = describe(info.as_ref().unwrap_or(&Info::unknown(domain)), store.as_mut());
        let control = abi.map(|abi| (Arc::new(control), abi));
        let (windows, unread) = (Windows::default(), info.filter(|_| frames.is_none()));
        let (reader, frames) = (Box::new(reader), frames.unwrap_or_default());
        Ok(Xen { domain, control, restricted, reader, unread, frames, windows })
    }

    /// Reads what only the domain's memory tells: of a PV domain its list of frames. Needs the handle that maps, and no rights.
    pub fn learn(&mut self) -> Result<(), XenError> {
        if let Some(info) = self.unread.take() {
            self.frames = Frames::of_pv(&*self.reader, &info)?;
        }
        Ok(())
    }

    /// What it is.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether it can be paused from here.
    pub fn can_pause(&self) -> bool {
        self.control.is_some()
    }

    /// Whether the handle that reads the domain can do nothing else.
    pub fn is_restricted(&self) -> bool {
        self.restricted
    }

    /// How many windows were mapped so far: nothing else of a look asks Xen for anything.
    pub fn windows_mapped(&self) -> u64 {
        self.windows.made()
    }

    /// Gives up the handle that asks Xen: what is left can read this one domain, and not pause it.
    pub fn confine(&mut self) {
        self.control = None;
    }

    /// Whether the domain is still there, as far as Xen may be asked.
    fn check_alive(&self) -> io::Result<()> {
        match &self.control {
            Some((control, abi)) => match info_of(&**control, *abi, self.domain.id) {
                Ok(_) => Ok(()),
                Err(error) => Err(io::Error::other(error.why.to_string())),
            },
            None => Ok(()),
        }
    }

    fn part(&self, number: u64) -> io::Result<Arc<Part>> {
        self.windows.get(number, || {
            self.check_alive()?;
            let first = number.saturating_mul(WINDOW_FRAMES);
            let frames = (first..first.saturating_add(WINDOW_FRAMES)).map(|frame| {
                let at = Gfn(frame).gpa()?;
                let here = self.frames.ranges.partition_point(|range| range.start <= at).checked_sub(1)?;
                self.frames.ranges.get(here).filter(|range| range.contains(at, PAGE_BYTES))?;
                self.frames.to_map(frame)
            });
            Part::new(frames, |frames| self.reader.map(self.domain.id, frames))
        })
    }

    /// Bytes that lie in one window.
    fn read_part(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let part = self.part(at.gfn().0 / WINDOW_FRAMES);
        let part = part.map_err(|why| ReadError::Lost { at, why: format!("Xen: {why}") })?;
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let (now, later) = split(rest, PAGE_BYTES - at.page_offset());
            let copied = part.copy_out(at.gfn().0 % WINDOW_FRAMES, at.page_offset() as usize, now);
            copied.map_err(|missing| match missing {
                Missing::NotRam => ReadError::NotRam { at, len_bytes: now.len() as u64 },
                Missing::Absent => ReadError::Absent { at },
            })?;
            at = Gpa(at.0.saturating_add(now.len() as u64));
            rest = later;
        }
        Ok(())
    }
}

/// The first `room` bytes, and the rest.
fn split(buf: &mut [u8], room: u64) -> (&mut [u8], &mut [u8]) {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(buf.len());
    buf.split_at_mut(room)
}

/// Whether a handle was restricted; that it was not is an error unless that is allowed.
fn judge(restricted: io::Result<()>, allow_unrestricted: bool) -> Result<bool, Why> {
    match restricted {
        Ok(()) => Ok(true),
        Err(_) if allow_unrestricted => Ok(false),
        Err(why) => Err(Why::Unrestricted(why)),
    }
}

/// A domain that lives.
fn info_of(xen: &dyn Hypervisor, abi: Abi, domain: u16) -> Result<Info, XenError> {
    match control::info_of(xen, abi, domain) {
        Ok(info) if info.is(abi::DYING) => Err(XenError::of(domain, Why::Gone)),
        Ok(info) => Ok(info),
        Err(why) if why.raw_os_error() == Some(libc::ESRCH) => Err(XenError::of(domain, Why::Gone)),
        Err(why) => Err(XenError::of(domain, Why::Host { what: "domain information", why })),
    }
}

impl GuestMemory for Xen {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let window = WINDOW_FRAMES * PAGE_BYTES;
            let (now, later) = split(rest, window - at.0 % window);
            self.read_part(at, now)?;
            at = Gpa(at.0.saturating_add(now.len() as u64));
            rest = later;
        }
        Ok(())
    }

    fn ram(&self) -> &[GpaRange] {
        &self.frames.ranges
    }

    fn frame_of_entry(&self, entry_frame: u64) -> Option<Gfn> {
        self.frames.of_entry(entry_frame)
    }
}
