//! Which frames a domain has, learned and never guessed.
//!
//! HVM and PVH: guest frames, asked of Xen in batches. PV: machine frames, from the domain's own p2m list, which its kernel
//! registers with Xen.
//!
//! *Trusts*: nothing that a PV guest writes: its list is bounded, and a machine frame that is not its own is not mapped by Xen.
//! *Never*: sweeps a domain that is populated on demand, which would use up memory that the guest needs.

use super::abi::{self, Abi};
use super::control::{self, Info};
use super::privcmd::Hypervisor;
use super::{Why, XenError};
use crate::addr::PAGE_BYTES;
use crate::paging::{Mode, Root};
use crate::{AddressSpace, Gfn, Gpa, GpaRange, GuestMemory, Gva, ReadError};
use std::cell::RefCell;

/// A terabyte of RAM.
const MAX_FRAMES: u64 = 1 << 28;
/// Without the right to ask, one frame in so many is tried to see whether its neighbours may be there.
const STEP: u64 = 512;

/// A domain's frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Where RAM is, by guest frames.
    pub(super) ranges: Vec<GpaRange>,
    /// Of a PV domain: the machine frame of each guest frame, `u64::MAX` for none.
    machine: Option<Vec<u64>>,
    /// The same the other way round, by machine frame.
    guest: Vec<(u64, u64)>,
}

impl Frames {
    /// The number by which Xen maps a guest frame.
    pub(super) fn to_map(&self, frame: u64) -> Option<u64> {
        match &self.machine {
            None => Some(frame),
            Some(machine) => {
                machine.get(usize::try_from(frame).ok()?).copied().filter(|machine| *machine != u64::MAX)
            }
        }
    }

    /// The guest frame that a page-table entry names.
    pub(super) fn of_entry(&self, entry: u64) -> Option<Gfn> {
        if self.machine.is_none() {
            return Some(Gfn(entry));
        }
        let index = self.guest.binary_search_by_key(&entry, |(machine, _)| *machine).ok()?;
        self.guest.get(index).map(|(_, guest)| Gfn(*guest))
    }

    /// Frames of an HVM or PVH domain.
    pub(super) fn of_hvm(xen: &dyn Hypervisor, abi: Abi, info: &Info) -> Result<Frames, XenError> {
        let failed = |what| move |why| XenError::of(info.id, Why::Host { what, why });
        let on_demand = control::on_demand(xen, info.id).map_err(failed("populate-on-demand state"))?;
        if on_demand > 0 {
            return Err(XenError::of(info.id, Why::OnDemand { frames: on_demand }));
        }
        let last = control::maximum_gpfn(xen, info.id).map_err(failed("highest frame"))?.min(MAX_FRAMES);
        let mut frames = Frames::default();
        let mut first = 0;
        while first <= last {
            let count = (last - first + 1).min(abi::MAX_FRAMES_ASKED as u64);
            let asked: Vec<u64> = (first..first + count).collect();
            let there = control::populated(xen, abi, info.id, &asked).map_err(failed("frames"))?;
            asked.iter().zip(there).filter(|(_, there)| *there).for_each(|(frame, _)| frames.push(*frame));
            first += count;
        }
        Ok(frames)
    }

    /// The same where only mapping is allowed: a frame is there if it can be mapped.
    pub(super) fn by_trying(xen: &dyn Hypervisor, domain: u16) -> Result<Frames, XenError> {
        let failed = |why| XenError::of(domain, Why::Host { what: "frames", why });
        // Where RAM of a guest can lie: below the hole, and from 4 GiB up to the first GiB without any.
        const FOUR_GIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 18;
        let mut frames = Frames::default();
        let (mut first, mut misses) = (0, 0);
        while first < MAX_FRAMES && (first < FOUR_GIB || misses < GIB / STEP) {
            let there = xen.map(domain, &[first]).map_err(failed)?.error(0).is_none();
            if there {
                misses = 0;
                let asked: Vec<u64> = (first..first + STEP).collect();
                let window = xen.map(domain, &asked).map_err(failed)?;
                let found = asked.iter().enumerate().filter(|(index, _)| window.error(*index).is_none());
                found.for_each(|(_, frame)| frames.push(*frame));
            } else {
                misses += 1;
            }
            first += STEP;
        }
        Ok(frames)
    }

    /// Frames of a PV domain.
    pub(super) fn of_pv(xen: &dyn Hypervisor, info: &Info) -> Result<Frames, XenError> {
        let bad = |what| XenError::of(info.id, Why::P2m { what });
        let machine = MachineMemory::new(xen, info.id);
        let mut page = [0; PAGE_BYTES as usize];
        let at = Gfn(info.shared_info_frame).gpa().ok_or_else(|| bad("no shared info frame"))?;
        machine.read(at, &mut page).map_err(|_| bad("the shared info frame cannot be mapped"))?;
        let word = |at: usize| {
            page.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |part| u64::from_le_bytes(*part))
        };
        let (count, root, list) = (word(abi::MAX_PFN), word(abi::P2M_CR3), word(abi::P2M_VADDR));
        if root == 0 || list == 0 {
            return Err(bad("the kernel registers no linear p2m list (it does from Linux 4.0 on)"));
        }
        if count > MAX_FRAMES {
            return Err(bad("the p2m list is longer than any domain's"));
        }
        let root = Root { table: Gpa(root & !(PAGE_BYTES - 1)), mode: Mode::FourLevel };
        let space = AddressSpace::new(&machine, root);
        let mut frames = Frames { machine: Some(vec![u64::MAX; count as usize]), ..Frames::default() };
        for first in (0..count).step_by(512) {
            let at = Gva(list.wrapping_add(first * 8));
            let entries = (count - first).min(512);
            let Some(part) = page.get_mut(..entries as usize * 8) else { continue };
            // A part of the list that is not mapped has no frames.
            if space.read(at, part).is_err() {
                continue;
            }
            for (frame, entry) in (first..).zip(part.chunks_exact(8)) {
                let entry = entry.first_chunk().map_or(u64::MAX, |part| u64::from_le_bytes(*part));
                if entry & abi::P2M_NOT_OURS == 0 {
                    frames.push_machine(frame, entry);
                }
            }
        }
        frames.guest.sort_unstable();
        Ok(frames)
    }

    fn push_machine(&mut self, frame: u64, machine: u64) {
        let place = usize::try_from(frame).ok().and_then(|index| self.machine.as_mut()?.get_mut(index));
        if let Some(place) = place {
            *place = machine;
            self.guest.push((machine, frame));
            self.push(frame);
        }
    }

    /// Frames come in ascending order.
    fn push(&mut self, frame: u64) {
        let start = Gpa(frame.saturating_mul(PAGE_BYTES));
        match self.ranges.last_mut() {
            Some(last) if last.end() == start => last.len_bytes = last.len_bytes.saturating_add(PAGE_BYTES),
            _ => self.ranges.push(GpaRange { start, len_bytes: PAGE_BYTES }),
        }
    }
}

/// A PV domain's memory by machine frames, for the walk to its p2m list. Keeps the last few frames: the walk goes in order.
struct MachineMemory<'a> {
    xen: &'a dyn Hypervisor,
    domain: u16,
    ranges: [GpaRange; 1],
    kept: RefCell<Vec<(u64, Box<dyn super::privcmd::Window>)>>,
}

impl<'a> MachineMemory<'a> {
    /// Four levels of tables and the list itself.
    const KEPT: usize = 8;

    fn new(xen: &'a dyn Hypervisor, domain: u16) -> Self {
        let ranges = [GpaRange { start: Gpa(0), len_bytes: 1 << 52 }];
        MachineMemory { xen, domain, ranges, kept: RefCell::default() }
    }
}

impl GuestMemory for MachineMemory<'_> {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let (frame, offset) = (at.gfn().0, at.page_offset() as usize);
        if offset.checked_add(buf.len()).is_none_or(|end| end > PAGE_BYTES as usize) {
            return Err(ReadError::NotRam { at, len_bytes: buf.len() as u64 });
        }
        let mut kept = self.kept.borrow_mut();
        if !kept.iter().any(|(known, _)| *known == frame) {
            let window = self.xen.map(self.domain, &[frame]);
            let window = window.map_err(|why| ReadError::Lost { at, why: why.to_string() })?;
            if window.error(0).is_some() {
                return Err(ReadError::Absent { at });
            }
            if kept.len() == Self::KEPT {
                kept.remove(0);
            }
            kept.push((frame, window));
        }
        if let Some((_, window)) = kept.iter().find(|(known, _)| *known == frame) {
            window.copy_out(0, offset, buf);
        }
        Ok(())
    }

    fn ram(&self) -> &[GpaRange] {
        &self.ranges
    }
}
